//! loom's types in place of those that the crates' `sync` modules have.

use std::cell::Cell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

pub use loom::sync::RwLock;
pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub use loom::thread::JoinHandle;

use crate::lock;

/// From this limit on, a wait with a limit is one without. Shorter limits are over at once: the thread lets others run, and
/// goes on whatever they do.
const NEVER: Duration = Duration::from_secs(60);

thread_local! {
    /// What the limits that are over add up to. All threads of a scenario run in one thread of the system, one at a time.
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A point in the time that passes in short waits and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// This point.
    #[must_use]
    pub fn now() -> Self {
        Self(CLOCK.get())
    }

    /// As std's.
    #[must_use]
    pub fn checked_add(&self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }

    /// As std's.
    #[must_use]
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// As std's.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Self::now().saturating_duration_since(*self)
    }
}

/// A mutex. Its guards know it, so that [`Condvar`] can let it go for a while.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(loom::sync::Mutex<T>);

/// What a locked [`Mutex`] holds.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    guard: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// As std's.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// As std's.
    ///
    /// # Errors
    /// None here.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { mutex: self, guard })
    }

    /// As std's.
    ///
    /// # Errors
    /// It is locked.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let guard = self.0.try_lock().map_err(|_| TryLockError::WouldBlock)?;
        Ok(MutexGuard { mutex: self, guard })
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A condition variable. Nothing wakes up without a reason.
#[derive(Debug, Default)]
pub struct Condvar(loom::sync::Condvar);

impl Condvar {
    /// As std's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As std's.
    ///
    /// # Errors
    /// None here.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let MutexGuard { mutex, guard } = guard;
        let guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { mutex, guard })
    }

    /// As std's, without the result: nobody asks for it.
    ///
    /// # Errors
    /// None here.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        if timeout >= NEVER {
            return Ok((lock_result(self.wait(guard)), ()));
        }
        let mutex = guard.mutex;
        drop(guard);
        loom::thread::yield_now();
        CLOCK.set(CLOCK.get().saturating_add(timeout));
        Ok((lock(mutex), ()))
    }

    /// As std's.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// As std's.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

fn lock_result<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// An eventfd (eventfd(2)) that blocks. It also stands for one that is waited for by epoll(7) and its edges, or read after that.
#[derive(Clone, Debug, Default)]
pub struct EventFd(Arc<(Mutex<u64>, Condvar)>);

impl EventFd {
    /// As vmm-sys-util's, for any flags.
    ///
    /// # Errors
    /// None here.
    pub fn new(_flags: i32) -> io::Result<Self> {
        Ok(Self::default())
    }

    /// Adds to the count.
    ///
    /// # Errors
    /// None here: the count does not overflow.
    pub fn write(&self, value: u64) -> io::Result<()> {
        let (count, written) = &*self.0;
        let mut count = lock(count);
        *count = count.saturating_add(value);
        written.notify_all();
        Ok(())
    }

    /// Waits until the count is not zero, and sets it to zero.
    ///
    /// # Errors
    /// None here: nothing interrupts the wait.
    pub fn read(&self) -> io::Result<u64> {
        let (count, written) = &*self.0;
        let mut count = lock(count);
        while *count == 0 {
            count = lock_result(written.wait(count));
        }
        Ok(std::mem::take(&mut count))
    }
}
