//! Limits for tests that wait for another thread. A test that never gets what it waits for fails with a message, instead of
//! running until somebody ends the whole suite.
//!
//! The limit is no measure of speed: it is far longer than anything takes on a slow and busy machine.

use std::io::Write;
use std::panic::Location;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for one thing.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `done` holds.
///
/// # Panics
/// If that takes longer than [`LIMIT`].
#[track_caller]
pub fn until(mut done: impl FnMut() -> bool) {
    wait_for(|| done().then_some(()));
}

/// Waits until `next` has something, and returns it.
///
/// # Panics
/// If that takes longer than [`LIMIT`].
#[track_caller]
pub fn wait_for<T>(mut next: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = next() {
            return found;
        }
        assert!(
            start.elapsed() < LIMIT,
            "what the test waits for did not come within {LIMIT:?}"
        );
        // Whoever is waited for needs the CPU more, and may be a thread of the lowest priority.
        match start.elapsed() < Duration::from_millis(10) {
            true => thread::yield_now(),
            false => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Watches the test that calls it until it is dropped. A thread that is blocked, such as in a join or a read, cannot be ended: if
/// the test takes longer than twice [`LIMIT`], the whole process ends with a message that names the place of the call.
#[must_use]
#[track_caller]
pub fn watch() -> Watch {
    let place = Location::caller();
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let (done, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        if ended.recv_timeout(2 * LIMIT) == Err(RecvTimeoutError::Timeout) {
            let text = format!("{test} ({place}) has not ended within {:?}\n", 2 * LIMIT);
            // Not by a macro, whose output a test harness keeps to itself.
            let _ = std::io::stderr().write_all(text.as_bytes());
            std::process::abort();
        }
    });
    Watch { _done: done }
}

/// What [`watch`] returns: a test keeps it until its end.
#[derive(Debug)]
pub struct Watch {
    _done: Sender<()>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_returned() {
        let mut rounds = 0..;
        assert_eq!(wait_for(|| rounds.next().filter(|n| *n > 100)), 101);
        until(|| true);
    }
}
