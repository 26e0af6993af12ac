//! Decoding and handling of a hart's exits from its guest.

pub mod mmio;
mod reflect;
mod sbi;

use hv_bare::exit::{self, Exit, TrapCsrs};
use hv_core::trap::cause;

use super::csr::{self, number};
use super::hart::Vhart;
use super::statistics::Cause;

/// Handles what the hart has come back for. It is entered again after that if it is still running.
pub fn handle(hart: &mut Vhart) {
    // Counted first: what is done about it may be to print the counts.
    let count = |cause| hart.link.counts.count(cause);
    match exit::decode(&trap_csrs()) {
        Exit::HostSoftware => {
            count(Cause::HostSoftware);
            hart.serve_software();
        }
        Exit::HostTimer => {
            count(Cause::HostTimer);
            hart.serve_timer();
        }
        Exit::HostExternal => {
            count(Cause::HostExternal);
            hart.serve_external();
        }
        Exit::SbiCall => sbi::handle(hart),
        Exit::Mmio(access) => mmio::handle(hart, access),
        Exit::Reflect(exception) => {
            count(match exception.cause {
                cause::ILLEGAL_INSTRUCTION => Cause::VirtualInstruction,
                _ => Cause::Nothing,
            });
            reflect::exception(hart, exception);
        }
        Exit::NotDelegated(exception) => {
            count(Cause::Other);
            reflect::exception(hart, exception);
        }
        Exit::UnknownInterrupt => count(Cause::Other),
    }
}

/// What the trap left in the CSRs. Those that only a guest-page fault writes are not read without one.
fn trap_csrs() -> TrapCsrs {
    let scause = csr::read::<{ number::SCAUSE }>();
    let mut csrs = TrapCsrs {
        scause,
        stval: csr::read::<{ number::STVAL }>(),
        ..TrapCsrs::default()
    };
    if let cause::LOAD_GUEST_PAGE_FAULT | cause::STORE_GUEST_PAGE_FAULT = scause {
        csrs.htval = csr::read::<{ number::HTVAL }>();
        csrs.htinst = csr::read::<{ number::HTINST }>();
    }
    csrs
}
