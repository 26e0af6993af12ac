//! The vsock device (VIRTIO 1.3, section 5.10): connections between programs of the guest and of the host, which are Unix sockets at the
//! host's end. The convention is Firecracker's (docs/vsock.md there), which its clients and others speak:
//!
//! - A program of the host connects to the socket at the vsock's path, sends `CONNECT PORT` and a newline, and reads `OK` and a number. It
//!   is then connected to who listens at this port in the guest.
//! - A program of the guest that connects to the host (CID 2), port P, is connected to who listens at the Unix socket whose path is
//!   the vsock's with `_P` behind it.
//!
//! There are stream sockets only.
//!
//! | module | what it holds |
//! |---|---|
//! | `packet` | the header of a packet |
//! | `credit` | flow control: how much each side may send |
//! | `greeting` | what a client of the host says first |
//! | `connection` | one connection, from its first packet to the last |
//! | `muxer` | all of them: which one a packet belongs to, and who sends next |
//! | `endpoint` | the host's socket and paths, and the thread |
//! | `worker` | what the thread does: it serves the three queues |
//! | `device` | features, configuration space, start and stop |

mod connection;
mod credit;
mod device;
mod endpoint;
mod greeting;
mod muxer;
mod packet;
mod worker;

#[cfg(test)]
mod tests;

pub use device::Vsock;
pub use endpoint::{Endpoint, OpenError};
