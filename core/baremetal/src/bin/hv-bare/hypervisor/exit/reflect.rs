//! Exceptions that are reflected to the guest: it takes them as a hart that traps to S-mode does ([`hv_core::trap`]), with the VS
//! CSRs in the place of the S-mode ones (privileged specification, section 21.2).

use hv_core::trap::{self, Before, Exception, sstatus};

use crate::hypervisor::csr::{self, number};
use crate::hypervisor::hart::Vhart;

/// The guest meets with an exception at the instruction at which it was left.
pub fn exception(hart: &mut Vhart, exception: Exception) {
    let before = Before {
        sstatus: csr::read::<{ number::VSSTATUS }>(),
        stvec: csr::read::<{ number::VSTVEC }>(),
        pc: hart.vcpu.context.pc,
        from_supervisor: csr::read::<{ number::SSTATUS }>() & sstatus::SPP != 0,
    };
    let after = trap::take(before, exception);
    // SAFETY: they are the guest's, but for sstatus.SPP, by which it goes on in VS-mode, where it handles the exception.
    unsafe {
        csr::write::<{ number::VSSTATUS }>(after.sstatus);
        csr::write::<{ number::VSEPC }>(after.sepc);
        csr::write::<{ number::VSCAUSE }>(after.scause);
        csr::write::<{ number::VSTVAL }>(after.stval);
        csr::set::<{ number::SSTATUS }>(sstatus::SPP);
    }
    hart.vcpu.context.pc = after.pc;
}
