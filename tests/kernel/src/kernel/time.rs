//! Time, as the `time` register counts it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Hz.
static FREQUENCY: AtomicU64 = AtomicU64::new(10_000_000);

/// For what has to happen. Nothing on a machine that works takes this long, however slow whatever emulates it is. A disk of the
/// developer's machine may take ten seconds for a request while compilers and other guests write to it.
const LIMIT: u64 = 60_000_000;

/// For what must not happen: an interrupt that is wrong comes at once.
const MOMENT: u64 = 300;

/// Takes the frequency of the `time` register, in Hz.
pub fn init(frequency: u64) {
    FREQUENCY.store(frequency.max(1), Relaxed);
}

/// The `time` register.
pub fn now() -> u64 {
    csr_read!("time") as u64
}

/// So many ticks of the `time` register are so many microseconds.
pub fn ticks(microseconds: u64) -> u64 {
    microseconds.saturating_mul(FREQUENCY.load(Relaxed)) / 1_000_000
}

/// And the other way round.
pub fn microseconds(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000) / FREQUENCY.load(Relaxed)
}

/// Waits until `condition` holds, and returns whether it did in time.
#[must_use]
pub fn wait_for(condition: impl FnMut() -> bool) -> bool {
    within(LIMIT, condition)
}

/// The same for what itself waits for several things, one after the other.
#[must_use]
pub fn wait_longer_for(condition: impl FnMut() -> bool) -> bool {
    within(2 * LIMIT, condition)
}

/// Whether `condition` holds now or shortly, for what must not.
#[must_use]
pub fn comes(condition: impl FnMut() -> bool) -> bool {
    within(MOMENT, condition)
}

fn within(microseconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = now().saturating_add(ticks(microseconds));
    loop {
        if condition() {
            return true;
        }
        if now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
}
