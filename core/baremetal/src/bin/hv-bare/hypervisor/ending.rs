//! The end of a guest, which leaves the others as they are. When no guest is left, the machine ends.

use hv_bare::lifecycle::Phase;
use hv_core::ending::End;

use super::guest::Guest;
use super::power::{self, FAILURE};
use super::state::state;
use super::{console, guests, monitor};

/// Carries out the guest's end, after all of its harts have halted.
pub fn finish(guest: &Guest, end: End) {
    match end {
        End::Reset => begin_again(guest),
        End::PowerOff => over(guest, 0),
        End::SystemFailure => over(guest, FAILURE),
        End::TestFailed(code) => over(guest, code),
    }
}

fn begin_again(guest: &Guest) {
    if let Err(error) = guest.start(state().seed(guest.index)) {
        console::message(format_args!(
            "guest {} cannot start again: {error}",
            guest.name
        ));
        over(guest, FAILURE);
    }
}

/// The guest has ended with this code. When all have, the machine ends with the first code that is not 0.
fn over(guest: &Guest, code: u16) {
    guest.reset_devices();
    if guests::all().len() > 1 {
        console::message(format_args!(
            "guest {} has ended with code {code}",
            guest.name
        ));
    }
    if state().prints_statistics {
        monitor::print_statistics(guest);
    }
    // After all messages, because the hart that sees that the last guest has ended switches the machine off.
    guest.lifecycle.lock().over(code);
    monitor::ended(guest.index);
    let code = |guest: &Guest| match guest.lifecycle.lock().phase() {
        Phase::Ended(code) => Some(code),
        Phase::Running | Phase::Ending(_) | Phase::Halted => None,
    };
    let mut codes = guests::all().iter().map(code);
    let first = codes.try_fold(0, |first, code| {
        code.map(|code| if first == 0 { code } else { first })
    });
    if let Some(code) = first {
        power::switch_off(code);
    }
}
