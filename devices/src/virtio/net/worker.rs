//! The thread that serves both queues of a network device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use vmm_sys_util::eventfd::EventFd;

use super::MAX_PACKET;
use super::backend::Backend;
use super::device::{Link, RECEIVE, STATUS, Served, TRANSMIT};
use super::receive::{Received, Receiver};
use super::transmit::{Transmitted, Transmitter};
use crate::borrowed;
use crate::virtio::queue::{Broken, DeviceQueue, Stopped};
use crate::virtio::{Activation, ActiveQueue, Notifier, QueuePosition};

/// Bytes in front of an IP packet: an Ethernet header with a VLAN tag.
const ETHERNET: usize = 18;

/// What a worker needs beside the queues.
pub(super) struct Setup {
    pub backend: Arc<dyn Backend>,
    pub link: Arc<Link>,
    /// Bytes in front of each packet.
    pub header: usize,
    /// The longest IP packet, in bytes.
    pub mtu: u16,
    /// A packet that comes before those of the back end.
    pub pending: Option<Vec<u8>>,
}

/// Serves both queues until it is told to stop and woken by the link's event. Nothing that it does blocks.
pub(super) fn serve(
    setup: Setup,
    activation: &Activation,
    receive: ActiveQueue,
    transmit: ActiveQueue,
    stop: &AtomicBool,
) -> Served {
    let has = |bit: u32| activation.features & 1 << bit != 0;
    // Without segmentation offload packets are as long as the MTU has them.
    let longest = if has(VIRTIO_NET_F_GUEST_TSO4) || has(VIRTIO_NET_F_GUEST_TSO6) {
        MAX_PACKET
    } else {
        setup
            .header
            .saturating_add(ETHERNET)
            .saturating_add(setup.mtu.into())
    };
    let memory = &activation.memory;
    let mut server = Server {
        receiver: Receiver::new(
            DeviceQueue::new(memory, receive.queue),
            has(VIRTIO_NET_F_MRG_RXBUF),
            setup.header,
            longest,
            setup.pending,
        ),
        transmitter: Transmitter::new(DeviceQueue::new(memory, transmit.queue)),
        receive_kick: &receive.kick,
        transmit_kick: &transmit.kick,
        backend: setup.backend.as_ref(),
        gone: false,
        link: &setup.link,
        notifier: activation.notifier.as_ref(),
    };
    match server.run(stop) {
        Ok(()) => Served {
            positions: vec![
                QueuePosition {
                    index: RECEIVE,
                    next: server.receiver.queue.position(),
                },
                QueuePosition {
                    index: TRANSMIT,
                    next: server.transmitter.queue.position(),
                },
            ],
            pending: server.receiver.into_pending(),
        },
        Err(reason) => {
            activation.notifier.needs_reset(&reason);
            Served::default()
        }
    }
}

struct Server<'m> {
    receiver: Receiver<'m>,
    transmitter: Transmitter<'m>,
    receive_kick: &'m EventFd,
    transmit_kick: &'m EventFd,
    backend: &'m dyn Backend,
    /// The back end gives nothing more: the interface was deleted, for example.
    gone: bool,
    link: &'m Link,
    notifier: &'m dyn Notifier,
}

impl Server<'_> {
    fn run(&mut self, stop: &AtomicBool) -> Result<(), Stopped> {
        while !stop.load(Ordering::Acquire) {
            if self.link.take_changed() {
                self.notifier.config(STATUS, &self.link.status());
            }
            let connected = self.link.is_up() && !self.gone;
            // First a look, then the wait: what was made available before the driver was ready comes without a kick.
            let transmitted = self.transmitter.run(connected.then_some(self.backend))?;
            let received = if connected {
                self.receiver.run(self.backend)?
            } else if self.gone {
                Received::Gone
            } else {
                self.receiver.discard(self.backend)
            };
            self.gone |= received == Received::Gone;
            self.interrupt()?;
            if transmitted != Transmitted::More && received != Received::More {
                self.wait(transmitted, received)?;
            }
        }
        Ok(())
    }

    fn interrupt(&mut self) -> Result<(), Broken> {
        let queues = [
            (RECEIVE, &mut self.receiver.queue),
            (TRANSMIT, &mut self.transmitter.queue),
        ];
        for (index, queue) in queues {
            if queue.has_used() && queue.wants_interrupt()? {
                self.notifier.used(index);
            }
        }
        Ok(())
    }

    /// Sleeps until there is something to do.
    fn wait(&self, transmitted: Transmitted, received: Received) -> Result<(), Stopped> {
        let mut packets = PollFlags::empty();
        packets.set(PollFlags::POLLIN, received == Received::Empty);
        packets.set(PollFlags::POLLOUT, transmitted == Transmitted::Full);
        let wake = self.link.event();
        let mut fds = vec![
            PollFd::new(borrowed(wake), PollFlags::POLLIN),
            PollFd::new(borrowed(self.transmit_kick), PollFlags::POLLIN),
            PollFd::new(borrowed(self.receive_kick), PollFlags::POLLIN),
        ];
        // Its errors are reported even if nothing is asked for.
        if !packets.is_empty() {
            fds.push(PollFd::new(self.backend.readiness(), packets));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(Stopped::Host(error.into())),
        }
        for (fd, event) in fds
            .iter()
            .zip([wake, self.transmit_kick, self.receive_kick])
        {
            if fd.any() == Some(true) {
                // Readable, and nobody else reads it.
                let _ = event.read();
            }
        }
        Ok(())
    }
}
