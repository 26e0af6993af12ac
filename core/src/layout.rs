//! The memory map and the interrupt numbers, which are those of QEMU's `virt` board because that is the board every
//! RISC-V guest system is written for (QEMU: `hw/riscv/virt.c`, `include/hw/riscv/virt.h`).
//!
//! ```text
//! guest-physical
//! 0x0000_0000  +------------------------------+
//!              | nothing                      |
//! 0x0010_0000  +------------------------------+ TEST_DEVICE_BASE
//!              | test device (sifive_test)    |
//! 0x0010_1000  +------------------------------+ RTC_BASE
//!              | goldfish real-time clock     |
//! 0x0010_2000  +------------------------------+
//!              | nothing (CLINT: M-mode only) |
//! 0x0400_0000  +------------------------------+ PLATFORM_BASE
//!              | devices of the program's own |
//! 0x0600_0000  +------------------------------+
//!              | nothing                      |
//! 0x0c00_0000  +------------------------------+ PLIC_BASE
//!              | PLIC, up to 0x1000_0000      |  one of the two
//! 0x0d00_0000  | - - - - - - - - - - - - - -  | APLIC_BASE
//!              | APLIC, supervisor domain     |  interrupt chips
//! 0x1000_0000  +------------------------------+ UART_BASE
//!              | UART, 16550A                 |
//! 0x1000_1000  +------------------------------+ VIRTIO_BASE
//!              | virtio-mmio, slots 0 to 7    |
//! 0x1000_9000  +------------------------------+
//!              | nothing                      |
//! 0x2800_0000  +------------------------------+ IMSIC_BASE
//!              | IMSIC, supervisor level,     |
//!              | one page per hart            |
//! 0x2820_0000  +------------------------------+
//!              | nothing (PCI: 0x3000_0000)   |
//! 0x8000_0000  +------------------------------+ RAM_BASE
//!              | RAM, as much as there is     |
//!              +------------------------------+
//! ```
//!
//! The PLIC's window covers that of the APLIC. A machine has one of the two, never both.

use crate::addr::GuestPhysAddr;

/// The most harts a machine can have: QEMU `virt` takes 512 (`VIRT_CPUS_MAX`).
pub const MAX_HARTS: u32 = 512;

/// The test device through which a guest powers off, reboots, or reports a failure with a code (sifive,test0).
pub const TEST_DEVICE_BASE: GuestPhysAddr = GuestPhysAddr(0x10_0000);
/// Size in bytes of the test device's window.
pub const TEST_DEVICE_SIZE: u64 = 0x1000;
/// What a guest writes to the test device to report success and switch the machine off.
pub const TEST_DEVICE_PASS: u16 = 0x5555;
/// What a guest writes to the test device, with a code in the upper 16 bits of the word, to report a failure.
pub const TEST_DEVICE_FAIL: u16 = 0x3333;
/// What a guest writes to the test device to start the machine anew.
pub const TEST_DEVICE_RESET: u16 = 0x7777;

/// The real-time clock (google,goldfish-rtc).
pub const RTC_BASE: GuestPhysAddr = GuestPhysAddr(0x10_1000);
/// Size in bytes of the real-time clock's window.
pub const RTC_SIZE: u64 = 0x1000;
/// Interrupt source of the real-time clock's alarm.
pub const RTC_IRQ: u32 = 11;

/// The platform bus, for devices that the board does not have by itself (QEMU: `VIRT_PLATFORM_BUS`).
pub const PLATFORM_BASE: GuestPhysAddr = GuestPhysAddr(0x400_0000);
/// Size in bytes of the platform bus.
pub const PLATFORM_SIZE: u64 = 0x200_0000;
/// The interrupt sources of its devices, from the first to the last. QEMU has 64 to 95 for them, which an APLIC of 63 sources does
/// not have; 32 to 35 are PCI's there.
pub const PLATFORM_IRQS: core::ops::RangeInclusive<u32> = 36..=63;

/// The platform-level interrupt controller, on a machine without AIA.
pub const PLIC_BASE: GuestPhysAddr = GuestPhysAddr(0xc00_0000);
/// Size in bytes of the PLIC's window: all that the PLIC specification's memory map (section 3) lays out.
pub const PLIC_SIZE: u64 = 0x400_0000;
/// The highest interrupt source of the PLIC, called `riscv,ndev` in the device tree: sources are 1 to 95.
pub const PLIC_SOURCES: u32 = 95;

/// The advanced platform-level interrupt controller (supervisor-level domain), on a machine with AIA.
pub const APLIC_BASE: GuestPhysAddr = GuestPhysAddr(0xd00_0000);
/// Size in bytes of the APLIC's window: 16 KiB, for a domain without IDC structures (AIA specification, section 4.5),
/// and what KVM demands (`KVM_DEV_RISCV_APLIC_SIZE`).
pub const APLIC_SIZE: u64 = 0x4000;
/// The highest interrupt source of the APLIC: sources are 1 to 63. KVM takes no more sources than an IMSIC has interrupt
/// identities, and 63 is what every IMSIC has (AIA specification, section 3.1), so the number is the same on all hosts.
pub const APLIC_SOURCES: u32 = 63;

/// The serial port, a 16550A with byte-wide registers one byte apart.
pub const UART_BASE: GuestPhysAddr = GuestPhysAddr(0x1000_0000);
/// Size in bytes of the serial port's window.
pub const UART_SIZE: u64 = 0x100;
/// Interrupt source of the serial port.
pub const UART_IRQ: u32 = 10;
/// Input clock of the serial port in Hz, from which guests derive the divisor of a baud rate.
pub const UART_CLOCK: u32 = 3_686_400;

/// The first of the virtio-mmio transports.
pub const VIRTIO_BASE: GuestPhysAddr = GuestPhysAddr(0x1000_1000);
/// Bytes from one virtio-mmio transport to the next, and the size of each window.
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// How many virtio-mmio transports there are; those without a device read as DeviceID 0.
pub const VIRTIO_SLOTS: u32 = 8;
/// Interrupt source of the first virtio-mmio transport; that of slot `i` is `i` higher.
pub const VIRTIO_FIRST_IRQ: u32 = 1;

/// The supervisor-level interrupt file of hart 0, on a machine with AIA.
pub const IMSIC_BASE: GuestPhysAddr = GuestPhysAddr(0x2800_0000);
/// Bytes from one hart's interrupt file to the next: one page each, with no guest interrupt files between them
/// (AIA specification, section 3.6; `KVM_DEV_RISCV_IMSIC_SIZE`).
pub const IMSIC_STRIDE: u64 = 0x1000;

/// Where RAM begins.
pub const RAM_BASE: GuestPhysAddr = GuestPhysAddr(0x8000_0000);

/// Address and interrupt source of virtio-mmio slot `slot`, or `None` for a slot the board does not have.
#[must_use]
pub const fn virtio_slot(slot: u32) -> Option<(GuestPhysAddr, u32)> {
    if slot >= VIRTIO_SLOTS {
        return None;
    }
    // The slot number is below VIRTIO_SLOTS, for which the assertions below show that nothing can overflow.
    let address = VIRTIO_BASE
        .0
        .wrapping_add((slot as u64).wrapping_mul(VIRTIO_STRIDE));
    Some((GuestPhysAddr(address), VIRTIO_FIRST_IRQ.wrapping_add(slot)))
}

/// Address of the supervisor-level interrupt file of hart `hart`, or `None` for a hart no machine has.
#[must_use]
pub const fn imsic_file(hart: u32) -> Option<GuestPhysAddr> {
    if hart >= MAX_HARTS {
        return None;
    }
    Some(GuestPhysAddr(
        IMSIC_BASE
            .0
            .wrapping_add((hart as u64).wrapping_mul(IMSIC_STRIDE)),
    ))
}

const _: () = {
    assert!(RTC_BASE.0 + RTC_SIZE <= PLATFORM_BASE.0);
    assert!(PLATFORM_BASE.0 + PLATFORM_SIZE <= PLIC_BASE.0);
    assert!(*PLATFORM_IRQS.start() > RTC_IRQ && *PLATFORM_IRQS.end() <= APLIC_SOURCES);
    assert!(PLIC_BASE.0 + PLIC_SIZE <= UART_BASE.0);
    assert!(UART_BASE.0 + UART_SIZE <= VIRTIO_BASE.0);
    assert!(VIRTIO_BASE.0 + VIRTIO_STRIDE * (VIRTIO_SLOTS as u64) <= IMSIC_BASE.0);
    assert!(IMSIC_BASE.0 + IMSIC_STRIDE * (MAX_HARTS as u64) <= RAM_BASE.0);
    assert!(VIRTIO_FIRST_IRQ + VIRTIO_SLOTS <= UART_IRQ);
    assert!(RTC_IRQ <= PLIC_SOURCES && RTC_IRQ <= APLIC_SOURCES);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_where_qemu_virt_has_them() {
        assert_eq!(virtio_slot(0), Some((GuestPhysAddr(0x1000_1000), 1)));
        assert_eq!(virtio_slot(7), Some((GuestPhysAddr(0x1000_8000), 8)));
        assert_eq!(virtio_slot(8), None);
        assert_eq!(virtio_slot(u32::MAX), None);
    }

    #[test]
    fn interrupt_files_are_a_page_apart() {
        assert_eq!(imsic_file(0), Some(GuestPhysAddr(0x2800_0000)));
        assert_eq!(imsic_file(3), Some(GuestPhysAddr(0x2800_3000)));
        assert_eq!(imsic_file(MAX_HARTS), None);
    }
}
