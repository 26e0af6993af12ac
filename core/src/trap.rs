//! A trap into S-mode, as values: which exception, and what a hart's registers hold after it (RISC-V Privileged Architecture
//! 1.13, sections 12.1.1 and 12.1.6 to 12.1.9). A hypervisor that reflects an exception to its guest puts these into the
//! registers that the guest has as its S-mode ones.

/// Exceptions by their numbers in `scause` (table "Supervisor cause register (scause) values after trap", and that of the H
/// extension).
pub mod cause {
    /// Instruction access fault: a fetch from where no memory is.
    pub const INSTRUCTION_ACCESS_FAULT: u64 = 1;
    /// Illegal instruction.
    pub const ILLEGAL_INSTRUCTION: u64 = 2;
    /// Load access fault: a load from where nothing is.
    pub const LOAD_ACCESS_FAULT: u64 = 5;
    /// Store or AMO access fault: a store to where nothing is.
    pub const STORE_ACCESS_FAULT: u64 = 7;
    /// Environment call from VS-mode.
    pub const ECALL_FROM_VS: u64 = 10;
    /// Instruction guest-page fault.
    pub const INSTRUCTION_GUEST_PAGE_FAULT: u64 = 20;
    /// Load guest-page fault.
    pub const LOAD_GUEST_PAGE_FAULT: u64 = 21;
    /// Virtual instruction.
    pub const VIRTUAL_INSTRUCTION: u64 = 22;
    /// Store or AMO guest-page fault.
    pub const STORE_GUEST_PAGE_FAULT: u64 = 23;

    /// The bit that an interrupt has besides its number.
    pub const INTERRUPT: u64 = 1 << 63;
    /// Supervisor software interrupt.
    pub const SUPERVISOR_SOFTWARE: u64 = INTERRUPT | 1;
    /// Supervisor timer interrupt.
    pub const SUPERVISOR_TIMER: u64 = INTERRUPT | 5;
    /// Supervisor external interrupt.
    pub const SUPERVISOR_EXTERNAL: u64 = INTERRUPT | 9;
}

/// Bits of `sstatus`.
pub mod sstatus {
    /// Interrupts are enabled.
    pub const SIE: u64 = 1 << 1;
    /// They were, before the trap.
    pub const SPIE: u64 = 1 << 5;
    /// The trap came from S-mode.
    pub const SPP: u64 = 1 << 8;
    /// Vector state, both bits: it is dirty.
    pub const VS: u64 = 3 << 9;
    /// Floating-point state, both bits: it is dirty.
    pub const FS: u64 = 3 << 13;
}

/// `stvec`: the mode, which matters to interrupts only. Exceptions go to the base in every mode.
const STVEC_MODE: u64 = 0b11;

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exception {
    /// Its number, for `scause`: one of [`cause`].
    pub cause: u64,
    /// What `stval` holds with it: the address of an access, the instruction, or 0.
    pub value: u64,
}

/// The part of a hart's state that decides what a trap does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// `sstatus`.
    pub sstatus: u64,
    /// `stvec`.
    pub stvec: u64,
    /// The instruction that traps.
    pub pc: u64,
    /// Whether it is one of S-mode, and not of U-mode.
    pub from_supervisor: bool,
}

/// What the registers hold when the hart is in its trap handler, in S-mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// `sstatus`.
    pub sstatus: u64,
    /// `sepc`.
    pub sepc: u64,
    /// `scause`.
    pub scause: u64,
    /// `stval`.
    pub stval: u64,
    /// The program counter.
    pub pc: u64,
}

/// The state of a hart after an exception that it takes in S-mode.
#[must_use]
pub const fn take(before: Before, exception: Exception) -> After {
    use sstatus::{SIE, SPIE, SPP};
    let mut status = before.sstatus & !(SPP | SPIE | SIE);
    if before.from_supervisor {
        status |= SPP;
    }
    if before.sstatus & SIE != 0 {
        status |= SPIE;
    }
    After {
        sstatus: status,
        sepc: before.pc,
        scause: exception.cause,
        stval: exception.value,
        pc: before.stvec & !STVEC_MODE,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::sstatus::{FS, SIE, SPIE, SPP, VS};
    use super::*;

    const FAULT: Exception = Exception {
        cause: cause::LOAD_ACCESS_FAULT,
        value: 0x1234,
    };

    fn after(sstatus: u64, from_supervisor: bool) -> u64 {
        let before = Before {
            sstatus,
            stvec: 0,
            pc: 0,
            from_supervisor,
        };
        take(before, FAULT).sstatus
    }

    #[test]
    fn a_handler_finds_where_it_came_from_and_why() {
        let before = Before {
            sstatus: 0,
            stvec: 0x8020_0101,
            pc: 0x8030_0002,
            from_supervisor: true,
        };
        let expected = After {
            sstatus: SPP,
            sepc: 0x8030_0002,
            scause: 5,
            stval: 0x1234,
            // The base, in vectored mode as well.
            pc: 0x8020_0100,
        };
        assert_eq!(take(before, FAULT), expected);
    }

    #[test]
    fn status_keeps_the_mode_and_whether_interrupts_were_enabled() {
        for (before, from_supervisor, expected) in [
            (0, false, 0),
            (0, true, SPP),
            (SIE, false, SPIE),
            (SIE, true, SPIE | SPP),
            // What an earlier trap left there is overwritten.
            (SPIE | SPP, false, 0),
            (SPIE | SPP, true, SPP),
            (SPIE | SPP | SIE, false, SPIE),
        ] {
            assert_eq!(
                after(before, from_supervisor),
                expected,
                "{before:#x} {from_supervisor}"
            );
        }
    }

    #[test]
    fn everything_else_in_status_stays() {
        const SUM: u64 = 1 << 18;
        let others = FS | VS | SUM | 1 << 63;
        assert_eq!(after(others, false), others);
        assert_eq!(after(others | SIE, true), others | SPIE | SPP);
    }

    proptest! {
        /// What `sret` does afterwards gives back the state of before, but for SPIE and SPP (section 12.1.1).
        #[test]
        fn a_return_undoes_it(status: u64, stvec: u64, pc: u64, from_supervisor: bool) {
            let before = Before { sstatus: status, stvec, pc, from_supervisor };
            let after = take(before, FAULT);
            prop_assert_eq!(after.sstatus & SIE, 0);
            prop_assert_eq!(after.sstatus & SPP != 0, from_supervisor);
            let enabled = if after.sstatus & SPIE != 0 { SIE } else { 0 };
            let returned = after.sstatus & !SIE | enabled;
            prop_assert_eq!(returned & !(SPIE | SPP), status & !(SPIE | SPP));
            prop_assert_eq!(after.sepc, pc);
            prop_assert_eq!(after.pc, stvec & !3);
        }
    }
}
