//! Virtio devices, after the Virtual I/O Device (VIRTIO) specification, version 1.3.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | [`VirtioDevice`]: what a kind of device is, apart from how the guest reaches it |
//! | [`interrupt`] | the notifications from device to driver |
//! | `state` | device status, feature negotiation, queue set-up: what every register layout shares |
//! | `queue`, `descriptors`, `chain` | the device's side of a virtqueue, and a request's buffers |
//! | `worker` | who serves a device with one queue: a thread, and vCPUs for single quick requests |
//! | [`mmio`] | the virtio-mmio register layouts, version 2 and legacy |
//! | [`block`] | the block device |
//! | [`console`] | the console device |
//! | [`net`] | the network device |
//! | [`rng`] | the entropy device |

pub mod block;
mod chain;
pub mod console;
mod descriptors;
pub mod device;
pub mod interrupt;
pub mod mmio;
pub mod net;
mod queue;
pub mod rng;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod worker;

pub use device::{Activation, ActiveQueue, Doorbell, VirtioDevice};
pub use interrupt::Interrupt;
