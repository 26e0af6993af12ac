//! Handling of a hart's exits from its guest: each answers what the hart does next.

mod mmio;
mod reflect;
mod sbi;

use hv_bare::exit::{self, Exit, TrapCsrs};
use hv_core::trap::cause;

use super::hart::{Next, Vhart};
use super::statistics::Cause;

/// Handles what the hart has come back for.
pub fn handle(hart: &mut Vhart, trap: &TrapCsrs) -> Next {
    // Counted first: what is done about it may be to print the counts.
    let count = |cause| hart.link.counts.count(cause);
    match exit::decode(trap) {
        Exit::HostSoftware => {
            count(Cause::HostSoftware);
            return hart.serve_software();
        }
        Exit::HostTimer => {
            count(Cause::HostTimer);
            hart.serve_timer();
        }
        Exit::HostExternal => {
            count(Cause::HostExternal);
            hart.serve_external();
        }
        Exit::SbiCall => return sbi::handle(hart),
        Exit::Mmio(access) => return mmio::handle(hart, access),
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
    Next::Run
}
