//! The interface of a virtio device, independent of the transport.

use std::io;
use std::sync::Arc;

use serde_json::Value;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::Notifier;
use crate::memory::GuestMemoryMmap;
use crate::state::RestoreError;

/// A virtio device behind a transport.
///
/// The transport keeps status, features and queue addresses. The device defines its features and queues, and runs from
/// [`activate`](Self::activate) to [`pause`](Self::pause) or [`reset`](Self::reset), usually in a worker thread of its own,
/// which exists as long as the device.
pub trait VirtioDevice: Send {
    /// The device type (VIRTIO 1.3, section 5).
    fn device_id(&self) -> u32;

    /// Its name in messages: its kind, and what distinguishes it from others of that kind.
    fn name(&self) -> String;

    /// The feature bits this device offers: its own ones, bits 0 to 23 and 50 up. Those of the queues and of the
    /// transport (bits 24 to 49) are handled elsewhere.
    fn features(&self) -> u64;

    /// The largest size of each queue, in descriptors: powers of two. Its length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Reads from the device-specific configuration space at `offset`, in bytes. `data` arrives zeroed; what lies
    /// beyond the end of the space stays zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the device-specific configuration space. Most devices have nothing writable there.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The memory that device and driver share apart from guest RAM (VIRTIO 1.3, section 2.10). The owner of the
    /// machine has mapped it at these addresses.
    fn shared_memory(&self) -> &[SharedMemory] {
        &[]
    }

    /// Handles the notifications of this queue on the vCPU's thread that makes them, if that is worth leaving the guest for.
    /// It stays the same across resets. Without one an ioeventfd may take the notifications, which then cause no exit.
    fn notify_handler(&self, queue: u32) -> Option<Arc<dyn NotifyHandler>> {
        let _ = queue;
        None
    }

    /// Starts to serve the queues: the driver is ready (DRIVER_OK), or the device goes on after a
    /// [`pause`](Self::pause). Called on a vCPU's thread, or the one that resumes the machine, and never for a device that
    /// is active.
    ///
    /// # Errors
    /// If the host lacks the means, such as a thread. The transport then asks the driver for a reset.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Stops, and returns its position in each queue that it was serving. Requests that it has taken from a queue are
    /// completed first. When this returns, the device accesses neither queues nor guest memory any more. Its other state is
    /// kept, until it is activated with these positions. A broken queue has no position. Also called for a device that is
    /// not active.
    fn pause(&mut self) -> Vec<QueuePosition>;

    /// Stops as [`pause`](Self::pause) does, and returns to the state after power-on. Called on a vCPU's thread, also for a
    /// device that is not active.
    fn reset(&mut self) {
        self.pause();
    }

    /// What the device knows beside its queues and its configuration, while it is not active. Devices that know nothing
    /// else have no such state.
    ///
    /// The kinds of devices are an open set, and whoever keeps the state, the transport, knows none of them: so it is a
    /// value without a type, which the device alone makes and reads.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Puts a saved state in place of this one, while the device is not active. The state is input that nobody has
    /// checked.
    ///
    /// # Errors
    /// It is no state of this device, which is as it was then.
    fn restore(&mut self, state: Value) -> Result<(), RestoreError> {
        match state {
            Value::Null => Ok(()),
            _ => Err(RestoreError::mismatch(format!(
                "{} has no state",
                self.name()
            ))),
        }
    }
}

/// A shared memory region of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// The region's number, `shmid`, by which drivers of this device type know it.
    pub id: u8,
    /// Its guest-physical address.
    pub base: u64,
    /// Its size in bytes.
    pub length: u64,
}

/// Handles the available buffer notifications (VIRTIO 1.3, section 2.3) of a queue where they arrive, if that is quick.
pub trait NotifyHandler: Send + Sync {
    /// The driver has notified the queue. Returns `false` if the queue's kick is to be signalled, for whoever waits for it.
    /// Takes some microseconds at most.
    fn notify(&self) -> bool;
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// The negotiated feature bits, all of which the device or its transport offered.
    pub features: u64,
    /// The queues that the driver has set up, in the order of their indexes. The others are missing here.
    pub queues: Vec<ActiveQueue>,
    /// How to notify the driver.
    pub notifier: Arc<dyn Notifier>,
}

/// A device's position in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePosition {
    /// Which queue of the device this is.
    pub index: u16,
    /// How many chains were taken from the available ring and put into the used ring, modulo 2^16.
    pub next: u16,
}

/// A queue that the driver has set up. Its addresses lie in guest memory.
pub struct ActiveQueue {
    /// Which queue of the device this is.
    pub index: u16,
    /// The rings.
    pub queue: Queue,
    /// Readable when the driver has notified the queue. A blocking descriptor, which the transport keeps across resets:
    /// it may be readable for notifications from before.
    pub kick: Arc<EventFd>,
}
