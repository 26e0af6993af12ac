//! How a guest's run ends: the first thread to notice reports it to the event loop.

use std::sync::{Mutex, PoisonError};

use hv_devices::test_device::PowerControl;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Error;

/// Why the vCPUs are to stop.
#[derive(Debug)]
pub enum End {
    /// The guest ended its run itself.
    Guest(hv_core::ending::End),
    /// The user, or the embedding program, ended it.
    Stopped,
    /// A vCPU cannot go on.
    Failed(Error),
}

/// The place for the first report, and the event that announces it.
#[derive(Debug)]
pub struct Ending {
    first: Mutex<Option<End>>,
    event: EventFd,
}

impl Ending {
    /// Nothing reported yet.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new() -> Result<Ending, Error> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?;
        Ok(Ending {
            first: Mutex::new(None),
            event,
        })
    }

    /// Reports an end. Only the first one counts: a guest with several harts may do more than one thing.
    pub fn report(&self, end: End) {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(end);
        let _ = self.event.write(1);
    }

    /// Readable once something was reported.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// The report.
    pub fn take(&self) -> Option<End> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The test device's way to say it.
impl PowerControl for Ending {
    fn end(&self, end: hv_core::ending::End) {
        self.report(End::Guest(end));
    }
}

#[cfg(test)]
mod tests {
    use hv_core::ending::End as GuestEnd;

    use super::*;

    #[test]
    fn the_first_report_counts_and_is_announced() {
        let ending = Ending::new().unwrap();
        assert!(ending.take().is_none());
        assert!(ending.event().read().is_err(), "nothing is announced");
        ending.end(GuestEnd::TestFailed(3));
        ending.report(End::Stopped);
        assert!(ending.event().read().is_ok());
        let first = ending.take();
        assert!(
            matches!(first, Some(End::Guest(GuestEnd::TestFailed(3)))),
            "{first:?}"
        );
        assert!(ending.take().is_none());
        ending.report(End::Stopped);
        assert!(ending.event().read().is_ok());
        assert!(matches!(ending.take(), Some(End::Stopped)));
    }
}
