//! A guest's driver, and the device that serves it.

use std::fmt::Display;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use hv_devices::memory::GuestMemoryMmap;

use super::chain::{Chain, Malformed};
use super::queue::{Fault, Queue, QueuePosition, Ring};
use super::worker::{Handler, Worker};
use super::{ActiveQueue, Notifier, NotifyHandler};
use crate::sync::{AtomicBool, EventFd, Ordering, fence};
use crate::thread::Role;

/// Serves requests: those on a vCPU's thread as well, if they are `quick`.
struct Serve {
    quick: bool,
}

impl Handler for Serve {
    fn handle(&mut self, chain: &mut Chain<'_>, _: &AtomicBool) -> Result<Option<u32>, Malformed> {
        Ok(Some(chain.serve()))
    }

    fn handle_now(&mut self, chain: &mut Chain<'_>) -> Result<Option<u32>, Malformed> {
        Ok(self.quick.then(|| chain.serve()))
    }
}

/// The interrupt of the device.
#[derive(Default)]
struct Interrupt(EventFd);

impl Notifier for Interrupt {
    fn used(&self, _: u16) {
        let _ = self.0.write(1);
    }

    fn needs_reset(&self, reason: &dyn Display) {
        unreachable!("the device has stopped: {reason}");
    }
}

/// A device, with its worker, which vCPUs' threads share.
pub struct Device {
    ring: Arc<Ring>,
    kick: Arc<EventFd>,
    interrupt: Arc<Interrupt>,
    handler: Arc<dyn NotifyHandler>,
}

/// What starts and stops a [`Device`].
pub struct Power {
    /// Not dropped: a scenario that fails unwinds, and loom's types cannot be used any more then.
    worker: ManuallyDrop<Worker>,
    memory: Arc<GuestMemoryMmap>,
    quick: bool,
}

impl Device {
    /// A device that serves this ring from `start` on.
    ///
    /// # Panics
    /// Never: the model has all threads that it wants.
    #[must_use]
    pub fn start(ring: &Arc<Ring>, quick: bool, start: u16) -> (Arc<Self>, Power) {
        let worker = Worker::new(Role::Block).expect("the model has threads");
        let device = Arc::new(Self {
            ring: Arc::clone(ring),
            kick: Arc::default(),
            interrupt: Arc::default(),
            handler: worker.notify_handler(),
        });
        let mut power = Power {
            worker: ManuallyDrop::new(worker),
            memory: Arc::default(),
            quick,
        };
        power.resume(&device, start);
        (device, power)
    }

    /// A vCPU's thread makes a request available, and notifies the device if that has asked for it (sections 2.7.13 and 2.7.10).
    /// Others make none meanwhile.
    pub fn publish(&self) -> bool {
        let ring = &self.ring;
        let before = ring.available.load(Ordering::Relaxed);
        if let Some(request) = ring.request(before) {
            // SAFETY: loom fails the scenario if anybody else accesses it at this time.
            request.with_mut(|served| unsafe { *served = 0 });
        }
        let now = before.wrapping_add(1);
        ring.available.store(now, Ordering::Release);
        fence(Ordering::SeqCst);
        if ring.event_idx {
            let event = ring.avail_event.load(Ordering::Relaxed);
            now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
        } else {
            ring.used_flags.load(Ordering::Relaxed) == 0
        }
    }

    /// The register write of a notification, as `MmioTransport::notify` does it.
    pub fn notify(&self) {
        if !self.handler.notify() && self.ring.fault != Fault::NoKick {
            let _ = self.kick.write(1);
        }
    }

    /// Makes a request, and notifies the device if that is wanted.
    pub fn request(&self) {
        if self.publish() {
            self.notify();
        }
    }

    /// Waits for interrupts until all requests are done.
    ///
    /// # Panics
    /// One of them was not served exactly once.
    pub fn wait(&self, first: u16) {
        let ring = &self.ring;
        let all = ring.available.load(Ordering::Relaxed);
        loop {
            let used = ring.used.load(Ordering::Acquire);
            if used == all {
                break;
            }
            // For the next one, or for the last one.
            ring.used_event.store(used, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if ring.used.load(Ordering::Acquire) == used {
                let _ = self.interrupt.0.read();
            }
        }
        let mut index = first;
        while index != all {
            if let Some(request) = ring.request(index) {
                // SAFETY: as in `publish`.
                let served = request.with(|served| unsafe { *served });
                assert_eq!(served, 1, "request {index}");
            }
            index = index.wrapping_add(1);
        }
    }
}

impl Power {
    /// Stops the device, which has come this far.
    pub fn pause(&mut self) -> Option<QueuePosition> {
        self.worker.pause()
    }

    /// Has the device go on from there.
    pub fn resume(&mut self, device: &Device, next: u16) {
        let queue = ActiveQueue {
            index: 0,
            queue: Queue {
                ring: Arc::clone(&device.ring),
                next,
            },
            kick: Arc::clone(&device.kick),
        };
        let interrupt = Arc::clone(&device.interrupt);
        let serve = Serve { quick: self.quick };
        self.worker
            .start(Arc::clone(&self.memory), queue, interrupt, serve);
    }
}
