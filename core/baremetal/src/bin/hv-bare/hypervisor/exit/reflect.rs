//! Exceptions that are reflected to the guest: it takes them as a hart that traps to S-mode does (privileged specification, section
//! 12.1.1, and section 21.2 for the VS CSRs).

use crate::hypervisor::csr::{self, number, status};
use crate::hypervisor::hart::Vhart;

/// `scause` of a fetch from where no memory is.
pub const INSTRUCTION_ACCESS_FAULT: u64 = 1;
/// `scause` of a load from where nothing is.
pub const LOAD_ACCESS_FAULT: u64 = 5;
/// `scause` of a store to where nothing is.
pub const STORE_ACCESS_FAULT: u64 = 7;

/// `vstvec`: exceptions go to its base whatever its mode is.
const MODE: u64 = 0b11;

/// The guest meets with an exception at the instruction at which it was left, with these in `scause` and `stval`.
pub fn exception(hart: &mut Vhart, cause: u64, value: u64) {
    let from_supervisor = csr::read::<{ number::SSTATUS }>() & status::SPP != 0;
    let before = csr::read::<{ number::VSSTATUS }>();
    let mut after = before & !(status::SPP | status::SPIE | status::SIE);
    if from_supervisor {
        after |= status::SPP;
    }
    if before & status::SIE != 0 {
        after |= status::SPIE;
    }
    // SAFETY: they are the guest's, but for sstatus.SPP, by which it goes on in VS-mode, where it handles the exception.
    unsafe {
        csr::write::<{ number::VSSTATUS }>(after);
        csr::write::<{ number::VSEPC }>(hart.context.pc);
        csr::write::<{ number::VSCAUSE }>(cause);
        csr::write::<{ number::VSTVAL }>(value);
        csr::set::<{ number::SSTATUS }>(status::SPP);
    }
    hart.context.pc = csr::read::<{ number::VSTVEC }>() & !MODE;
}
