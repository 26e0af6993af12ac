//! The receive queue: packets from the back end to the guest (VIRTIO 1.3, sections 5.1.6.3 and 5.1.6.4).
//!
//! The length of a packet is known only after it has been read. So buffers are taken from the queue until any packet fits,
//! the packet is read directly into them, and unused buffers stay for the next one. A packet that does not fit
//! waits in a buffer of the device until the driver supplies more.

use std::collections::VecDeque;
use std::io;

use super::backend::Backend;
use super::io_vector::IoVector;
use super::{MAX_PACKET, TURN};
use crate::virtio::chain::{Chain, Malformed};
use crate::virtio::queue::{Broken, DeviceQueue};

/// Offset of `num_buffers` in `struct virtio_net_hdr_v1`, in bytes.
const NUM_BUFFERS: usize = 10;

/// The parts of one buffer, at most, and of all buffers that are taken before they are enough.
const MAX_PARTS: usize = IoVector::MAX / 2;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// There may be more.
    More,
    /// The back end has nothing.
    Empty,
    /// The driver has to bring buffers first, and has been asked to say when.
    NoBuffers,
    /// The back end is gone.
    Gone,
}

/// Loses a turn's worth of packets. `space` holds the longest packet.
pub(super) fn discard(backend: &dyn Backend, space: &mut [u8]) -> Received {
    for _ in 0..TURN {
        match backend.receive(&mut IoVector::default(), space) {
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Received::Empty,
                io::ErrorKind::Interrupted => {}
                _ => return Received::Gone,
            },
        }
    }
    Received::More
}

/// The device's side of the queue.
pub(super) struct Receiver<'m> {
    pub queue: DeviceQueue<'m>,
    /// A packet may take several buffers (VIRTIO_NET_F_MRG_RXBUF).
    merge: bool,
    /// Bytes of a packet's header, which tells how many if it is long enough.
    header: usize,
    /// How much room is wanted before a packet is read, in bytes.
    target: u64,
    chain: Chain<'m>,
    /// Buffers that are taken and not used.
    buffers: VecDeque<Buffer>,
    /// Their parts.
    vector: IoVector<'m>,
    /// Their room, in bytes.
    room: u64,
    overflow: Vec<u8>,
    /// The packet that did not fit: its length, and how much of it is in the buffers.
    waiting: Option<(u64, u64)>,
    used: Vec<(u16, u32)>,
}

struct Buffer {
    head: u16,
    length: u64,
    parts: usize,
}

impl<'m> Receiver<'m> {
    /// `header` is the length of a packet's header in bytes, and `longest` that of packets the back end will not
    /// often exceed. `pending` is a packet that comes first.
    pub fn new(
        queue: DeviceQueue<'m>,
        merge: bool,
        header: usize,
        longest: usize,
        pending: Option<Vec<u8>>,
    ) -> Self {
        let mut overflow = vec![0; MAX_PACKET];
        let waiting = pending.map(|packet| {
            for (to, from) in overflow.iter_mut().zip(&packet) {
                *to = *from;
            }
            (packet.len().min(MAX_PACKET) as u64, 0)
        });
        Self {
            queue,
            merge,
            header,
            target: longest as u64,
            chain: Chain::default(),
            buffers: VecDeque::new(),
            vector: IoVector::default(),
            room: 0,
            overflow,
            waiting,
            used: Vec::new(),
        }
    }

    /// The packet that waits for buffers. Those that are taken and not used stay available to the driver's next device.
    pub fn into_pending(self) -> Option<Vec<u8>> {
        let (length, stored) = self.waiting?;
        let stored = usize::try_from(stored).ok()?;
        let mut packet = vec![0; usize::try_from(length).ok()?];
        let (front, rest) = packet.split_at_mut_checked(stored)?;
        self.vector.copy_to(front);
        for (to, from) in rest.iter_mut().zip(&self.overflow) {
            *to = *from;
        }
        Some(packet)
    }

    /// Brings packets to the guest, up to a turn's worth.
    pub fn run(&mut self, backend: &dyn Backend) -> Result<Received, Broken> {
        self.queue.disable_notification()?;
        for _ in 0..TURN {
            self.fill()?;
            if let Some((length, stored)) = self.waiting {
                if length <= self.room {
                    self.store_rest(stored, length);
                    self.waiting = None;
                    self.complete(length)?;
                } else if !self.merge
                    || self.buffers.len() >= usize::from(self.queue.size())
                    || self.vector.len() >= MAX_PARTS
                {
                    // All that the driver can bring is not enough. The next packet may be shorter.
                    self.waiting = None;
                } else if !self.queue.enable_notification()? {
                    return Ok(Received::NoBuffers);
                }
                continue;
            }
            if self.buffers.is_empty() {
                if self.queue.enable_notification()? {
                    continue;
                }
                return Ok(Received::NoBuffers);
            }
            match backend.receive(&mut self.vector, &mut self.overflow) {
                // The driver gets no packet without a whole header, and the buffers stay for the next one.
                Ok(length) if length < self.header => {}
                Ok(length) if length as u64 <= self.room => self.complete(length as u64)?,
                Ok(length) => self.waiting = Some((length as u64, self.room)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Received::Empty),
                    io::ErrorKind::Interrupted => {}
                    _ => return Ok(Received::Gone),
                },
            }
        }
        Ok(Received::More)
    }

    /// Loses a turn's worth of packets, which would otherwise reach the guest when its link is up again.
    pub fn discard(&mut self, backend: &dyn Backend) -> Received {
        self.waiting = None;
        discard(backend, &mut self.overflow)
    }

    /// Takes buffers until there is room for a packet, or no buffer.
    fn fill(&mut self) -> Result<(), Broken> {
        loop {
            let wanted = self.waiting.map_or(self.target, |(length, _)| length);
            let enough = if self.merge {
                self.room >= wanted || self.vector.len() >= MAX_PARTS
            } else {
                !self.buffers.is_empty()
            };
            if enough {
                return Ok(());
            }
            let Some(head) = self.queue.next(&mut self.chain)? else {
                return Ok(());
            };
            let buffer = &self.chain.writable;
            let parts = buffer.as_slice().len();
            if parts > MAX_PARTS {
                return Err(Malformed::TooLong.into());
            }
            if buffer.length() == 0 && self.buffers.is_empty() {
                self.queue.add_used(&[(head, 0)])?;
                // It does not count as progress, and a driver could keep this up.
                return Ok(());
            }
            if self.buffers.len() >= usize::from(self.queue.size()) {
                // A driver has no more than these, unless it makes one available twice.
                return Err(Malformed::TooLong.into());
            }
            for slice in buffer.as_slice() {
                self.vector.push(*slice);
            }
            let length = buffer.length();
            self.room = self.room.saturating_add(length);
            self.buffers.push_back(Buffer {
                head,
                length,
                parts,
            });
        }
    }

    /// Stores what of a packet is in the overflow.
    fn store_rest(&self, stored: u64, length: u64) {
        let rest = usize::try_from(length.saturating_sub(stored)).unwrap_or(usize::MAX);
        let offset = usize::try_from(stored).unwrap_or(usize::MAX);
        let rest = self.overflow.get(..rest).unwrap_or_default();
        self.vector.copy_at(offset, rest);
    }

    /// Hands the packet of `length` bytes at the front of the buffers to the driver.
    fn complete(&mut self, length: u64) -> Result<(), Broken> {
        let mut rest = length;
        let mut parts = 0_usize;
        while rest > 0 {
            let Some(buffer) = self.buffers.pop_front() else {
                break;
            };
            let taken = rest.min(buffer.length);
            rest = rest.saturating_sub(taken);
            parts = parts.saturating_add(buffer.parts);
            self.room = self.room.saturating_sub(buffer.length);
            // A packet is shorter than 2^32 bytes.
            self.used
                .push((buffer.head, u32::try_from(taken).unwrap_or(u32::MAX)));
        }
        if self.header > NUM_BUFFERS {
            let count = u16::try_from(self.used.len()).unwrap_or(u16::MAX);
            self.vector.copy_at(NUM_BUFFERS, &count.to_le_bytes());
        }
        self.vector.remove_front(parts);
        let result = self.queue.add_used(&self.used);
        self.used.clear();
        result
    }
}
