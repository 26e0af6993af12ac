//! The network device (VIRTIO 1.3, section 5.1).
//!
//! | module | what it holds |
//! |---|---|
//! | `backend` | [`Backend`]: the interface to a device's network |
//! | `tap` | [`Tap`], the back end on a tap interface of the host: opening it, its offloads, packets in and out of guest memory without a copy |
//! | `io_vector` | [`IoVector`]: the buffers of packets |
//! | `mac` | Ethernet addresses |
//! | `receive`, `transmit` | the two queues |
//! | `worker` | the thread that serves both, between the guest's memory and a back end |
//! | `vhost` | vhost-net: the host's kernel in the worker's place, between the guest's memory and a tap interface |
//! | `device` | features, configuration space, start and stop |

mod backend;
mod device;
mod io_vector;
mod mac;
mod receive;
mod tap;
mod transmit;
mod vhost;
mod worker;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use backend::{Backend, Info};
pub use device::{Link, Net};
pub use io_vector::IoVector;
pub use mac::{Mac, MacError};
pub use tap::{OpenError, Tap};
pub use vhost::{OpenError as VhostError, Vhost, VhostNetFile};

/// The longest packet that a back end hands over: `struct virtio_net_hdr_v1`, an Ethernet header with a VLAN tag, and an IP
/// packet of 64 KiB that the guest is to cut into segments (Linux: `tun_put_user` in `drivers/net/tun.c`).
const MAX_PACKET: usize = 12 + 18 + 65535;

/// Packets in each direction before it is the other one's turn.
const TURN: u32 = 64;
