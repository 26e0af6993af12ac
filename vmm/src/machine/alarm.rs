//! The real-time clock's alarm, from the host's timer to the guest's clock.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use hv_devices::rtc::{HostClock, Rtc};

/// Wakes the clock of one boot when its alarm is due.
pub struct Alarm {
    /// Readable when it is.
    pub clock: Arc<HostClock>,
    /// The guest's clock.
    pub rtc: Arc<Rtc>,
}

impl MutEventSubscriber for Alarm {
    fn init(&mut self, ops: &mut EventOps) {
        let events = Events::new_raw(self.clock.as_raw_fd(), EventSet::IN);
        if let Err(error) = ops.add(events) {
            log::error!("the guest's real-time clock has no alarm: {error}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        self.rtc.poll();
    }
}
