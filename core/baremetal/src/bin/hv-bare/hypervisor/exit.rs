//! Decoding and handling of a hart's exits from its guest.

pub mod mmio;
mod reflect;
mod sbi;

use super::csr::{self, number};
use super::hart::Vhart;
use super::statistics::Cause;

/// `scause`: it was an interrupt.
const INTERRUPT: u64 = 1 << 63;

/// Interrupts and exceptions by their numbers in `scause` (privileged specification, table "Supervisor cause register values
/// after trap").
mod cause {
    pub const SUPERVISOR_SOFTWARE: u64 = super::INTERRUPT | 1;
    pub const SUPERVISOR_TIMER: u64 = super::INTERRUPT | 5;
    pub const SUPERVISOR_EXTERNAL: u64 = super::INTERRUPT | 9;
    pub const ILLEGAL_INSTRUCTION: u64 = 2;
    pub const ECALL_FROM_VS: u64 = 10;
    pub const INSTRUCTION_GUEST_PAGE_FAULT: u64 = 20;
    pub const LOAD_GUEST_PAGE_FAULT: u64 = 21;
    pub const VIRTUAL_INSTRUCTION: u64 = 22;
    pub const STORE_GUEST_PAGE_FAULT: u64 = 23;
}

/// Handles what the hart has come back for. It is entered again after that if it is still running.
pub fn handle(hart: &mut Vhart) {
    let scause = csr::read::<{ number::SCAUSE }>();
    // Counted first: what is done about it may be to print the counts.
    let count = |cause| hart.link.counts.count(cause);
    match scause {
        cause::SUPERVISOR_SOFTWARE => {
            count(Cause::HostSoftware);
            hart.serve_software();
        }
        cause::SUPERVISOR_TIMER => {
            count(Cause::HostTimer);
            hart.serve_timer();
        }
        cause::SUPERVISOR_EXTERNAL => {
            count(Cause::HostExternal);
            hart.serve_external();
        }
        cause::ECALL_FROM_VS => sbi::handle(hart),
        cause::LOAD_GUEST_PAGE_FAULT | cause::STORE_GUEST_PAGE_FAULT => {
            mmio::handle(hart, scause == cause::STORE_GUEST_PAGE_FAULT);
        }
        cause::INSTRUCTION_GUEST_PAGE_FAULT => {
            count(Cause::Nothing);
            let address = csr::read::<{ number::STVAL }>();
            reflect::exception(hart, reflect::INSTRUCTION_ACCESS_FAULT, address);
        }
        // On a hart without the H extension, what makes this exception is illegal.
        cause::VIRTUAL_INSTRUCTION => {
            count(Cause::VirtualInstruction);
            let instruction = csr::read::<{ number::STVAL }>();
            reflect::exception(hart, cause::ILLEGAL_INSTRUCTION, instruction);
        }
        // Everything else is delegated; should the hardware not delegate one, it is the guest's all the same.
        other if other & INTERRUPT == 0 => {
            count(Cause::Other);
            let value = csr::read::<{ number::STVAL }>();
            reflect::exception(hart, other, value);
        }
        _ => count(Cause::Other),
    }
}
