//! Control and status registers, and their bits (RISC-V Privileged Architecture, chapter "Supervisor-Level ISA").

/// Reads a CSR, by name or number.
macro_rules! csr_read {
    ($csr:literal) => {{
        let value: usize;
        // SAFETY: reading one of the registers that this kernel reads has no effect on memory that Rust knows of.
        unsafe { core::arch::asm!(concat!("csrr {}, ", $csr), out(reg) value, options(nostack)) };
        value
    }};
}

/// Writes a CSR.
macro_rules! csr_write {
    ($csr:literal, $value:expr) => {{
        let value: usize = $value;
        // SAFETY: translation stays off and the trap vector stays the kernel's, so that memory is as it was; handlers
        // touch atomics only.
        unsafe { core::arch::asm!(concat!("csrw ", $csr, ", {}"), in(reg) value, options(nostack)) };
    }};
}

/// Sets bits of a CSR.
macro_rules! csr_set {
    ($csr:literal, $bits:expr) => {{
        let bits: usize = $bits;
        // SAFETY: as for csr_write.
        unsafe { core::arch::asm!(concat!("csrs ", $csr, ", {}"), in(reg) bits, options(nostack)) };
    }};
}

/// Clears bits of a CSR.
macro_rules! csr_clear {
    ($csr:literal, $bits:expr) => {{
        let bits: usize = $bits;
        // SAFETY: as for csr_write.
        unsafe { core::arch::asm!(concat!("csrc ", $csr, ", {}"), in(reg) bits, options(nostack)) };
    }};
}

/// `sstatus.SIE`: interrupts are taken.
pub const SSTATUS_SIE: usize = 1 << 1;
/// `sstatus.FS`, in the state Initial: floating point may be used.
pub const SSTATUS_FS_INITIAL: usize = 1 << 13;

/// The software interrupt's bit in `sie` and `sip`.
pub const SOFTWARE: usize = 1 << 1;
/// The timer interrupt's bit.
pub const TIMER: usize = 1 << 5;
/// The external interrupt's bit.
pub const EXTERNAL: usize = 1 << 9;

/// `scause` of a fetch from where no memory is.
pub const INSTRUCTION_ACCESS_FAULT: usize = 1;
/// `scause` of an illegal instruction.
pub const ILLEGAL_INSTRUCTION: usize = 2;
/// `scause` of a load access fault.
pub const LOAD_ACCESS_FAULT: usize = 5;
/// `scause` of a store access fault.
pub const STORE_ACCESS_FAULT: usize = 7;
/// `scause` of an instruction page fault.
pub const INSTRUCTION_PAGE_FAULT: usize = 12;
/// `scause` of a load page fault.
pub const LOAD_PAGE_FAULT: usize = 13;
/// `scause` of a store page fault.
pub const STORE_PAGE_FAULT: usize = 15;

/// Claims the interrupt that an IMSIC has first: its identity, and 0 if there is none (AIA specification, section 3.10).
pub fn claim_top() -> u32 {
    let top: u32;
    // SAFETY: touches the interrupt file only. Without one, it traps.
    unsafe { core::arch::asm!("csrrw {}, 0x15c, zero", out(reg) top, options(nostack)) };
    top >> 16
}

/// Whether this interrupt is pending, taken or not.
pub fn pending(interrupt: usize) -> bool {
    csr_read!("sip") & interrupt != 0
}

/// Runs `action` with this interrupt, and no other, enabled and taken.
pub fn taking<R>(interrupt: usize, action: impl FnOnce() -> R) -> R {
    csr_write!("sie", interrupt);
    csr_set!("sstatus", SSTATUS_SIE);
    let result = action();
    csr_clear!("sstatus", SSTATUS_SIE);
    csr_write!("sie", 0);
    result
}
