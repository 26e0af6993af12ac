//! The network device (VIRTIO 1.3, section 5.1), on a tap interface of the host.
//!
//! | module | what it holds |
//! |---|---|
//! | `tap` | the interface: opening it, its offloads, packets in and out of guest memory without a copy |
//! | `mac` | Ethernet addresses |
//! | `receive`, `transmit` | the two queues |
//! | `worker` | the thread that serves both |
//! | `vhost` | vhost-net: the host's kernel instead of that thread |
//! | `device` | features, configuration space, start and stop |

mod device;
mod mac;
mod receive;
mod tap;
mod transmit;
mod vhost;
mod worker;

#[cfg(test)]
mod tests;

pub use device::{Link, Net};
pub use mac::{Mac, MacError};
pub use tap::{OpenError, Tap};
pub use vhost::{OpenError as VhostError, Vhost};

/// The longest packet that a tap hands over: `struct virtio_net_hdr_v1`, an Ethernet header with a VLAN tag, and an IP
/// packet of 64 KiB that the guest is to cut into segments (Linux: `tun_put_user` in `drivers/net/tun.c`).
const MAX_PACKET: usize = 12 + 18 + 65535;

/// Packets in each direction before it is the other one's turn.
const TURN: u32 = 64;
