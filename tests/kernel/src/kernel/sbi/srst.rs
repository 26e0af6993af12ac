//! System reset.

use sbi_spec::srst::{
    EID_SRST, RESET_REASON_NO_REASON, RESET_REASON_SYSTEM_FAILURE, RESET_TYPE_COLD_REBOOT,
    RESET_TYPE_SHUTDOWN, SYSTEM_RESET,
};

use super::{Answer, ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, call, expect_error};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;

tests! { TESTS:
    "srst-reserved-type" => reserved_type,
    "srst-reserved-reason" => reserved_reason,
    "srst-unknown-function" => unknown_function,
}

fn reset(kind: u32, reason: u32) -> Answer {
    call(EID_SRST, SYSTEM_RESET, &[kind as usize, reason as usize])
}

/// Switches the machine off, and says whether something failed.
pub fn shut_down(failure: bool) -> ! {
    let reason = if failure {
        RESET_REASON_SYSTEM_FAILURE
    } else {
        RESET_REASON_NO_REASON
    };
    reset(RESET_TYPE_SHUTDOWN, reason);
    loop {
        core::hint::spin_loop();
    }
}

/// Has the machine begin anew.
pub fn reboot() -> ! {
    reset(RESET_TYPE_COLD_REBOOT, RESET_REASON_NO_REASON);
    loop {
        core::hint::spin_loop();
    }
}

fn reserved_type(_: &Machine) -> Outcome {
    for kind in [3, 0xefff_ffff] {
        let answer = reset(kind, RESET_REASON_NO_REASON);
        expect_error(answer, ERR_INVALID_PARAM, "a reset of a reserved type")?;
    }
    Ok(())
}

/// A type and a reason that are both reserved: the machine has to go on even where it does not look at the reason.
fn reserved_reason(_: &Machine) -> Outcome {
    let answer = reset(0xefff_ffff, 0xdfff_ffff);
    check!(
        answer.error != 0,
        "a reset of a reserved type and reason succeeds"
    );
    Ok(())
}

fn unknown_function(_: &Machine) -> Outcome {
    expect_error(
        call(EID_SRST, 0x7fff, &[3]),
        ERR_NOT_SUPPORTED,
        "function 0x7fff",
    )
}
