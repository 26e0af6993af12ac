//! The console device (VIRTIO 1.3, section 5.3): a console, and more ports beside it.
//!
//! | module | what it holds |
//! |---|---|
//! | `port` | the ports, as the host's side sees them |
//! | `control` | the conversation about ports, when there are several |
//! | `worker` | the thread that serves all queues |
//! | `device` | features, configuration space, start and stop |
//!
//! What is behind a port is up to whoever builds the machine: output goes to an
//! [`OutputSink`](crate::chardev::OutputSink), input comes by
//! [`InputSink::receive`](crate::chardev::InputSink::receive).

mod control;
mod device;
mod port;
mod worker;

#[cfg(test)]
mod tests;

pub use device::Console;
pub use port::{MAX_PORTS, Port, PortConfig, Ports};
