//! The interface between a network device's queues and the network.

use std::io;
use std::os::fd::BorrowedFd;

use super::io_vector::IoVector;

/// Properties of a back end. They never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What it is and its name, for messages: "tap 'tap0'".
    pub name: String,
    /// The longest IP packet that it carries, in bytes; `None` if that is unknown.
    pub mtu: Option<u16>,
    /// Its offloads: what may be left undone in packets to and from the guest. Bits `VIRTIO_NET_F_CSUM`, `GUEST_CSUM`,
    /// `GUEST_TSO4`, `GUEST_TSO6`, `GUEST_ECN`, `HOST_TSO4`, `HOST_TSO6` and `HOST_ECN` (VIRTIO 1.3, section 5.1.3).
    pub features: u64,
}

/// The network of one device, which outlives resets of the device and reboots of the guest.
///
/// A packet is an Ethernet frame behind a `struct virtio_net_hdr` (VIRTIO 1.3, section 5.1.6), whose length
/// [`configure`](Self::configure) sets. It lies in guest memory: the guest may read and write it at any time. Packets may be
/// lost. Nothing here blocks.
pub trait Backend: Send + Sync + 'static {
    /// Its name, its MTU and its offloads.
    fn info(&self) -> &Info;

    /// Is called before the first packet of each activation of the device. `header` is the length of a packet's header in
    /// bytes, and `features` is what the driver has negotiated, of which only the bits in [`Info::features`] matter.
    ///
    /// # Errors
    /// The device cannot be activated.
    fn configure(&self, header: usize, features: u64) -> io::Result<()>;

    /// Takes one packet into `buffers`, and what does not fit there into `overflow`, which holds the longest packet. Returns
    /// its length in bytes. A packet shorter than its header is dropped.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no packet; then [`readiness`](Self::readiness) becomes
    /// readable with the next one. After [`Interrupted`](io::ErrorKind::Interrupted) it is called again. After
    /// every other error it is not called again in this activation of the device. The back end logs such an error, once.
    fn receive(&self, buffers: &mut IoVector<'_>, overflow: &mut [u8]) -> io::Result<usize>;

    /// Sends the packet in `buffers`, which may be empty: then there is nothing to send.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if it takes no packet for now; then [`readiness`](Self::readiness) becomes
    /// writable with the next one that it takes. With every other error the packet is lost.
    fn send(&self, buffers: &IoVector<'_>) -> io::Result<()>;

    /// The descriptor that is readable (`POLLIN`) while there is a packet, and writable (`POLLOUT`) while it takes one. It is
    /// only polled.
    fn readiness(&self) -> BorrowedFd<'_>;
}
