//! What a RISC-V virtual machine *is*: its memory map, its device tree, its platform-level interrupt controller and
//! its SBI, as pure state machines. Nothing here makes a system call, reads a clock, touches a CSR or keeps a global:
//! the same code serves a KVM process and a bare-metal hypervisor, and its tests run on any host.
//!
//! | module | what it holds |
//! |---|---|
//! | [`addr`] | guest-physical and host-physical addresses, as different types |
//! | [`layout`] | where everything is: one constant per region, the map drawn above them |
//! | [`instruction`] | loads and stores that fault, decoded |
//! | [`isa`] | the ISA extensions of a hart, in canonical order |
//! | [`format`] | what a file is, by its first bytes |
//! | [`kernel`] | kernel files: where in memory one goes |
//! | [`machine`] | one machine, described once |
//! | [`devicetree`] | that description as a flattened device tree |
//! | [`plic`] | the platform-level interrupt controller |
//! | [`rtc`] | the real-time clock's registers |
//! | [`sbi`] | the SBI calls that reach the hypervisor: all of them on the bare machine, few under KVM |
//! | [`test_device`] | the test device's register |
//! | [`uart`] | the serial port's registers |
//! | [`virtio_mmio`] | what a virtio-mmio slot without a device reads as |

#![no_std]
// Guests choose offsets, lengths and identifiers, so every access to a slice has to say what happens when it misses.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

pub mod addr;
pub mod devicetree;
pub mod format;
pub mod instruction;
pub mod isa;
pub mod kernel;
pub mod layout;
pub mod machine;
pub mod plic;
pub mod rtc;
pub mod sbi;
pub mod test_device;
pub mod uart;
pub mod virtio_mmio;
