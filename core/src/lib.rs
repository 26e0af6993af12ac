//! The model of a RISC-V virtual machine: memory map, device tree, platform-level interrupt controller and SBI, as pure
//! state machines. This crate makes no system call, reads no clock, accesses no CSR and has no global state. A KVM process
//! and a bare-metal hypervisor use the same code, and its tests run on any host.
//!
//! | module | what it holds |
//! |---|---|
//! | [`addr`] | guest-physical and host-physical addresses, as different types |
//! | [`bus`] | which device answers at which address |
//! | [`layout`] | the memory map: one constant per region, and a drawing |
//! | [`ending`] | the ways in which a guest ends its run |
//! | [`instruction`] | decoding of loads and stores that fault |
//! | [`isa`] | the ISA extensions of a hart, in canonical order |
//! | [`mod@format`] | file formats, recognized by their first bytes |
//! | [`kernel`] | kernel files: formats and placement in memory |
//! | [`machine`] | the description of one machine |
//! | [`node`] | what the device tree says of a device: each kind's own word |
//! | [`board`] | the devices that every machine has |
//! | [`devicetree`] | the machine as a flattened device tree |
//! | [`placement`] | where initrd and device tree lie in a guest's RAM |
//! | [`plic`] | the platform-level interrupt controller |
//! | [`rtc`] | the real-time clock's registers |
//! | [`sbi`] | the SBI calls that reach the hypervisor: all of them on the bare machine, few under KVM |
//! | [`test_device`] | the test device's register |
//! | [`trap`] | a trap into S-mode, as values |
//! | [`uart`] | the serial port's registers |
//! | [`virtio_mmio`] | the registers of a virtio-mmio slot without a device |

#![no_std]
// Guests choose offsets, lengths and identifiers, so every access to a slice has to say what happens when it misses.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

pub mod addr;
pub mod board;
pub mod bus;
pub mod devicetree;
pub mod ending;
pub mod format;
pub mod instruction;
pub mod isa;
pub mod kernel;
pub mod layout;
mod little_endian;
pub mod machine;
pub mod node;
pub mod placement;
pub mod plic;
pub mod rtc;
pub mod sbi;
pub mod test_device;
pub mod trap;
pub mod uart;
pub mod virtio_mmio;
