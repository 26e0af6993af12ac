//! A virtio device with one queue: the worker of `devices/src/virtio/worker.rs`, with a ring and a driver.

pub mod chain;
pub mod driver;
pub mod queue;

#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../../devices/src/virtio/worker.rs"]
mod worker;

use std::fmt::Display;
use std::sync::Arc;

pub use queue::{QueuePosition, Ring};

use crate::sync::EventFd;

/// Notifies the driver.
pub trait Notifier: Send + Sync {
    /// There are new used buffers.
    fn used(&self, queue: u16);

    /// The device has stopped.
    fn needs_reset(&self, reason: &dyn Display);
}

/// Handles notifications of the driver where they arrive.
pub trait NotifyHandler: Send + Sync {
    /// Returns `false` if the queue's kick is to be signalled.
    fn notify(&self) -> bool;
}

/// A queue that the driver has set up.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// The ring.
    pub queue: queue::Queue,
    /// Readable when the driver has notified it.
    pub kick: Arc<EventFd>,
}
