//! The ways to end a machine from outside, also while it waits for the host's files.
//!
//! On a stalled network file system, opening or reading a file can block without limit, and a large file can take long.
//! So such work is done in a thread of its own. If the machine is ended meanwhile, hvrun does not wait for that thread; what it
//! holds lives until it returns, or the process ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Error;

/// What ends a machine from outside.
#[derive(Debug)]
pub struct Stop {
    /// Written, and never read, when a handle ends the machine.
    pub asked: EventFd,
    /// The descriptor of the machine's owner ([`Config::stop`](crate::Config::stop)).
    pub outside: Option<OwnedFd>,
}

impl Stop {
    /// Nobody has asked for it yet.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new(outside: Option<OwnedFd>) -> Result<Stop, Error> {
        let asked = EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?;
        Ok(Stop { asked, outside })
    }

    /// Whether the machine has been ended. Does not wait.
    pub fn is_asked_for(&self) -> bool {
        let fds = self.descriptors();
        let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// One of these is readable when the machine has been ended. Nobody reads them.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(borrow(&self.asked)).chain(self.outside.as_ref().map(AsFd::as_fd))
    }

    /// Runs `work`, which may block on files of the host, in a thread of its own, and returns its result.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the machine was ended first: then `work` is left behind. [`Error::Host`] if the host has no
    /// thread left.
    pub fn unless_stopped<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?;
        let done = Done(event.try_clone().map_err(Error::host("copy an eventfd"))?);
        let thread = thread::Builder::new()
            .name("files".into())
            .spawn(move || {
                let _done = done;
                work()
            })
            .map_err(Error::host("start a thread for files"))?;
        let is_done = loop {
            let fds = std::iter::once(borrow(&event)).chain(self.descriptors());
            let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => break fds.first().and_then(PollFd::any) == Some(true),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::host("wait for files")(errno)),
            }
        };
        if !is_done {
            return Err(Error::Stopped);
        }
        // A panic of the thread continues here, as it would without the thread.
        Ok(thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Drops `value`, which may wait for the host's storage, in a thread of its own, and waits until that is done: once the machine
    /// has been ended, at most for `patience`. Returns whether it is done; if not, it is left behind.
    pub fn drop<T: Send + 'static>(&self, value: T, patience: Duration) -> bool {
        let Ok(event) = EventFd::new(EFD_NONBLOCK) else {
            // The value is dropped here, and so below.
            return true;
        };
        let Ok(done) = event.try_clone().map(Done) else {
            return true;
        };
        let thread = thread::Builder::new().name("end".into()).spawn(move || {
            drop(value);
            drop(done);
        });
        if thread.is_err() {
            return true;
        }
        let mut deadline = None;
        loop {
            // From its end on, nobody looks for the machine's end.
            let stop = self.descriptors().filter(|_| deadline.is_none());
            let fds = std::iter::once(borrow(&event)).chain(stop);
            let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let left = deadline
                .map(|deadline: Instant| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut fds, timeout) {
                Ok(0) => return false,
                Ok(_) if fds.first().and_then(PollFd::any) == Some(true) => return true,
                Ok(_) => deadline = Instant::now().checked_add(patience),
                Err(Errno::EINTR) => {}
                // It is not expected, and the machine's end is as good as asked for.
                Err(_) => return false,
            }
        }
    }
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd is open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Tells that a thread is done, also if it panicked.
struct Done(EventFd);

impl Drop for Done {
    fn drop(&mut self) {
        // It fails only if the counter overflows.
        let _ = self.0.write(1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use hv_test_limit::{watch, within};

    use super::*;
    use crate::control::Controlled;

    fn stop() -> (Stop, EventFd) {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let outside = borrow(&event).try_clone_to_owned().unwrap();
        (Stop::new(Some(outside)).unwrap(), event)
    }

    #[test]
    fn work_is_done_and_answered() {
        let _watch = watch();
        let (stop, _event) = stop();
        for stop in [stop, Stop::new(None).unwrap()] {
            assert_eq!(within(move || stop.unless_stopped(|| 42).unwrap()), 42);
        }
    }

    #[test]
    fn work_that_never_ends_is_left_behind() {
        let _watch = watch();
        let (stop, event) = stop();
        // Blocks as a file on a stalled file system does.
        let (mut reader, _writer) = std::io::pipe().unwrap();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            event.write(1).unwrap();
        });
        let result = stop.unless_stopped(move || reader.read(&mut [0]).unwrap());
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
        assert!(stop.is_asked_for());
    }

    /// Blocks as a request to a disk that does not answer, when it is dropped.
    struct Blocked(std::io::PipeReader);

    impl Drop for Blocked {
        fn drop(&mut self) {
            let _ = self.0.read(&mut [0]);
        }
    }

    #[test]
    fn the_end_of_a_machine_waits_for_its_devices() {
        let _watch = watch();
        let (stop, _event) = stop();
        let (reader, writer) = std::io::pipe().unwrap();
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(writer);
        });
        assert!(stop.drop(Blocked(reader), Duration::ZERO));
        end.join().unwrap();
        // Also when it has been asked for: they have some time.
        let (reader, writer) = std::io::pipe().unwrap();
        stop.asked.write(1).unwrap();
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(writer);
        });
        assert!(stop.drop(Blocked(reader), Duration::from_secs(3600)));
        end.join().unwrap();
    }

    #[test]
    fn a_device_that_waits_for_ever_does_not_hold_up_who_ends_the_machine() {
        let _watch = watch();
        let (stop, event) = stop();
        let (reader, _writer) = std::io::pipe().unwrap();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            event.write(1).unwrap();
        });
        assert!(!stop.drop(Blocked(reader), Duration::from_millis(20)));
        assert!(stop.is_asked_for());
    }

    #[test]
    fn a_panic_is_passed_on() {
        let _watch = watch();
        let (stop, _event) = stop();
        let work = || stop.unless_stopped(|| assert!(Vec::<u8>::new().pop().is_some()));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
    }

    #[test]
    fn a_handle_asks_for_it_too() {
        let _watch = watch();
        let (stop, _event) = stop();
        let alone = Stop::new(None).unwrap();
        for stop in [stop, alone] {
            assert!(!stop.is_asked_for());
            let control = Controlled::new(&stop).unwrap();
            control.handle().stop();
            assert!(stop.is_asked_for());
            // Blocks as a file on a stalled file system does.
            let (mut reader, _writer) = std::io::pipe().unwrap();
            let result = stop.unless_stopped(move || reader.read(&mut [0]).unwrap());
            assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
        }
    }
}
