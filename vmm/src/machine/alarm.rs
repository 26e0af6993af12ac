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

#[cfg(test)]
mod tests {
    use event_manager::{EventManager, SubscriberOps};
    use hv_devices::bus::MmioDevice;
    use hv_devices::interrupt::IrqLine;

    use super::*;

    #[derive(Default)]
    struct Line(std::sync::atomic::AtomicBool);

    impl IrqLine for Line {
        fn set_level(&self, asserted: bool) {
            self.0.store(asserted, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn the_guest_is_interrupted_when_its_alarm_is_due() {
        let clock = Arc::new(HostClock::new().unwrap());
        let line = Arc::<Line>::default();
        let rtc = Arc::new(Rtc::new(line.clone(), clock.clone()));
        let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        events.add_subscriber(Box::new(Alarm {
            clock: clock.clone(),
            rtc: rtc.clone(),
        }));
        let due = hv_devices::rtc::Clock::now(clock.as_ref()) + 1_000_000;
        let (low, high) = (due & 0xffff_ffff, due >> 32);
        // The alarm's upper half, its lower half, and its interrupt.
        for (register, value) in [(0x0c, high), (0x08, low), (0x10, 1)] {
            rtc.write(register, &value.to_le_bytes()[..4]);
        }
        hv_test_limit::until(|| {
            events.run_with_timeout(1_000).unwrap();
            line.0.load(std::sync::atomic::Ordering::SeqCst)
        });
    }
}
