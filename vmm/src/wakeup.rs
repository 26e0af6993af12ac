//! Wakes a machine that the guest has suspended (SBI SUSP), at an interrupt of a device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hv_devices::interrupt::IrqLine;

/// The wake-up logic of one machine.
#[derive(Debug, Default)]
pub struct Wakeup {
    /// The IRQ lines that are high, a bit for each source. The board's sources are all below 64.
    high: AtomicU64,
    sleeping: AtomicBool,
    ended: Mutex<bool>,
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

    /// Waits until an IRQ line is high, the time is over, or the machine ends.
    pub fn wait(&self, timeout: Option<Duration>) {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // `set` stores `high` and then reads `sleeping`; this stores `sleeping` and then reads `high`. So one sees the other.
        self.sleeping.store(true, Ordering::SeqCst);
        while !*ended && self.high.load(Ordering::SeqCst) == 0 {
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            ended = match rest {
                Some(Duration::ZERO) => break,
                Some(rest) => {
                    let waited = self.changed.wait_timeout(ended, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(ended);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// The machine ends: nobody waits any more.
    pub fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn set(&self, bit: u64, high: bool) {
        if !high {
            self.high.fetch_and(!bit, Ordering::SeqCst);
            return;
        }
        self.high.fetch_or(bit, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            // Taking the lock waits for a sleeper between its look and its sleep.
            drop(self.ended.lock());
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
    use super::*;

    struct Nowhere;

    impl IrqLine for Nowhere {
        fn set_level(&self, _: bool) {}
    }

    #[test]
    fn a_high_wire_wakes_and_a_lowered_one_does_not() {
        let wakeup = Arc::new(Wakeup::default());
        let (first, second) = (
            wakeup.wire(10, Arc::new(Nowhere)),
            wakeup.wire(1, Arc::new(Nowhere)),
        );
        first.set_level(true);
        second.set_level(true);
        first.set_level(false);
        wakeup.wait(None);
        second.set_level(false);
        wakeup.wait(Some(Duration::from_millis(1)));
    }

    /// Waits until somebody sleeps.
    fn wait_asleep(wakeup: &Wakeup) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !wakeup.sleeping.load(Ordering::SeqCst) {
            assert!(Instant::now() < limit, "nobody falls asleep");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Who says so and does not sleep yet still has the lock.
        drop(wakeup.ended.lock().unwrap());
    }

    /// What comes when the machine sleeps, and not before.
    #[test]
    fn a_sleeper_is_woken() {
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
                wakeup.end();
            } else {
                wire.set_level(true);
            }
            woken.recv_timeout(Duration::from_secs(60)).unwrap();
            thread.join().unwrap();
            assert!(!wakeup.sleeping.load(Ordering::SeqCst), "nobody sleeps");
            wire.set_level(false);
        }
    }

    #[test]
    fn a_sleeper_hears_of_wires_and_of_the_end() {
        let wakeup = Arc::new(Wakeup::default());
        let wire = wakeup.wire(63, Arc::new(Nowhere));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| wakeup.wait(None));
            wire.set_level(true);
            sleeper.join().unwrap();
            wire.set_level(false);
            let sleeper = scope.spawn(|| wakeup.wait(None));
            wakeup.end();
            sleeper.join().unwrap();
        });
    }
}
