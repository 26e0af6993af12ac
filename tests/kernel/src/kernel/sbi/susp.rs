//! System suspend.

use sbi_spec::susp::{EID_SUSP, SUSPEND};

use super::{
    ERR_DENIED, ERR_INVALID_ADDRESS, ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, call, expect_error,
    resume,
};
use crate::kernel::csr::{self, EXTERNAL, SSTATUS_SIE, TIMER};
use crate::kernel::external::Listener;
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::rtc::Alarm;
use crate::kernel::{boot, smp, time, timer, trap};

tests! { TESTS:
    "susp-wakes-by-the-timer" => wakes_by_timer,
    "susp-wakes-by-a-device" => wakes_by_device,
    "susp-of-a-reserved-type" => reserved_type,
    "susp-beside-another-hart" => beside_another,
    "susp-resume-at-no-memory" => resume_nowhere,
    "susp-unknown-function" => unknown_function,
}

const SUSPEND_TO_RAM: usize = 0;

/// The first and the last of the reserved sleep types, and the first and the last of the platform's own.
const OTHER_TYPES: [usize; 4] = [1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// How long the machine sleeps, in microseconds.
const SLEEP: u64 = 5000;

/// Suspends the machine, with this interrupt enabled to wake it, and asserts the state in which the hart comes back
/// ("Function: System Suspend"). All that is not said there is undefined, what is pending included.
fn sleep(machine: &Machine, wake: usize) -> Outcome {
    csr_write!("sie", wake);
    let suspended = resume::suspend(EID_SUSP, SUSPEND, SUSPEND_TO_RAM);
    let (status, satp) = (csr_read!("sstatus"), csr_read!("satp"));
    trap::enter(0, machine.harts[0]);
    check!(
        suspended.result == resume::RESUMED,
        "suspending is answered with {}",
        suspended.result
    );
    check_eq!(suspended.hart, machine.harts[0], "the hart id in a0");
    check_eq!(status & SSTATUS_SIE, 0, "sstatus.SIE");
    check_eq!(satp, 0, "satp");
    Ok(())
}

fn needed() -> Outcome {
    super::needs(EID_SUSP, "SUSP")
}

fn wakes_by_timer(machine: &Machine) -> Outcome {
    needed()?;
    let due = time::now() + time::ticks(SLEEP);
    timer::set(due);
    sleep(machine, TIMER)?;
    check!(time::now() >= due, "it wakes early");
    Ok(())
}

fn wakes_by_device(machine: &Machine) -> Outcome {
    needed()?;
    let Some(clock) = machine.rtc else {
        skip!("there is no clock");
    };
    let listener = Listener::new(machine, clock);
    let alarm = Alarm::new(clock.base);
    let due = alarm.time() + SLEEP * 1000;
    alarm.arm(due);
    sleep(machine, EXTERNAL)?;
    check!(alarm.time() >= due, "it wakes early");
    // A system that resumes sets its interrupt chip up anew, and then hears of the device.
    drop(listener);
    let listener = Listener::new(machine, clock);
    listener.complete();
    check!(
        time::wait_for(|| csr::pending(EXTERNAL)),
        "what woke the machine does not interrupt"
    );
    listener.drain();
    Ok(())
}

fn reserved_type(_: &Machine) -> Outcome {
    needed()?;
    for kind in OTHER_TYPES {
        let answer = call(EID_SUSP, SUSPEND, &[kind, boot::secondary_entry(), 0]);
        expect_error(answer, ERR_INVALID_PARAM, "a suspend of another type")?;
    }
    Ok(())
}

/// All other harts have to be stopped.
fn beside_another(machine: &Machine) -> Outcome {
    needed()?;
    smp::several(machine)?;
    let barrier = smp::Barrier::new(machine);
    smp::everywhere(machine, &|index| {
        barrier.wait()?;
        let outcome = match index {
            0 => expect_error(
                call(
                    EID_SUSP,
                    SUSPEND,
                    &[SUSPEND_TO_RAM, boot::secondary_entry(), 0],
                ),
                ERR_DENIED,
                "a suspend beside other harts",
            ),
            _ => Ok(()),
        };
        barrier.wait()?;
        outcome
    })
}

fn resume_nowhere(_: &Machine) -> Outcome {
    needed()?;
    for address in [0, 0x2000_0000] {
        let answer = call(EID_SUSP, SUSPEND, &[SUSPEND_TO_RAM, address, 0]);
        expect_error(answer, ERR_INVALID_ADDRESS, "a resume where no memory is")?;
    }
    Ok(())
}

fn unknown_function(_: &Machine) -> Outcome {
    needed()?;
    expect_error(
        call(EID_SUSP, 0x7fff, &[]),
        ERR_NOT_SUPPORTED,
        "function 0x7fff",
    )
}
