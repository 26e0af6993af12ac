//! Hart state management.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sbi_spec::hsm::hart_state::{STARTED, SUSPENDED};
use sbi_spec::hsm::suspend_type::{NON_RETENTIVE, RETENTIVE};
use sbi_spec::hsm::{EID_HSM, HART_GET_STATUS, HART_START, HART_STOP, HART_SUSPEND};

use super::{
    Answer, ERR_ALREADY_AVAILABLE, ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, call, expect_error,
    expect_success, resume,
};
use crate::kernel::csr::{self, SOFTWARE, SSTATUS_SIE, TIMER};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::trap::{self, this_hart};
use crate::kernel::{boot, smp, time, timer};

tests! { TESTS:
    "hsm-status-of-this-hart" => status_here,
    "hsm-start-and-stop" => start_and_stop,
    "hsm-start-again-and-again" => restarts,
    "hsm-state-at-start" => state_at_start,
    "hsm-start-of-a-started-hart" => start_started,
    "hsm-start-of-no-hart" => start_nobody,
    "hsm-status-of-no-hart" => status_nobody,
    "hsm-suspend-wakes-by-interrupt" => suspend,
    "hsm-suspend-without-state-loses-no-interrupt" => suspend_without_state,
    "hsm-suspend-of-a-reserved-type" => suspend_reserved,
    "hsm-unknown-function" => unknown_function,
}

/// A hart id that no machine of ours has.
const NOBODY: usize = 0x7fff;

/// Has this hart begin at `address`, with `opaque` in a1.
pub fn start(hart: usize, address: usize, opaque: usize) -> Answer {
    call(EID_HSM, HART_START, &[hart, address, opaque])
}

/// Stops the hart that calls. Returns only if it fails.
pub fn stop() -> Answer {
    call(EID_HSM, HART_STOP, &[])
}

/// The state of a hart.
pub fn status(hart: usize) -> Answer {
    call(EID_HSM, HART_GET_STATUS, &[hart])
}

fn status_here(machine: &Machine) -> Outcome {
    let state = expect_success(status(machine.harts[0]), "the status")?;
    check_eq!(state, STARTED, "the state of the hart that asks");
    Ok(())
}

/// The states of another hart, on its way to work and back. `smp` checks the last one.
fn start_and_stop(machine: &Machine) -> Outcome {
    smp::several(machine)?;
    for (index, id) in machine.harts.iter().enumerate().skip(1) {
        let seen = AtomicUsize::new(usize::MAX);
        smp::beside(
            machine,
            index,
            &|_| {
                seen.store(*id, Relaxed);
                let state = expect_success(status(*id), "the status")?;
                check_eq!(state, STARTED, "the state of a hart that runs");
                Ok(())
            },
            || Ok(()),
        )?;
        check_eq!(seen.load(Relaxed), *id, "the hart that was started");
    }
    Ok(())
}

fn restarts(machine: &Machine) -> Outcome {
    smp::several(machine)?;
    let rounds = AtomicUsize::new(0);
    for _ in 0..20 {
        smp::everywhere(machine, &|_| {
            rounds.fetch_add(1, Relaxed);
            Ok(())
        })?;
    }
    check_eq!(
        rounds.load(Relaxed),
        20 * machine.harts.len(),
        "how often harts ran"
    );
    Ok(())
}

/// A hart starts with translation off and interrupts disabled, its id in a0 and what it was given in a1 ("Function: Hart
/// start"). That a1 is right shows in that it gets here.
fn state_at_start(machine: &Machine) -> Outcome {
    smp::several(machine)?;
    smp::everywhere(machine, &|index| {
        if index != 0 {
            check_eq!(this_hart().id(), machine.harts[index], "the hart id in a0");
            check_eq!(csr_read!("satp"), 0, "satp");
            check_eq!(csr_read!("sstatus") & SSTATUS_SIE, 0, "sstatus.SIE");
        }
        Ok(())
    })
}

fn start_started(machine: &Machine) -> Outcome {
    let entry = boot::secondary_entry();
    expect_error(
        start(machine.harts[0], entry, 0),
        ERR_ALREADY_AVAILABLE,
        "starting the hart that calls",
    )
}

fn start_nobody(_: &Machine) -> Outcome {
    for hart in [NOBODY, usize::MAX] {
        let answer = start(hart, boot::secondary_entry(), 0);
        expect_error(
            answer,
            ERR_INVALID_PARAM,
            "starting a hart that is not there",
        )?;
    }
    Ok(())
}

fn status_nobody(_: &Machine) -> Outcome {
    for hart in [NOBODY, usize::MAX] {
        expect_error(
            status(hart),
            ERR_INVALID_PARAM,
            "the status of a hart that is not there",
        )?;
    }
    Ok(())
}

/// A hart that suspends itself with its state retained goes on after the call, when an interrupt comes that it has enabled.
fn suspend(machine: &Machine) -> Outcome {
    let seen = AtomicUsize::new(STARTED);
    let hart = machine.harts[0];
    smp::everywhere(machine, &|index| {
        if index != 0 {
            // What it sees is one of several states, and none that a hart is not in.
            let state = expect_success(status(hart), "the status")?;
            check!(
                state == STARTED || state >= SUSPENDED,
                "a suspended hart's state is {state}"
            );
            seen.store(state, Relaxed);
            return Ok(());
        }
        csr_write!("sie", TIMER);
        let due = time::now() + time::ticks(2000);
        timer::set(due);
        let mut answer;
        // A hart may come back for other reasons than an interrupt.
        loop {
            answer = call(EID_HSM, HART_SUSPEND, &[RETENTIVE as usize, 0, 0]);
            if answer.error != 0 || csr::pending(TIMER) {
                break;
            }
        }
        csr_write!("sie", 0);
        expect_success(answer, "suspending")?;
        check!(time::now() >= due, "the timer is pending early");
        Ok(())
    })
}

/// A hart that suspends itself without its state resumes where it asked to ("Function: Hart suspend"). The interrupt that
/// woke it is for it to take: it did not sleep to lose a timer or a message of another hart.
fn suspend_without_state(machine: &Machine) -> Outcome {
    let hart = machine.harts[0];
    for (wake, name) in [(TIMER, "the timer"), (SOFTWARE, "a message")] {
        csr_write!("sie", TIMER);
        let due = time::now() + time::ticks(2000);
        timer::set(due);
        if wake == SOFTWARE {
            csr_write!("sie", SOFTWARE);
            let sent = super::ipi::send(1, hart);
            expect_success(sent, "a message to oneself")?;
        }
        let suspended = resume::suspend(EID_HSM, HART_SUSPEND, NON_RETENTIVE as usize);
        let (status, satp) = (csr_read!("sstatus"), csr_read!("satp"));
        trap::enter(0, hart);
        if suspended.result == ERR_NOT_SUPPORTED {
            timer::stop();
            csr_clear!("sip", SOFTWARE);
            skip!("harts do not suspend without their state");
        }
        check!(
            suspended.result == resume::RESUMED,
            "suspending is answered with {}",
            suspended.result
        );
        check_eq!(suspended.hart, hart, "the hart id in a0");
        check_eq!(status & SSTATUS_SIE, 0, "sstatus.SIE");
        check_eq!(satp, 0, "satp");
        check!(csr::pending(wake), "{name} woke it and is not pending");
        check!(
            time::wait_for(|| csr::pending(TIMER)),
            "the timer was forgotten"
        );
        timer::stop();
        csr_clear!("sip", SOFTWARE);
    }
    Ok(())
}

fn suspend_reserved(_: &Machine) -> Outcome {
    for kind in [1, 0x0fff_ffff] {
        let answer = call(EID_HSM, HART_SUSPEND, &[kind, 0, 0]);
        expect_error(answer, ERR_INVALID_PARAM, "suspending in a reserved way")?;
    }
    Ok(())
}

fn unknown_function(_: &Machine) -> Outcome {
    expect_error(
        call(EID_HSM, 0x7fff, &[]),
        ERR_NOT_SUPPORTED,
        "function 0x7fff",
    )
}
