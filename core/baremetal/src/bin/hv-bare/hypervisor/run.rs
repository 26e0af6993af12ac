//! The loop of a hart of the host.

use super::csr::{self, interrupt, number};
use super::exit;
use super::hart::{self, Next, Vhart};
use super::state::state;

/// Runs the hart of a guest. Never returns.
pub fn run(mut hart: Vhart) -> ! {
    hart.set_up();
    // Requests that were posted before the firmware started this hart have interrupted nothing.
    let mut next = hart.serve_software();
    loop {
        next = match next {
            Next::Run => {
                let trap = hart.vcpu.enter();
                exit::handle(&mut hart, &trap)
            }
            Next::Wait => {
                csr::wait_for_interrupt();
                hart.serve()
            }
            Next::End(end) => hart.end(end),
        };
    }
}

/// Sees to the console for ever, on a hart that has no guest.
pub fn idle(place: usize) -> ! {
    hart::set_up_host();
    state().chip.enable_hart(place);
    loop {
        csr::wait_for_interrupt();
        // SAFETY: nobody posts anything to a hart without a guest, and its timer is never set.
        unsafe { csr::clear::<{ number::SIP }>(interrupt::SOFTWARE) };
        hart::serve_external(place, None);
    }
}
