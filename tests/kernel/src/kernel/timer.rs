//! The timer: ticks by SBI's TIME extension and by `stimecmp` (Sstc; RISC-V Privileged Architecture, chapter '"Sstc"
//! Extension').

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::csr::{self, TIMER};
use super::machine::Machine;
use super::report::Outcome;
use super::trap;
use super::{sbi, smp, time};

tests! { TESTS:
    "timer-ticks-by-sbi" => ticks_by_sbi,
    "timer-ticks-by-stimecmp" => ticks_by_stimecmp,
    "timer-past-deadline" => past_deadline,
    "timer-wakes-wfi" => wakes_wfi,
    "timer-disabled-is-pending" => disabled_is_pending,
    "timer-time-advances" => time_advances,
    "timer-time-agrees" => time_agrees,
}

/// Whether the harts have Sstc.
static SSTC: AtomicBool = AtomicBool::new(false);

/// Looks for the best way to set the timer.
pub fn init(machine: &Machine) {
    SSTC.store(machine.has_extension("sstc"), Relaxed);
}

/// Has the timer be due at this value of the `time` register, by `stimecmp` where there is one.
pub fn set(due: u64) {
    if SSTC.load(Relaxed) {
        set_stimecmp(due);
    } else {
        let _ = sbi::time::set_timer(due);
    }
}

/// No timer interrupt, not even one that is pending.
pub fn stop() {
    set(u64::MAX);
}

const TICKS: u32 = 100;

/// Microseconds from one tick to the next.
const PERIOD: u64 = 100;

/// A hundred ticks, one after the other, on every hart at the same time. None may come early.
fn ticks(machine: &Machine, set: fn(u64)) -> Outcome {
    smp::everywhere(machine, &|_| {
        let hart = trap::this_hart();
        let first = hart.timer.load(Relaxed);
        let outcome = csr::taking(TIMER, || {
            for tick in 1..=TICKS {
                let due = time::now() + time::ticks(PERIOD);
                set(due);
                let came = time::wait_for(|| hart.timer.load(Relaxed).wrapping_sub(first) >= tick);
                check!(came, "tick {tick} does not come on hart {}", hart.id());
                check!(
                    time::now() >= due,
                    "tick {tick} comes early on hart {}",
                    hart.id()
                );
            }
            Ok(())
        });
        outcome?;
        check_eq!(
            hart.timer.load(Relaxed).wrapping_sub(first),
            TICKS,
            "ticks on hart {}",
            hart.id()
        );
        Ok(())
    })
}

fn ticks_by_sbi(machine: &Machine) -> Outcome {
    ticks(machine, |due| {
        let _ = sbi::time::set_timer(due);
    })
}

fn ticks_by_stimecmp(machine: &Machine) -> Outcome {
    if !SSTC.load(Relaxed) {
        skip!("there is no Sstc");
    }
    ticks(machine, set_stimecmp)
}

fn set_stimecmp(due: u64) {
    csr_write!("0x14d", due as usize);
}

/// A time that has passed is due at once.
fn past_deadline(_: &Machine) -> Outcome {
    for due in [0, time::now()] {
        stop();
        check!(
            !csr::pending(TIMER),
            "a timer that is set to the far future is pending"
        );
        set(due);
        check!(
            time::wait_for(|| csr::pending(TIMER)),
            "a timer that is set to {due:#x} is not pending"
        );
    }
    stop();
    Ok(())
}

/// `wfi` ends with an interrupt that is enabled in `sie`, taken or not.
fn wakes_wfi(machine: &Machine) -> Outcome {
    smp::everywhere(machine, &|_| {
        csr_write!("sie", TIMER);
        let due = time::now() + time::ticks(1000);
        set(due);
        while !csr::pending(TIMER) {
            // SAFETY: waits, and does nothing else. The timer's interrupt, which ends it, is enabled.
            unsafe { core::arch::asm!("wfi", options(nomem, nostack)) };
        }
        check!(time::now() >= due, "the timer is pending early");
        csr_write!("sie", 0);
        Ok(())
    })
}

/// An interrupt that is disabled in `sie` is pending, and not taken; then it is.
fn disabled_is_pending(_: &Machine) -> Outcome {
    let hart = trap::this_hart();
    let before = hart.timer.load(Relaxed);
    set(0);
    let pending = csr::taking(0, || time::wait_for(|| csr::pending(TIMER)));
    check!(pending, "the timer is not pending");
    check_eq!(
        hart.timer.load(Relaxed),
        before,
        "interrupts taken while disabled"
    );
    let taken = csr::taking(TIMER, || {
        time::wait_for(|| hart.timer.load(Relaxed) != before)
    });
    check!(taken, "the pending interrupt is not taken once enabled");
    Ok(())
}

/// Time goes on, and never back.
fn time_advances(machine: &Machine) -> Outcome {
    smp::everywhere(machine, &|_| {
        let mut last = time::now();
        for _ in 0..1000 {
            let now = time::now();
            check!(now >= last, "time goes back from {last:#x} to {now:#x}");
            last = now;
        }
        check!(time::wait_for(|| time::now() > last), "time stands still");
        Ok(())
    })
}

/// What one hart has seen of the time is not in another's future: both count the same.
fn time_agrees(machine: &Machine) -> Outcome {
    use core::sync::atomic::AtomicU64;
    use core::sync::atomic::Ordering::{AcqRel, Acquire};

    smp::several(machine)?;
    let latest = AtomicU64::new(0);
    smp::everywhere(machine, &|_| {
        for _ in 0..200 {
            let seen = latest.load(Acquire);
            // The load of time is not ordered after that of memory by itself.
            super::mmio::fence();
            let now = time::now();
            // A tick's tolerance (RISC-V Unprivileged Architecture, "Zicntr": synchronized to within one tick).
            check!(
                now + 1 >= seen,
                "hart {} is {} ticks behind",
                trap::this_hart().id(),
                seen - now
            );
            latest.fetch_max(now, AcqRel);
        }
        Ok(())
    })
}
