//! The supervisor-level interrupt file of a hart's IMSIC (RISC-V AIA specification 1.0, section 3.8).

use crate::hypervisor::csr::{self, number};

/// Registers behind `siselect`.
mod indirect {
    pub const EIDELIVERY: u64 = 0x70;
    pub const EITHRESHOLD: u64 = 0x72;
    /// Of identities 0 to 63; the next 64 are two numbers on, as an RV64 hart has them.
    pub const EIE: u64 = 0xc0;
}

/// `stopei`: from the identity's bits to its number.
const IDENTITY_SHIFT: u32 = 16;

/// What all harts' files have in common.
#[derive(Debug)]
pub struct Imsic {
    identities: u32,
}

impl Imsic {
    /// Files that have identities 1 to `identities`.
    pub fn new(identities: u32) -> Self {
        Self { identities }
    }

    /// Enables all identities of this hart's file: only configured sources send any.
    pub fn enable_hart(&self) {
        for word in 0..=u64::from(self.identities / 64) {
            write(indirect::EIE + word * 2, u64::MAX);
        }
        write(indirect::EITHRESHOLD, 0);
        write(indirect::EIDELIVERY, 1);
    }

    /// Claims for this hart.
    #[allow(clippy::unused_self)]
    pub fn claim(&self) -> Option<u32> {
        // SAFETY: the write claims what is read, which is this function's purpose.
        let top = unsafe { csr::swap::<{ number::STOPEI }>(0) };
        let identity = u32::try_from(top >> IDENTITY_SHIFT);
        identity.ok().filter(|identity| *identity != 0)
    }
}

fn write(register: u64, value: u64) {
    // SAFETY: these registers say which interrupts are pending for S-mode, and it takes none while the hypervisor runs.
    unsafe {
        csr::write::<{ number::SISELECT }>(register);
        csr::write::<{ number::SIREG }>(value);
    }
}
