//! Device status, feature negotiation and queue set-up: what every virtio register layout has in common.
//!
//! Source: VIRTIO 1.3, sections 2.1 (device status), 2.2 (feature bits), 2.4 (reset) and 3.1.1 (initialization).

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, ActiveQueue, VirtioDevice};
use super::interrupt::Interrupt;
use crate::interrupt::IrqLine;

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
    pub descriptor_table: u64,
    pub available_ring: u64,
    pub used_ring: u64,
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size.into(),
            ..Self::default()
        }
    }

    /// The queue as described, if its size and addresses are possible and lie in guest memory.
    fn build(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail: 0,
            next_used: 0,
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

/// A device together with what the driver has negotiated.
pub(super) struct DeviceState {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<Interrupt>,
    kicks: Vec<Arc<EventFd>>,
    /// All that the device, its queues and its transport can do.
    offered: u64,
    /// The status bits the driver has set.
    status: u32,
    driver_features: u64,
    queues: Vec<QueueSetup>,
}

impl DeviceState {
    /// `transport_features` are the feature bits that the register layout itself stands for.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        line: Arc<dyn IrqLine>,
        transport_features: u64,
    ) -> io::Result<Self> {
        let sizes = device.queue_sizes();
        Ok(Self {
            kicks: sizes
                .iter()
                .map(|_| EventFd::new(libc::EFD_CLOEXEC).map(Arc::new))
                .collect::<Result<_, _>>()?,
            queues: sizes.iter().copied().map(QueueSetup::new).collect(),
            offered: device.features() | QUEUE_FEATURES | transport_features,
            interrupt: Arc::new(Interrupt::new(line, device.device_id())),
            status: 0,
            driver_features: 0,
            memory,
            device,
        })
    }

    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
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
        if self.status & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            let mask = u64::from(u32::MAX) << shift;
            self.driver_features = self.driver_features & !mask | u64::from(value) << shift;
        }
    }

    pub fn queue(&self, index: u32) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(index).ok()?)
    }

    /// Lets `change` alter what the driver has said about a queue, as long as that is allowed: before the driver is
    /// ready, and while the queue is not.
    pub fn configure_queue(&mut self, index: u32, change: impl FnOnce(&mut QueueSetup)) {
        if self.status & VIRTIO_CONFIG_S_DRIVER_OK == 0
            && let Some(queue) = usize::try_from(index)
                .ok()
                .and_then(|index| self.queues.get_mut(index))
            && !queue.ready
        {
            change(queue);
        }
    }

    /// The driver is done with a queue. What the device was doing has ended when this returns.
    pub fn disable_queue(&mut self, index: u32) {
        let Some(queue) = usize::try_from(index)
            .ok()
            .and_then(|index| self.queues.get_mut(index))
        else {
            return;
        };
        if std::mem::take(&mut queue.ready) && self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            // A single queue can be restarted only with VIRTIO_F_RING_RESET, which is not offered: a driver that takes
            // a queue from a live device is about to reset it, so the device rests until then.
            self.device.reset();
        }
    }

    pub fn status(&self) -> u32 {
        let needs_reset = if self.interrupt.is_reset_needed() {
            VIRTIO_CONFIG_S_NEEDS_RESET
        } else {
            0
        };
        self.status | needs_reset
    }

    /// The driver writes the status register: zero resets, anything else adds bits. A driver must not clear a bit, and
    /// one that does is not followed.
    pub fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut added = value & 0xff & !VIRTIO_CONFIG_S_NEEDS_RESET & !self.status;
        // VIRTIO_F_VERSION_1 is not demanded: a driver that never writes the high feature word drives this layout all
        // the same (xv6). Bits that were not offered cannot be agreed on.
        if self.driver_features & !self.offered != 0 {
            added &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        let agreed = (self.status | added) & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        let failed =
            (self.status() | added) & (VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
        if !agreed || failed {
            added &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.status |= added;
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.interrupt.set_driver_ok();
            self.activate();
        }
    }

    fn activate(&mut self) {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for ((index, setup), kick) in (0..).zip(&self.queues).zip(&self.kicks) {
            if !setup.ready {
                continue;
            }
            let Some(queue) = setup.build(&self.memory, event_idx) else {
                self.interrupt
                    .needs_reset(&format_args!("queue {index} is impossible: {setup:x?}"));
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
            features: self.driver_features,
            queues,
            interrupt: Arc::clone(&self.interrupt),
        };
        if let Err(error) = self.device.activate(activation) {
            self.interrupt
                .needs_reset(&format_args!("it cannot start: {error}"));
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        // First the device, so that nothing raises an interrupt or writes to guest memory afterwards.
        self.device.reset();
        self.interrupt.reset();
        self.status = 0;
        self.driver_features = 0;
        for queue in &mut self.queues {
            *queue = QueueSetup::new(queue.max_size);
        }
    }
}
