//! The timer. That it interrupts when it is due is tested in `timer`.

use sbi_spec::time::{EID_TIME, SET_TIMER};

use super::{Answer, ERR_NOT_SUPPORTED, call, expect_error, expect_success};
use crate::kernel::csr::{self, TIMER};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::time;

tests! { TESTS:
    "time-set-timer-clears-pending" => clears,
    "time-unknown-function" => unknown_function,
}

/// Has the timer be due at this value of the `time` register, and not be pending before.
pub fn set_timer(due: u64) -> Answer {
    call(EID_TIME, SET_TIMER, &[due as usize])
}

/// "This function also clears the pending timer interrupt bit."
fn clears(_: &Machine) -> Outcome {
    expect_success(set_timer(0), "set_timer")?;
    check!(
        time::wait_for(|| csr::pending(TIMER)),
        "the timer is not pending"
    );
    expect_success(set_timer(u64::MAX), "set_timer")?;
    check!(!csr::pending(TIMER), "the timer is still pending");
    Ok(())
}

fn unknown_function(_: &Machine) -> Outcome {
    expect_error(
        call(EID_TIME, 0x7fff, &[0]),
        ERR_NOT_SUPPORTED,
        "function 0x7fff",
    )
}
