//! The transmit queue: packets from the guest to the back end (VIRTIO 1.3, sections 5.1.6.1 and 5.1.6.2).

use std::io;

use super::backend::Backend;
use super::io_vector::IoVector;
use super::{MAX_PACKET, TURN};
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, DeviceQueue};

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transmitted {
    /// There is more.
    More,
    /// The queue is empty, and the driver has been asked to notify the next packet.
    Empty,
    /// The back end takes no more for now.
    Full,
}

/// The device's side of the queue.
pub(super) struct Transmitter<'m> {
    pub queue: DeviceQueue<'m>,
    chain: Chain<'m>,
    vector: IoVector<'m>,
    /// The head of the packet in `vector` that the back end did not take.
    held: Option<u16>,
    used: Vec<(u16, u32)>,
}

impl<'m> Transmitter<'m> {
    pub fn new(queue: DeviceQueue<'m>) -> Self {
        Self {
            queue,
            chain: Chain::default(),
            vector: IoVector::default(),
            held: None,
            used: Vec::new(),
        }
    }

    /// Sends what there is, up to a turn's worth. Without `backend` packets are lost, as on a cable that is not plugged in.
    pub fn run(&mut self, backend: Option<&dyn Backend>) -> Result<Transmitted, Broken> {
        self.queue.disable_notification()?;
        let result = self.send(backend);
        // What was sent counts, however the turn ended.
        self.queue.add_used(&self.used)?;
        self.used.clear();
        result
    }

    fn send(&mut self, backend: Option<&dyn Backend>) -> Result<Transmitted, Broken> {
        for _ in 0..TURN {
            let Some(head) = self.next()? else {
                if self.queue.enable_notification()? {
                    continue;
                }
                return Ok(Transmitted::Empty);
            };
            if let Some(backend) = backend
                && let Err(error) = backend.send(&self.vector)
            {
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Transmitted::Full),
                    io::ErrorKind::Interrupted => continue,
                    _ => {}
                }
            }
            // A packet that the back end refuses for any other reason is lost, as packets are: its header makes no
            // sense, or the interface is down.
            self.held = None;
            self.used.push((head, 0));
        }
        Ok(Transmitted::More)
    }

    /// Has the next packet in `vector`.
    fn next(&mut self) -> Result<Option<u16>, Broken> {
        if self.held.is_none() {
            self.held = self.queue.next(&mut self.chain)?;
            self.vector.clear();
            // What is too long for a packet leaves it empty, which is not sent.
            let buffers = &self.chain.readable;
            if self.held.is_some()
                && buffers.length() <= MAX_PACKET as u64
                && buffers.as_slice().len() <= IoVector::MAX
            {
                for slice in buffers.as_slice() {
                    self.vector.push(*slice);
                }
            }
        }
        Ok(self.held)
    }
}
