//! Limits for tests that wait for another thread. A test that never gets what it waits for fails with a message, instead of
//! running until somebody ends the whole suite.
//!
//! The limit is no measure of speed: it is far longer than anything takes on a slow and busy machine.

use std::io::Write;
use std::panic::Location;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a test waits for one thing: 60 s, or as many seconds as the environment variable `HV_TEST_LIMIT` says when this is
/// compiled. A search for mutants that no test notices sets fewer, as it meets the limit again and again.
pub const LIMIT: Duration = Duration::from_secs(match option_env!("HV_TEST_LIMIT") {
    Some(seconds) => match u64::from_str_radix(seconds, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("HV_TEST_LIMIT is no number of seconds"),
    },
    None => 60,
});

/// [`LIMIT`] for system calls that take milliseconds.
#[allow(clippy::cast_possible_truncation)] // It is looked at just before.
pub const MILLISECONDS: i32 = {
    let milliseconds = LIMIT.as_millis();
    assert!(
        milliseconds <= i32::MAX as u128,
        "HV_TEST_LIMIT is too long"
    );
    milliseconds as i32
};

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

/// Joins a thread that ends by itself, and returns what it does.
///
/// # Panics
/// If it panics, or takes longer than [`LIMIT`].
#[track_caller]
pub fn join<T>(thread: JoinHandle<T>) -> T {
    until(|| thread.is_finished());
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Does something that may block, in a thread of its own, and returns what that does.
///
/// # Panics
/// If it panics, or takes longer than [`LIMIT`].
#[track_caller]
pub fn within<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    join(thread::spawn(action))
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

    #[test]
    fn what_ends_is_joined() {
        assert_eq!(within(|| 42), 42);
        let panics = thread::spawn(|| {
            within(|| assert!(thread::current().name().is_some(), "this is a test"));
        });
        assert!(panics.join().is_err());
    }
}
