//! A split virtqueue in guest memory (VIRTIO 1.3, section 2.7), and the device's side of it: `devices/src/virtio/queue.rs` and
//! the crate virtio-queue below it, load by load and barrier by barrier.

use std::convert::Infallible;
use std::sync::Arc;

use hv_devices::memory::GuestMemoryMmap;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU16;

use super::chain::{Chain, Malformed};
use crate::sync::{Ordering, fence};

/// Entries in the ring.
const SIZE: u16 = 4;

/// What one side does wrong, to see that the search finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The device asks for notifications and does not look at the ring afterwards.
    NoSecondLook,
    /// The device looks at the ring without a full barrier before.
    NoBarrierBeforeSecondLook,
    /// The device looks whether the driver wants an interrupt without a full barrier before.
    NoBarrierBeforeInterrupt,
    /// The transport does not signal the kick where the handler has not served the request.
    NoKick,
}

/// What driver and device share.
#[derive(Debug)]
pub struct Ring {
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// What one side does wrong.
    pub fault: Fault,
    pub(super) available: AtomicU16,
    pub(super) used: AtomicU16,
    /// Where the device wants to be notified, or with which flags.
    pub(super) avail_event: AtomicU16,
    pub(super) used_flags: AtomicU16,
    /// Where the driver wants to be notified.
    pub(super) used_event: AtomicU16,
    /// How often each request was served, which is written and read without synchronization of its own: whoever has it next must
    /// see what was done before.
    pub(super) requests: [UnsafeCell<u8>; SIZE as usize],
}

// SAFETY: loom fails the scenario when two threads access a request without an order between them.
unsafe impl Sync for Ring {}

impl Ring {
    /// An empty one, whose indexes begin at `start`.
    #[must_use]
    pub fn new(event_idx: bool, start: u16, fault: Fault) -> Arc<Self> {
        let index = || AtomicU16::new(start);
        Arc::new(Self {
            event_idx,
            fault,
            available: index(),
            used: index(),
            avail_event: index(),
            used_flags: AtomicU16::new(0),
            used_event: index(),
            requests: std::array::from_fn(|_| UnsafeCell::new(0)),
        })
    }

    pub(super) fn request(&self, index: u16) -> Option<&UnsafeCell<u8>> {
        self.requests.get(usize::from(index % SIZE))
    }

    pub(super) fn serve(&self, index: u16) {
        if let Some(request) = self.request(index) {
            // SAFETY: loom fails the scenario if anybody else accesses it at this time.
            request.with_mut(|served| unsafe { *served = (*served).wrapping_add(1) });
        }
    }

    fn barrier(&self, unless: Fault) {
        if self.fault != unless {
            fence(Ordering::SeqCst);
        }
    }
}

/// The ring, for a device that begins to serve it.
#[derive(Debug)]
pub struct Queue {
    /// The ring.
    pub ring: Arc<Ring>,
    /// Where the device begins.
    pub next: u16,
}

/// Why a device stops serving a queue: for nothing, here.
#[derive(Debug)]
pub struct Broken(Infallible);

impl std::fmt::Display for Broken {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {}
    }
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        match malformed {}
    }
}

/// How far a device has come in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePosition {
    /// Which queue of the device this is.
    pub index: u16,
    /// How many chains were taken and used, modulo 2^16.
    pub next: u16,
}

/// A queue that nobody is serving at the moment.
#[derive(Debug)]
pub struct Parked {
    ring: Arc<Ring>,
    next_avail: u16,
    next_used: u16,
    considered: u16,
}

impl Parked {
    pub(super) fn new(Queue { ring, next }: Queue) -> Self {
        Self {
            ring,
            next_avail: next,
            next_used: next,
            considered: next,
        }
    }

    pub(super) fn position(&self) -> u16 {
        self.next_used
    }
}

/// A queue that is being served.
#[derive(Debug)]
pub struct DeviceQueue<'m> {
    parked: Parked,
    _memory: &'m GuestMemoryMmap,
}

impl<'m> DeviceQueue<'m> {
    pub(super) fn resume(memory: &'m GuestMemoryMmap, parked: Parked) -> Self {
        Self {
            parked,
            _memory: memory,
        }
    }

    pub(super) fn park(self) -> Parked {
        self.parked
    }

    pub(super) fn waiting(&self) -> Result<u16, Broken> {
        let available = self.parked.ring.available.load(Ordering::Acquire);
        Ok(available.wrapping_sub(self.parked.next_avail))
    }

    pub(super) fn put_back(&mut self) {
        self.parked.next_avail = self.parked.next_avail.wrapping_sub(1);
    }

    pub(super) fn size(&self) -> u16 {
        SIZE
    }

    pub(super) fn next(&mut self, chain: &mut Chain<'m>) -> Result<Option<u16>, Broken> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        let head = self.parked.next_avail;
        self.parked.next_avail = head.wrapping_add(1);
        chain.request = Some((Arc::clone(&self.parked.ring), head));
        Ok(Some(head))
    }

    pub(super) fn add_used(&mut self, chains: &[(u16, u32)]) -> Result<(), Broken> {
        let count = u16::try_from(chains.len()).unwrap_or(0);
        self.parked.next_used = self.parked.next_used.wrapping_add(count);
        let used = &self.parked.ring.used;
        used.store(self.parked.next_used, Ordering::Release);
        Ok(())
    }

    pub(super) fn disable_notification(&mut self) -> Result<(), Broken> {
        if !self.parked.ring.event_idx {
            self.parked.ring.used_flags.store(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn enable_notification(&mut self) -> Result<bool, Broken> {
        let Parked {
            ring, next_avail, ..
        } = &self.parked;
        if ring.event_idx {
            ring.avail_event.store(*next_avail, Ordering::Relaxed);
        } else {
            ring.used_flags.store(0, Ordering::Relaxed);
        }
        ring.barrier(Fault::NoBarrierBeforeSecondLook);
        Ok(ring.fault != Fault::NoSecondLook
            && ring.available.load(Ordering::Relaxed) != *next_avail)
    }

    pub(super) fn wants_interrupt(&mut self) -> Result<bool, Broken> {
        let now = self.parked.next_used;
        let before = std::mem::replace(&mut self.parked.considered, now);
        let ring = &self.parked.ring;
        ring.barrier(Fault::NoBarrierBeforeInterrupt);
        if !ring.event_idx {
            return Ok(true);
        }
        let event = ring.used_event.load(Ordering::Relaxed);
        Ok(event.wrapping_sub(before) < now.wrapping_sub(before))
    }
}
