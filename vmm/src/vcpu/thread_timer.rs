//! A timer that signals one thread.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

/// A timer of the system (timer_create(2)) that signals the thread which made it, again and again. The timer ends with this
/// value.
#[derive(Debug)]
pub struct ThreadTimer {
    id: libc::timer_t,
    period: Duration,
    /// It stays in its thread.
    _thread: PhantomData<*const ()>,
}

impl ThreadTimer {
    /// A timer for the calling thread, with this signal. It does not run yet.
    ///
    /// # Errors
    /// The user has too many signals pending or timers (RLIMIT_SIGPENDING).
    pub fn new(signal: libc::c_int) -> io::Result<Self> {
        // SAFETY: the structure is made of integers, and of a pointer that is not used.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        // SAFETY: no memory is touched.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut id = ptr::null_mut();
        // SAFETY: both structures live across the call, which reads one and writes the other.
        match unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut id) } {
            0 => Ok(Self {
                id,
                period: Duration::ZERO,
                _thread: PhantomData,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Lets it signal once in every period from now on, which is less than a minute and not zero.
    ///
    /// # Errors
    /// That of timer_settime(2).
    pub fn repeat(&mut self, period: Duration) -> io::Result<()> {
        if period == self.period {
            return Ok(());
        }
        let each = libc::timespec {
            tv_sec: libc::time_t::try_from(period.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(period.subsec_nanos().cast_signed()),
        };
        let setting = libc::itimerspec {
            it_interval: each,
            it_value: each,
        };
        // SAFETY: the timer is this value's, and the structure lives across the call, which reads it.
        match unsafe { libc::timer_settime(self.id, 0, &setting, ptr::null_mut()) } {
            0 => {
                self.period = period;
                Ok(())
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's, and nothing uses it afterwards.
        unsafe { libc::timer_delete(self.id) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

    use super::*;

    static THREAD: AtomicI32 = AtomicI32::new(0);

    extern "C" fn note(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: no memory is touched.
        THREAD.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    }

    #[test]
    fn a_dropped_timer_is_deleted() {
        let timer = ThreadTimer::new(SIGRTMIN() + 7).unwrap();
        let id = timer.id;
        let look = || {
            // SAFETY: all zeros are a valid value of these integers.
            let mut left: libc::itimerspec = unsafe { std::mem::zeroed() };
            // SAFETY: the value lives across the call. The kernel refuses an id of no timer.
            unsafe { libc::timer_gettime(id, &raw mut left) }
        };
        assert_eq!(look(), 0);
        drop(timer);
        assert_eq!(look(), -1);
    }

    #[test]
    fn the_thread_that_made_it_is_signalled_more_than_once() {
        let signal = SIGRTMIN() + 7;
        register_signal_handler(signal, note).unwrap();
        let thread = std::thread::spawn(move || {
            let mut timer = ThreadTimer::new(signal).unwrap();
            timer.repeat(Duration::from_millis(1)).unwrap();
            // SAFETY: no memory is touched.
            let own = unsafe { libc::gettid() };
            for _ in 0..2 {
                hv_test_limit::until(|| THREAD.swap(0, Ordering::Relaxed) == own);
            }
        });
        hv_test_limit::join(thread);
    }
}
