//! Virtio devices, after the Virtual I/O Device (VIRTIO) specification, version 1.3.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | [`VirtioDevice`]: the interface of a device, independent of the transport |
//! | [`notifier`] | [`Notifier`]: the notifications from device to driver |
//! | `negotiation` | device status, features, queue set-up: what every transport shares |
//! | `queue`, `descriptors`, `chain` | the device's side of a virtqueue, and a request's buffers |
//! | `worker` | serves a device with one queue: by a thread, or by the notifying vCPU's thread for single quick requests |
//! | [`transport::mmio`] | virtio-mmio: its interrupt and its register layouts, version 2 and legacy |
//! | [`block`] | the block device |
//! | [`console`] | the console device |
//! | [`net`] | the network device |
//! | [`rng`] | the entropy device |
//! | [`vsock`] | the vsock device |

pub mod block;
mod chain;
pub mod console;
mod descriptors;
pub mod device;
mod negotiation;
pub mod net;
pub mod notifier;
mod queue;
pub mod rng;
mod serving;
#[cfg(test)]
pub(crate) mod testing;
pub mod transport;
pub mod vsock;
mod worker;

pub use device::{
    Activation, ActiveQueue, NotifyHandler, QueuePosition, SharedMemory, VirtioDevice,
};
pub use notifier::Notifier;
