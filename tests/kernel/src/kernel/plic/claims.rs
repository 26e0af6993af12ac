//! Which source interrupts whom, and what claim and completion do to it. The source is the serial port, whose level is
//! raised and lowered at will.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::kernel::csr::{self, EXTERNAL};
use crate::kernel::machine::{Machine, PlicNode};
use crate::kernel::report::Outcome;
use crate::kernel::rtc::Alarm;
use crate::kernel::uart::Loopback;
use crate::kernel::{smp, time};

use super::{Context, is_pending, plic};

tests! { TESTS:
    "plic-claim-and-complete" => claim_and_complete,
    "plic-claim-of-nothing" => claim_of_nothing,
    "plic-claim-masks-until-complete" => masks,
    "plic-level-high-at-complete" => high_at_complete,
    "plic-request-outlives-level" => request_stays,
    "plic-complete-of-unclaimed" => complete_unclaimed,
    "plic-complete-of-disabled" => complete_disabled,
    "plic-complete-of-no-source" => complete_no_source,
    "plic-threshold-masks" => threshold,
    "plic-threshold-lowered" => threshold_lowered,
    "plic-threshold-is-none-for-claims" => threshold_claim,
    "plic-priority-zero-is-never" => priority_zero,
    "plic-priority-raised" => priority_raised,
    "plic-highest-priority-first" => highest_first,
    "plic-lowest-source-first" => lowest_first,
    "plic-enable-while-pending" => enable_pending,
    "plic-source-is-one-for-all-harts" => one_for_all,
    "plic-claim-lowers-other-harts" => lowers_others,
}

/// The serial port as a source at priority 1, enabled in the boot hart's context. The source is idle before and after.
struct Setup<'a> {
    plic: &'a PlicNode,
    source: u32,
    context: Context,
    port: Loopback,
}

impl<'a> Setup<'a> {
    fn new(machine: &'a Machine) -> Outcome<Self> {
        let plic = plic(machine)?;
        let setup = Self {
            plic,
            source: machine.uart.source,
            context: Context::supervisor(plic, 0),
            port: Loopback::new(machine),
        };
        setup.context.enable(setup.source);
        setup.context.set_priority(setup.source, 1);
        setup.drain();
        check!(
            !is_pending(plic.base, setup.source),
            "the source is pending before anything"
        );
        Ok(setup)
    }

    /// Takes what is pending or claimed away. The level is low.
    fn drain(&self) {
        self.context.enable(self.source);
        self.context.set_priority(self.source, 1);
        self.context.complete(self.source);
        while self.context.claim() != 0 {
            self.context.complete(self.source);
        }
    }

    fn is_pending(&self) -> bool {
        is_pending(self.plic.base, self.source)
    }

    /// Asserts that the source waits and the hart is told so.
    fn expect_interrupt(&self, when: &str) -> Outcome {
        check!(
            time::wait_for(|| self.is_pending()),
            "the source is not pending {when}"
        );
        check!(
            time::wait_for(|| csr::pending(EXTERNAL)),
            "the hart is not interrupted {when}"
        );
        Ok(())
    }

    /// Asserts that the hart is not told of anything.
    fn expect_silence(&self, when: &str) -> Outcome {
        check!(
            !time::comes(|| csr::pending(EXTERNAL)),
            "the hart is interrupted {when}"
        );
        Ok(())
    }

    fn expect_claim(&self, expected: u32, when: &str) -> Outcome {
        check_eq!(self.context.claim(), expected, "the claim {when}");
        Ok(())
    }
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        self.port.lower();
        self.drain();
        self.context.set_priority(self.source, 0);
    }
}

fn claim_and_complete(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.expect_silence("before")?;
    for _ in 0..3 {
        setup.port.raise()?;
        setup.expect_interrupt("when its level is high")?;
        setup.expect_claim(setup.source, "of a pending source")?;
        check!(
            !setup.is_pending(),
            "the claim does not clear the pending bit"
        );
        setup.expect_silence("after the claim")?;
        setup.port.lower();
        setup.context.complete(setup.source);
        setup.expect_silence("after the completion")?;
        check!(
            !setup.is_pending(),
            "the source is pending after completion, with its level low"
        );
    }
    Ok(())
}

fn claim_of_nothing(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    for _ in 0..3 {
        setup.expect_claim(0, "of nothing")?;
    }
    // It also leaves nothing to complete.
    setup.port.raise()?;
    setup.expect_interrupt("after claims of nothing")
}

/// The gateway lets no second request through before the first one is completed, whatever the level does (section 1.2).
fn masks(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.port.raise()?;
    setup.expect_interrupt("when its level is high")?;
    setup.expect_claim(setup.source, "of a pending source")?;
    for _ in 0..2 {
        setup.port.lower();
        setup.port.raise()?;
        setup.expect_silence("while it is claimed")?;
        setup.expect_claim(0, "while it is claimed")?;
    }
    Ok(())
}

/// A level that is still high at completion is the next request.
fn high_at_complete(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.port.raise()?;
    setup.expect_interrupt("when its level is high")?;
    for _ in 0..3 {
        setup.expect_claim(setup.source, "of a pending source")?;
        setup.context.complete(setup.source);
        if !time::comes(|| setup.is_pending()) {
            fail!("the source is not pending after completion, with its level high");
        }
        setup.expect_interrupt("after completion")?;
    }
    Ok(())
}

/// A request stays where it is when the level falls before it is claimed (section 1.2).
fn request_stays(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.port.raise()?;
    setup.expect_interrupt("when its level is high")?;
    setup.port.lower();
    check!(setup.is_pending(), "the request is gone with the level");
    setup.expect_claim(setup.source, "after its level fell")
}

fn complete_unclaimed(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.context.complete(setup.source);
    setup.port.raise()?;
    setup.expect_interrupt("when its level is high")?;
    setup.context.complete(setup.source);
    check!(
        setup.is_pending(),
        "completing a source that is not claimed takes its request"
    );
    setup.expect_claim(setup.source, "after a completion without a claim")
}

/// "If the completion ID does not match an interrupt source that is currently enabled for the target, the completion is
/// silently ignored" (section 9).
fn complete_disabled(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.port.raise()?;
    setup.expect_interrupt("when its level is high")?;
    setup.expect_claim(setup.source, "of a pending source")?;
    setup.context.disable(setup.source);
    setup.context.complete(setup.source);
    // Were it completed, a new rise of the level would be a request.
    setup.port.lower();
    setup.port.raise()?;
    setup.context.enable(setup.source);
    setup.expect_silence("after a completion that is to be ignored")?;
    setup.expect_claim(0, "after a completion that is to be ignored")
}

fn complete_no_source(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.port.raise()?;
    setup.expect_interrupt("when its level is high")?;
    setup.expect_claim(setup.source, "of a pending source")?;
    for source in [0, setup.plic.sources + 1, 1023, 1024, u32::MAX] {
        setup.context.complete(source);
    }
    setup.expect_silence("after completions of no source")?;
    setup.port.lower();
    setup.context.complete(setup.source);
    setup.port.raise()?;
    setup.expect_interrupt("after its own completion")
}

/// Only priorities above the threshold interrupt.
fn threshold(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    for (threshold, interrupts) in [(7, false), (3, false), (2, true), (0, true)] {
        setup.context.set_priority(setup.source, 3);
        setup.context.set_threshold(threshold);
        setup.port.raise()?;
        check!(
            setup.is_pending(),
            "a threshold keeps a source from becoming pending"
        );
        if interrupts {
            setup.expect_interrupt("with its priority above the threshold")?;
        } else {
            setup.expect_silence("with its priority not above the threshold")?;
        }
        setup.port.lower();
        setup.context.set_threshold(0);
        setup.drain();
    }
    Ok(())
}

/// A write of the threshold counts for what is pending already.
fn threshold_lowered(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.context.set_threshold(1);
    setup.port.raise()?;
    setup.expect_silence("with threshold 1")?;
    for _ in 0..3 {
        setup.context.set_threshold(0);
        setup.expect_interrupt("with the threshold lowered to 0")?;
        setup.context.set_threshold(1);
        setup.expect_silence("with the threshold raised to 1")?;
    }
    Ok(())
}

/// "The claim operation is not affected by the setting of the priority threshold" (section 8).
fn threshold_claim(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.context.set_threshold(7);
    setup.port.raise()?;
    setup.expect_silence("with threshold 7")?;
    setup.expect_claim(setup.source, "with threshold 7")
}

/// "A priority value of 0 is reserved to mean 'never interrupt'" (section 4).
fn priority_zero(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.context.set_priority(setup.source, 0);
    setup.port.raise()?;
    setup.expect_silence("at priority 0")?;
    setup.expect_claim(0, "at priority 0")
}

/// A priority counts for what is pending already.
fn priority_raised(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.context.set_priority(setup.source, 0);
    setup.port.raise()?;
    setup.expect_silence("at priority 0")?;
    setup.context.set_priority(setup.source, 1);
    setup.expect_interrupt("at priority 1")?;
    setup.context.set_priority(setup.source, 0);
    setup.expect_silence("at priority 0 again")
}

/// Claims what is pending with these priorities of the serial port and the clock.
fn two(machine: &Machine, of_port: u32, of_clock: u32) -> Outcome<[u32; 3]> {
    let setup = Setup::new(machine)?;
    let Some(clock) = machine.rtc else {
        skip!("there is no second device");
    };
    let alarm = Alarm::new(clock.base);
    setup.context.enable(clock.source);
    setup.context.set_priority(setup.source, of_port);
    setup.context.set_priority(clock.source, of_clock);
    setup.port.raise()?;
    alarm.go_off();
    let came = time::wait_for(|| is_pending(setup.plic.base, clock.source));
    let claims = core::array::from_fn(|_| setup.context.claim());
    drop(alarm);
    setup.context.complete(clock.source);
    setup.context.set_priority(clock.source, 0);
    check!(came, "the clock's alarm is not pending");
    Ok(claims)
}

fn highest_first(machine: &Machine) -> Outcome {
    for (of_port, of_clock) in [(1, 2), (2, 1), (6, 7)] {
        let claims = two(machine, of_port, of_clock)?;
        let (port, clock) = (
            machine.uart.source,
            machine.rtc.map_or(0, |clock| clock.source),
        );
        let expected = if of_port > of_clock {
            [port, clock, 0]
        } else {
            [clock, port, 0]
        };
        check!(
            claims == expected,
            "claims at priorities {of_port} and {of_clock} are {claims:?}, not {expected:?}"
        );
    }
    Ok(())
}

/// "Interrupts with the same priority: the interrupt with the lowest ID has the highest effective priority" (section 1.4).
fn lowest_first(machine: &Machine) -> Outcome {
    let claims = two(machine, 2, 2)?;
    let (port, clock) = (
        machine.uart.source,
        machine.rtc.map_or(0, |clock| clock.source),
    );
    let expected = [port.min(clock), port.max(clock), 0];
    check!(
        claims == expected,
        "claims at the same priority are {claims:?}, not {expected:?}"
    );
    Ok(())
}

/// Enabling counts for what is pending already, and disabling does not take it away.
fn enable_pending(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine)?;
    setup.context.disable(setup.source);
    setup.port.raise()?;
    setup.expect_silence("while disabled")?;
    check!(
        setup.is_pending(),
        "a source is not pending while it is disabled"
    );
    setup.expect_claim(0, "while disabled")?;
    setup.context.enable(setup.source);
    setup.expect_interrupt("once enabled")?;
    setup.context.disable(setup.source);
    setup.expect_silence("once disabled")?;
    check!(setup.is_pending(), "disabling a source takes its request");
    Ok(())
}

/// What one hart has claimed, another one cannot claim, and is not interrupted by.
fn one_for_all(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    smp::several(machine)?;
    let setup = Setup::new(machine)?;
    let other = Context::supervisor(plic, 1);
    other.enable(setup.source);
    setup.port.raise()?;
    setup.expect_interrupt("when its level is high")?;
    check_eq!(
        other.claim(),
        setup.source,
        "the claim of the other hart's context"
    );
    setup.expect_silence("after another hart's claim")?;
    setup.expect_claim(0, "after another hart's claim")?;
    setup.port.lower();
    setup.port.raise()?;
    setup.expect_silence("while it is claimed by another hart")?;
    setup.expect_claim(0, "while it is claimed by another hart")?;
    setup.port.lower();
    other.complete(setup.source);
    setup.port.raise()?;
    setup.expect_interrupt("after another hart's completion")
}

/// Both harts are interrupted, and after one's claim neither is.
fn lowers_others(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    smp::several(machine)?;
    let setup = Setup::new(machine)?;
    let other = Context::supervisor(plic, 1);
    let claimed = AtomicBool::new(false);
    let ready = AtomicBool::new(false);
    let waiting = AtomicBool::new(false);
    smp::beside(
        machine,
        1,
        &|_| {
            // Only now: firmware may reset the context of a hart that it starts.
            other.enable(setup.source);
            other.set_threshold(0);
            ready.store(true, Relaxed);
            check!(
                time::wait_for(|| csr::pending(EXTERNAL)),
                "the other hart is not interrupted"
            );
            waiting.store(true, Relaxed);
            check!(
                time::wait_for(|| claimed.load(Relaxed)),
                "the boot hart does not claim"
            );
            check!(
                time::wait_for(|| !csr::pending(EXTERNAL)),
                "the other hart is still interrupted"
            );
            Ok(())
        },
        || {
            check!(
                time::wait_for(|| ready.load(Relaxed)),
                "the other hart does not start"
            );
            setup.port.raise()?;
            setup.expect_interrupt("when its level is high")?;
            check!(
                time::wait_for(|| waiting.load(Relaxed)),
                "the other hart does not come"
            );
            setup.expect_claim(setup.source, "with both harts interrupted")?;
            claimed.store(true, Relaxed);
            setup.expect_silence("after its own claim")
        },
    )
}
