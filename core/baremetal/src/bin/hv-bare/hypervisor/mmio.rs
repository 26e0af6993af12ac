//! Device registers of the host.

use hv_core::addr::HostPhysAddr;

/// Reads a byte-wide register.
///
/// # Safety
/// There is a device's register at `address`, and reading it does what the caller wants.
pub unsafe fn read8(address: HostPhysAddr) -> u8 {
    // SAFETY: the caller's.
    unsafe { (address.0 as *const u8).read_volatile() }
}

/// Writes a byte-wide register.
///
/// # Safety
/// There is a device's register at `address`, and writing it does what the caller wants.
pub unsafe fn write8(address: HostPhysAddr, value: u8) {
    // SAFETY: the caller's.
    unsafe { (address.0 as *mut u8).write_volatile(value) };
}

/// Reads a register of 32 bits.
///
/// # Safety
/// As for [`read8`].
pub unsafe fn read32(address: HostPhysAddr) -> u32 {
    // SAFETY: the caller's.
    unsafe { (address.0 as *const u32).read_volatile() }
}

/// Writes a register of 32 bits.
///
/// # Safety
/// As for [`write8`].
pub unsafe fn write32(address: HostPhysAddr, value: u32) {
    // SAFETY: the caller's.
    unsafe { (address.0 as *mut u32).write_volatile(value) };
}
