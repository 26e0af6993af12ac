//! Wakes a machine that the guest has suspended (SBI SUSP), at an interrupt of a device.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hv_devices::interrupt::IrqLine;

use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, fence};

/// The wake-up logic of one machine.
#[derive(Debug, Default)]
pub struct Wakeup {
    /// The IRQ lines that are high, a bit for each source. The board's sources are all below 64.
    high: AtomicU64,
    sleeping: AtomicBool,
    /// A sleeper has something else to look at.
    disturbed: Mutex<bool>,
    changed: Condvar,
}

impl Wakeup {
    /// The IRQ line of source `source`: it wakes the machine, and passes each level on to `line`.
    pub fn wire(self: &Arc<Self>, source: u32, line: Arc<dyn IrqLine>) -> Arc<dyn IrqLine> {
        Arc::new(Wire {
            line,
            bit: 1_u64.checked_shl(source).unwrap_or(0),
            wakeup: self.clone(),
        })
    }

    /// Waits until a wire is high or the time is over, which wakes the machine, or until somebody disturbs the sleeper.
    /// Returns whether the machine is awake.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut disturbed = self
            .disturbed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Whoever raises a wire looks at this afterwards, and here the wires are looked at afterwards: with a full barrier in
        // between on both sides, one sees the other.
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let awake = loop {
            if std::mem::take(&mut *disturbed) {
                break false;
            }
            if self.high.load(Ordering::Relaxed) != 0 {
                break true;
            }
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            disturbed = match rest {
                Some(Duration::ZERO) => break true,
                Some(rest) => {
                    let waited = self.changed.wait_timeout(disturbed, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(disturbed);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        };
        self.sleeping.store(false, Ordering::Relaxed);
        awake
    }

    /// Has whoever sleeps, or sleeps next, look at something else: a machine is suspended by one hart.
    pub fn disturb(&self) {
        *self
            .disturbed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn set(&self, bit: u64, high: bool) {
        if !high {
            self.high.fetch_and(!bit, Ordering::Relaxed);
            return;
        }
        self.high.fetch_or(bit, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            // Taking the lock waits for a sleeper between its look and its sleep.
            drop(self.disturbed.lock());
            self.changed.notify_all();
        }
    }
}

struct Wire {
    line: Arc<dyn IrqLine>,
    bit: u64,
    wakeup: Arc<Wakeup>,
}

impl IrqLine for Wire {
    fn set_level(&self, asserted: bool) {
        self.line.set_level(asserted);
        self.wakeup.set(self.bit, asserted);
    }
}

#[cfg(test)]
mod tests {
    use hv_test_limit::{LIMIT, join, until, watch};

    use super::*;

    struct Nowhere;

    impl IrqLine for Nowhere {
        fn set_level(&self, _: bool) {}
    }

    #[test]
    fn a_high_wire_wakes_and_a_lowered_one_does_not() {
        let _watch = watch();
        let wakeup = Arc::new(Wakeup::default());
        let (first, second) = (
            wakeup.wire(10, Arc::new(Nowhere)),
            wakeup.wire(1, Arc::new(Nowhere)),
        );
        first.set_level(true);
        second.set_level(true);
        first.set_level(false);
        assert!(wakeup.wait(None));
        second.set_level(false);
        assert!(wakeup.wait(Some(Duration::from_millis(1))));
    }

    /// Waits until somebody sleeps.
    fn wait_asleep(wakeup: &Wakeup) {
        until(|| wakeup.sleeping.load(Ordering::SeqCst));
        // Who says so and does not sleep yet still has the lock.
        drop(wakeup.disturbed.lock().unwrap());
    }

    /// What comes when the machine sleeps, and not before.
    #[test]
    fn a_sleeper_is_woken() {
        let _watch = watch();
        let wakeup = Arc::new(Wakeup::default());
        let wire = wakeup.wire(7, Arc::new(Nowhere));
        for end in [false, false, true] {
            let (sender, woken) = std::sync::mpsc::channel();
            let sleeper = wakeup.clone();
            let thread = std::thread::spawn(move || {
                sleeper.wait(None);
                sender.send(()).unwrap();
            });
            wait_asleep(&wakeup);
            if end {
                wakeup.disturb();
            } else {
                wire.set_level(true);
            }
            woken.recv_timeout(LIMIT).unwrap();
            join(thread);
            assert!(!wakeup.sleeping.load(Ordering::SeqCst), "nobody sleeps");
            wire.set_level(false);
        }
    }

    #[test]
    fn a_sleeper_hears_of_wires_and_can_be_disturbed() {
        let _watch = watch();
        let wakeup = Arc::new(Wakeup::default());
        let wire = wakeup.wire(63, Arc::new(Nowhere));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| wakeup.wait(None));
            wire.set_level(true);
            until(|| sleeper.is_finished());
            assert!(sleeper.join().unwrap());
            wire.set_level(false);
            let sleeper = scope.spawn(|| wakeup.wait(None));
            wakeup.disturb();
            until(|| sleeper.is_finished());
            assert!(!sleeper.join().unwrap(), "it is not awake");
            // Once for each time.
            let sleeper = scope.spawn(|| wakeup.wait(None));
            wire.set_level(true);
            until(|| sleeper.is_finished());
            assert!(sleeper.join().unwrap());
        });
    }
}
