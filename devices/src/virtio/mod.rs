//! Virtio devices, after the Virtual I/O Device (VIRTIO) specification, version 1.3.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | [`VirtioDevice`]: what a kind of device is, apart from how the guest reaches it |
//! | [`interrupt`] | the notifications from device to driver |
//! | `state` | device status, feature negotiation, queue set-up: what every register layout shares |
//! | [`mmio`] | the virtio-mmio register layouts, version 2 and legacy |
//! | [`block`] | the block device |

pub mod block;
pub mod device;
pub mod interrupt;
pub mod mmio;
mod state;
#[cfg(test)]
pub(crate) mod testing;

pub use device::{Activation, ActiveQueue, VirtioDevice};
pub use interrupt::Interrupt;
