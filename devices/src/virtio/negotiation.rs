//! Device status, feature negotiation and queue set-up: what every transport has in common.
//!
//! Source: VIRTIO 1.3, sections 2.1 (device status), 2.2 (feature bits), 2.4 (reset) and 3.1.1 (initialization); for
//! the legacy interface 2.2.3 and 3.1.2.
//!
//! A legacy driver differs in three ways. There is no FEATURES_OK, so it gets all offered features that it asks
//! for. It may use a queue before it sets DRIVER_OK: the device starts with the first notification. And it may set
//! up a queue after that: the device then starts again with one queue more, and the others go on where they were.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, ActiveQueue, VirtioDevice};
use super::notifier::{DeviceStatus, Notifier};
use crate::memory::GuestMemoryMmap;
use crate::state::RestoreError;

/// The queue features that the queue implementation brings to every device.
const QUEUE_FEATURES: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// What the driver has said about one queue. Kept as it was written and judged when the driver is ready, so that a
/// nonsensical value is one device's failure at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueSetup {
    pub max_size: u16,
    /// In descriptors.
    pub size: u32,
    pub ready: bool,
    /// How far the device has come in it.
    next: u16,
    pub descriptor_table: u64,
    pub available_ring: u64,
    pub used_ring: u64,
    /// The legacy interface's QueueAlign, in bytes.
    pub align: u32,
    /// The legacy interface's QueuePFN.
    pub page: u32,
}

/// QueueAlign of a driver that writes none: that of the legacy PCI transport (VIRTIO 1.3, section 4.1.5.1.3.1), which
/// QEMU takes for this one too.
const DEFAULT_ALIGN: u32 = 4096;

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size.into(),
            align: DEFAULT_ALIGN,
            ..Self::default()
        }
    }

    /// Lays the queue out as the legacy interface does (VIRTIO 1.3, section 2.7.2): all in one piece from `address` on,
    /// the used ring at the next multiple of QueueAlign. `None` if that is impossible.
    pub fn lay_out(&mut self, address: u64) -> Option<()> {
        let align = u64::from(self.align);
        if !align.is_power_of_two() {
            return None;
        }
        let size = u64::from(self.size);
        self.descriptor_table = address;
        self.available_ring = address.checked_add(size.checked_mul(16)?)?;
        let end = self
            .available_ring
            .checked_add(size.checked_mul(2)?.checked_add(6)?)?;
        self.used_ring = end.checked_next_multiple_of(align)?;
        Some(())
    }

    /// The queue as described, if its size and addresses are possible and lie in guest memory.
    fn build(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail: self.next,
            next_used: self.next,
            event_idx_enabled: event_idx,
            size: u16::try_from(self.size).ok()?,
            ready: self.ready,
            desc_table: self.descriptor_table,
            avail_ring: self.available_ring,
            used_ring: self.used_ring,
        };
        let queue = Queue::try_from(state).ok()?;
        // The same as Queue::is_valid, which writes an error to the log each time: a guest could fill it.
        let size = usize::from(queue.size());
        let inside = |address, length| memory.check_range(GuestAddress(address), length);
        let valid = self.ready
            && inside(self.descriptor_table, size.checked_mul(16)?)
            && inside(self.available_ring, size.checked_mul(2)?.checked_add(6)?)
            && inside(self.used_ring, size.checked_mul(8)?.checked_add(6)?);
        valid.then_some(queue)
    }
}

/// Which of its two interfaces a device offers (VIRTIO 1.3, section 1.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    /// That of VIRTIO 1.0 and later, with VIRTIO_F_VERSION_1.
    Modern,
    /// The legacy interface, from before.
    Legacy,
}

/// What has become of a negotiation, with the device's own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NegotiationState {
    device_id: u32,
    status: u32,
    driver_features: u64,
    started: bool,
    queues: Vec<QueueSetupState>,
    device: Value,
}

/// A [`QueueSetup`] without what the device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueSetupState {
    size: u32,
    ready: bool,
    next: u16,
    descriptor_table: u64,
    available_ring: u64,
    used_ring: u64,
    align: u32,
    page: u32,
}

impl QueueSetup {
    fn save(&self) -> QueueSetupState {
        QueueSetupState {
            size: self.size,
            ready: self.ready,
            next: self.next,
            descriptor_table: self.descriptor_table,
            available_ring: self.available_ring,
            used_ring: self.used_ring,
            align: self.align,
            page: self.page,
        }
    }

    fn restored(self, state: &QueueSetupState) -> Self {
        Self {
            max_size: self.max_size,
            size: state.size,
            ready: state.ready,
            next: state.next,
            descriptor_table: state.descriptor_table,
            available_ring: state.available_ring,
            used_ring: state.used_ring,
            align: state.align,
            page: state.page,
        }
    }
}

/// A device together with what the driver has negotiated.
pub(super) struct Negotiation {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    notifier: Arc<dyn Notifier>,
    interface: Interface,
    kicks: Vec<Arc<EventFd>>,
    /// All that the device, its queues and its transport can do.
    offered: u64,
    status: Arc<DeviceStatus>,
    driver_features: u64,
    /// The device has been started, or has failed to.
    started: bool,
    queues: Vec<QueueSetup>,
}

impl Negotiation {
    /// The state after power-on. `notifier` sets DEVICE_NEEDS_RESET in `status`.
    ///
    /// # Errors
    /// If the host has no file descriptor left.
    pub fn new(
        interface: Interface,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        notifier: Arc<dyn Notifier>,
        status: Arc<DeviceStatus>,
    ) -> io::Result<Self> {
        let own = device.features() | QUEUE_FEATURES;
        let sizes = device.queue_sizes();
        Ok(Self {
            kicks: sizes
                .iter()
                .map(|_| EventFd::new(libc::EFD_CLOEXEC).map(Arc::new))
                .collect::<Result<_, _>>()?,
            queues: sizes.iter().copied().map(QueueSetup::new).collect(),
            offered: match interface {
                Interface::Modern => own | 1 << VIRTIO_F_VERSION_1,
                // The features beyond 31 came with the modern interface. That a buffer may be cut into descriptors in
                // any way, which VERSION_1 implies, has a bit of its own.
                Interface::Legacy => own & u64::from(u32::MAX) | 1 << VIRTIO_F_ANY_LAYOUT,
            },
            notifier,
            interface,
            status,
            driver_features: 0,
            started: false,
            memory,
            device,
        })
    }

    /// One event per queue, by index.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    pub fn device(&self) -> &dyn VirtioDevice {
        self.device.as_ref()
    }

    pub fn device_mut(&mut self) -> &mut dyn VirtioDevice {
        self.device.as_mut()
    }

    pub fn offered_features(&self) -> u64 {
        self.offered
    }

    /// Replaces the half of the driver's features that `shift` (0 or 32) says. Ignored once they are agreed on.
    pub fn set_driver_features(&mut self, shift: u32, value: u32) {
        if !self.status.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            let mask = u64::from(u32::MAX) << shift;
            self.driver_features = self.driver_features & !mask | u64::from(value) << shift;
        }
    }

    pub fn queue(&self, index: u32) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(index).ok()?)
    }

    /// Lets `change` alter what the driver has said about a queue, as long as that is allowed: while the queue is not
    /// ready, and, but for a legacy driver, before the driver is. Returns whether it was.
    pub fn configure_queue(&mut self, index: u32, change: impl FnOnce(&mut QueueSetup)) -> bool {
        let early =
            !self.status.has(VIRTIO_CONFIG_S_DRIVER_OK) || self.interface == Interface::Legacy;
        let queue = usize::try_from(index)
            .ok()
            .and_then(|index| self.queues.get_mut(index))
            .filter(|queue| early && !queue.ready);
        queue.map(change).is_some()
    }

    /// A legacy driver has set up a queue, with nothing left to say about it.
    pub fn queue_is_set_up(&mut self) {
        if !self.has_failed() && (self.started || self.status.has(VIRTIO_CONFIG_S_DRIVER_OK)) {
            self.start();
        }
    }

    /// A legacy driver has notified a queue, which it may do before it is ready.
    pub fn notified(&mut self) {
        if !self.started && !self.has_failed() && self.queues.iter().any(|queue| queue.ready) {
            self.start();
        }
    }

    /// The device rests until the driver resets it.
    fn has_failed(&self) -> bool {
        self.status.get() & (VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET) != 0
    }

    /// The driver is done with a queue. What the device was doing has ended when this returns.
    pub fn disable_queue(&mut self, index: u32) {
        let Some(queue) = usize::try_from(index)
            .ok()
            .and_then(|index| self.queues.get_mut(index))
        else {
            return;
        };
        if std::mem::take(&mut queue.ready) && self.status.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            // A single queue can be restarted only with VIRTIO_F_RING_RESET, which is not offered: a driver that takes
            // a queue from a live device is about to reset it, so the device rests until then.
            self.device.reset();
            self.started = false;
        }
    }

    /// The driver writes the status register: zero resets, anything else adds bits. A driver must not clear a bit, and
    /// one that does is not followed.
    pub fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let status = self.status.get();
        let mut added = value & 0xff & !VIRTIO_CONFIG_S_NEEDS_RESET & !status;
        // VIRTIO_F_VERSION_1 is not demanded: a driver that never writes the high feature word drives this layout all
        // the same (xv6). Bits that were not offered cannot be agreed on.
        if self.driver_features & !self.offered != 0 && self.interface == Interface::Modern {
            added &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        let agreed = (status | added) & VIRTIO_CONFIG_S_FEATURES_OK != 0
            || self.interface == Interface::Legacy;
        let failed = (status | added) & (VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
        if !agreed || failed {
            added &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.status.add(added);
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 && !self.started {
            self.start();
        }
    }

    /// Has the device stop serving the queues, until [`resume`](Self::resume).
    pub fn pause(&mut self) {
        for position in self.device.pause() {
            if let Some(queue) = self.queues.get_mut(usize::from(position.index)) {
                queue.next = position.next;
            }
        }
    }

    /// Has a device go on that was paused.
    pub fn resume(&mut self) {
        if self.started && !self.status.has(VIRTIO_CONFIG_S_NEEDS_RESET) {
            self.start();
        }
    }

    /// The state. Pauses the device, if it is not paused, until [`resume`](Self::resume).
    pub fn save(&mut self) -> NegotiationState {
        self.pause();
        NegotiationState {
            device_id: self.device.device_id(),
            status: self.status.get(),
            driver_features: self.driver_features,
            started: self.started,
            queues: self.queues.iter().map(QueueSetup::save).collect(),
            device: self.device.save(),
        }
    }

    /// Puts a saved state in place of this one. The device is paused then, until [`resume`](Self::resume).
    ///
    /// # Errors
    /// It does not fit. All is as it was, but that the device is paused.
    pub fn restore(&mut self, state: NegotiationState) -> Result<(), RestoreError> {
        self.pause();
        let queues = self.check(&state)?;
        self.device.restore(state.device)?;
        self.status.set(state.status);
        self.driver_features = state.driver_features;
        self.started = state.started;
        self.queues = queues;
        Ok(())
    }

    /// Whether a negotiation with this device can have come to this. A driver writes what it likes into the registers of a
    /// queue; but one that the device was serving was possible, and its memory is that which it had.
    fn check(&self, state: &NegotiationState) -> Result<Vec<QueueSetup>, RestoreError> {
        let name = self.device.name();
        if state.device_id != self.device.device_id() || state.queues.len() != self.queues.len() {
            return Err(RestoreError::mismatch(format!(
                "device {} with {} queues was saved, and there is the {name}",
                state.device_id,
                state.queues.len(),
            )));
        }
        let has = |bits| state.status & bits != 0;
        RestoreError::unless(state.status <= 0xff, "device status")?;
        if self.interface == Interface::Modern {
            RestoreError::unless(
                has(VIRTIO_CONFIG_S_FEATURES_OK) || !has(VIRTIO_CONFIG_S_DRIVER_OK),
                "a driver that is ready before it has negotiated",
            )?;
            RestoreError::unless(
                has(VIRTIO_CONFIG_S_DRIVER_OK) || !state.started,
                "a device that has started before its driver is ready",
            )?;
            let missing = state.driver_features & !self.offered;
            if has(VIRTIO_CONFIG_S_FEATURES_OK) && missing != 0 {
                return Err(RestoreError::mismatch(format!(
                    "the {name} lacks the features {missing:#x}, which the guest's driver uses"
                )));
            }
        }
        let queues: Vec<_> = (self.queues.iter().zip(&state.queues))
            .map(|(queue, state)| queue.restored(state))
            .collect();
        if state.started && !has(VIRTIO_CONFIG_S_NEEDS_RESET) {
            let mut ready = queues.iter().filter(|queue| queue.ready);
            let possible = ready.all(|queue| queue.build(&self.memory, false).is_some());
            RestoreError::unless(possible, "a queue that is impossible or not in memory")?;
        }
        Ok(queues)
    }

    /// Starts the device with all queues that are set up, or starts it again.
    fn start(&mut self) {
        self.started = true;
        self.pause();
        let features = self.driver_features & self.offered;
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for ((index, setup), kick) in (0..).zip(&self.queues).zip(&self.kicks) {
            if !setup.ready {
                continue;
            }
            let Some(queue) = setup.build(&self.memory, event_idx) else {
                self.notifier.needs_reset(&format_args!(
                    "queue {index} is impossible: {} descriptors of at most {}, descriptor table at {:#x}, available ring at {:#x}, \
                     used ring at {:#x}",
                    setup.size,
                    setup.max_size,
                    setup.descriptor_table,
                    setup.available_ring,
                    setup.used_ring
                ));
                return;
            };
            queues.push(ActiveQueue {
                index,
                queue,
                kick: Arc::clone(kick),
            });
        }
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            features,
            queues,
            notifier: Arc::clone(&self.notifier),
        };
        if let Err(error) = self.device.activate(activation) {
            self.notifier
                .needs_reset(&format_args!("it cannot start: {error}"));
        }
    }

    /// Back to the state after power-on. When this returns, the device notifies nobody and writes to no guest memory.
    pub fn reset(&mut self) {
        self.device.reset();
        self.status.clear();
        self.driver_features = 0;
        self.started = false;
        for queue in &mut self.queues {
            *queue = QueueSetup::new(queue.max_size);
        }
    }
}
