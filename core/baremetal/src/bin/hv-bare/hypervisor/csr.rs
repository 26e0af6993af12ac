//! Control and status registers of HS-mode, and instructions that have no other name in Rust (privileged specification,
//! chapters "Supervisor-Level ISA" and "Hypervisor" Extension).

use core::arch::asm;

/// A number of 64 bits as a word of this machine, which has as many.
#[allow(clippy::cast_possible_truncation)]
pub const fn word(number: u64) -> usize {
    number as usize
}

/// Addresses of the registers.
#[allow(missing_docs)]
pub mod number {
    pub const VSTART: u16 = 0x008;
    pub const VCSR: u16 = 0x00f;
    pub const SSTATUS: u16 = 0x100;
    pub const SIE: u16 = 0x104;
    pub const STVEC: u16 = 0x105;
    pub const SCOUNTEREN: u16 = 0x106;
    pub const SENVCFG: u16 = 0x10a;
    pub const SSTATEEN0: u16 = 0x10c;
    pub const SCAUSE: u16 = 0x142;
    pub const STVAL: u16 = 0x143;
    pub const SIP: u16 = 0x144;
    pub const SISELECT: u16 = 0x150;
    pub const SIREG: u16 = 0x151;
    pub const STOPEI: u16 = 0x15c;
    pub const VSSTATUS: u16 = 0x200;
    pub const VSIE: u16 = 0x204;
    pub const VSTVEC: u16 = 0x205;
    pub const VSSCRATCH: u16 = 0x240;
    pub const VSEPC: u16 = 0x241;
    pub const VSCAUSE: u16 = 0x242;
    pub const VSTVAL: u16 = 0x243;
    pub const VSTIMECMP: u16 = 0x24d;
    pub const VSATP: u16 = 0x280;
    pub const HSTATUS: u16 = 0x600;
    pub const HEDELEG: u16 = 0x602;
    pub const HIDELEG: u16 = 0x603;
    pub const HTIMEDELTA: u16 = 0x605;
    pub const HCOUNTEREN: u16 = 0x606;
    pub const HENVCFG: u16 = 0x60a;
    pub const HSTATEEN0: u16 = 0x60c;
    pub const HTVAL: u16 = 0x643;
    pub const HVIP: u16 = 0x645;
    pub const HTINST: u16 = 0x64a;
    pub const HGATP: u16 = 0x680;
    pub const TIME: u16 = 0xc01;
    pub const VL: u16 = 0xc20;
    pub const VTYPE: u16 = 0xc21;
    pub const VLENB: u16 = 0xc22;
}

/// Reads a register.
pub fn read<const CSR: u16>() -> u64 {
    let value;
    // SAFETY: reading one of the registers above changes nothing.
    unsafe { asm!("csrr {}, {}", out(reg) value, const CSR, options(nomem, nostack)) };
    value
}

/// Writes a register.
///
/// # Safety
/// The value must not change how this program itself runs, other than its caller intends: where traps go, translation of its
/// own memory.
pub unsafe fn write<const CSR: u16>(value: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("csrw {}, {}", const CSR, in(reg) value, options(nostack)) };
}

/// Sets bits of a register.
///
/// # Safety
/// As for [`write`].
pub unsafe fn set<const CSR: u16>(bits: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("csrs {}, {}", const CSR, in(reg) bits, options(nostack)) };
}

/// Clears bits of a register.
///
/// # Safety
/// As for [`write`].
pub unsafe fn clear<const CSR: u16>(bits: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("csrc {}, {}", const CSR, in(reg) bits, options(nostack)) };
}

/// Writes a register and returns what was in it.
///
/// # Safety
/// As for [`write`].
pub unsafe fn swap<const CSR: u16>(value: u64) -> u64 {
    let old;
    // SAFETY: the caller's.
    unsafe { asm!("csrrw {}, {}, {}", out(reg) old, const CSR, in(reg) value, options(nostack)) };
    old
}

/// Waits until an interrupt is pending that is enabled, whether it can be taken or not.
pub fn wait_for_interrupt() {
    // SAFETY: it changes nothing.
    unsafe { asm!("wfi", options(nomem, nostack)) };
}

/// Makes what was written to memory as instructions visible to this hart's fetches.
pub fn fence_i() {
    // SAFETY: it changes nothing. Zifencei is part of every hart with the H extension known, and the assembler is told.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +zifencei",
            "fence.i",
            ".option pop",
            options(nostack)
        )
    };
}

/// Forgets all translations of this hart's current guest, of its own tables and of the second stage.
pub fn forget_translations() {
    // SAFETY: fewer translations are cached afterwards; the hypervisor itself runs without any.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +h",
            "hfence.gvma",
            "hfence.vvma",
            ".option pop",
            options(nostack)
        );
    };
}

/// Forgets translations of the current guest's own tables, of all of its address spaces.
pub fn forget_guest_translations() {
    // SAFETY: as for `forget_translations`.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +h",
            "hfence.vvma",
            ".option pop",
            options(nostack)
        )
    };
}

/// Bits of `hstatus`.
pub mod hstatus {
    /// The trap came from a guest.
    pub const SPV: u64 = 1 << 7;
    /// It was in VS-mode.
    pub const SPVP: u64 = 1 << 8;
    /// VS-mode is 64 bits wide.
    pub const VSXL_64: u64 = 2 << 32;
}

/// Interrupts by their bits in `sip`, `hip` and so on.
pub mod interrupt {
    /// Supervisor software interrupt.
    pub const SOFTWARE: u64 = 1 << 1;
    /// Of the guest.
    pub const VS_SOFTWARE: u64 = 1 << 2;
    /// Supervisor timer interrupt.
    pub const TIMER: u64 = 1 << 5;
    /// Of the guest.
    pub const VS_TIMER: u64 = 1 << 6;
    /// Supervisor external interrupt.
    pub const EXTERNAL: u64 = 1 << 9;
    /// Of the guest.
    pub const VS_EXTERNAL: u64 = 1 << 10;
    /// From the guest's own bits, which are those of S-mode, to the ones of the three interrupts above.
    pub const VS_SHIFT: u32 = 1;
}

/// Bits of `henvcfg`.
pub mod henvcfg {
    /// CBO.INVAL works, as a flush.
    pub const CBIE: u64 = 1 << 4;
    /// CBO.CLEAN and CBO.FLUSH work.
    pub const CBCFE: u64 = 1 << 6;
    /// CBO.ZERO works.
    pub const CBZE: u64 = 1 << 7;
    /// Hardware sets accessed and dirty bits of the guest's own tables.
    pub const ADUE: u64 = 1 << 61;
    /// The guest's tables have memory types.
    pub const PBMTE: u64 = 1 << 62;
    /// The guest has `stimecmp`.
    pub const STCE: u64 = 1 << 63;
}
