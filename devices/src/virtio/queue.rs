//! The device's side of a split virtqueue (VIRTIO 1.3, section 2.7).

use std::io;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::chain::{Chain, Malformed};
use super::descriptors::Descriptors;
use crate::memory::GuestMemoryMmap;

/// Why a device stops serving a queue until it is reset.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Request(#[from] Malformed),
    #[error("{0}")]
    Queue(virtio_queue::Error),
    #[error("available ring: descriptor {0} is not in the table")]
    Head(u16),
    #[error("available ring: cannot be read")]
    Unreadable,
    #[error("used ring: cannot be written")]
    Unwritable,
}

/// Why a device's own loop over its queues ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("it cannot wait: {0}")]
    Host(io::Error),
}

/// A queue that nobody is serving at the moment.
pub(super) struct Parked {
    queue: Queue,
    /// Where the used ring was when the driver was last considered for an interrupt.
    considered: u16,
    /// The available ring was found to hold something, so the next look must find it too.
    promised: bool,
}

impl Parked {
    /// A queue that has not been served yet.
    pub fn new(queue: Queue) -> Self {
        Self {
            considered: queue.next_used(),
            promised: false,
            queue,
        }
    }

    /// How many chains were taken and used, modulo 2^16. Between two of them these are the same.
    pub fn position(&self) -> u16 {
        self.queue.next_used()
    }
}

/// A queue that is being served.
pub(super) struct DeviceQueue<'m> {
    memory: &'m GuestMemoryMmap,
    parked: Parked,
}

impl<'m> DeviceQueue<'m> {
    /// A queue that has not been served yet, whose addresses lie in `memory`.
    pub fn new(memory: &'m GuestMemoryMmap, queue: Queue) -> Self {
        Self::resume(memory, Parked::new(queue))
    }

    /// Goes on where [`park`](Self::park) left off. The queue's addresses lie in `memory`.
    pub fn resume(memory: &'m GuestMemoryMmap, parked: Parked) -> Self {
        Self { memory, parked }
    }

    /// Lets go of the memory.
    pub fn park(self) -> Parked {
        self.parked
    }

    /// How many chains were put into the used ring, modulo 2^16. Where chains are used in the order in which they were
    /// taken, this is where the next one to be used is in the available ring.
    pub fn position(&self) -> u16 {
        self.parked.position()
    }

    /// How many chains are available.
    pub fn waiting(&self) -> Result<u16, Broken> {
        let queue = &self.parked.queue;
        let available = queue
            .avail_idx(self.memory, Ordering::Acquire)
            .map_err(Broken::Queue)?;
        Ok(available.0.wrapping_sub(queue.next_avail()))
    }

    /// Undoes the last [`next`](Self::next): its chain is available again.
    pub fn put_back(&mut self) {
        self.parked.queue.go_to_previous_position();
    }

    /// Entries in its rings.
    pub fn size(&self) -> u16 {
        self.parked.queue.size()
    }

    /// Takes the next available chain, if there is one: its buffers go to `chain`, and its head is what goes to the used
    /// ring.
    ///
    /// A ring that was said to hold something and now holds nothing that can be got is broken: who serves it would look
    /// for ever.
    pub fn next(&mut self, chain: &mut Chain<'m>) -> Result<Option<u16>, Broken> {
        let promised = std::mem::take(&mut self.parked.promised);
        let next = self
            .parked
            .queue
            .iter(self.memory)
            .map_err(Broken::Queue)?
            .next();
        let Some(descriptors) = next else {
            return if promised {
                Err(Broken::Unreadable)
            } else {
                Ok(None)
            };
        };
        let (head, size) = (descriptors.head_index(), self.size());
        if head >= size {
            return Err(Broken::Head(head));
        }
        let table = GuestAddress(self.parked.queue.desc_table());
        let descriptors =
            Descriptors::new(self.memory, table, size, head).ok_or(Broken::Unreadable)?;
        chain.load(self.memory, descriptors)?;
        Ok(Some(head))
    }

    /// Hands chains back to the driver, each with how many bytes were written to it. The driver sees all of them at
    /// once or none, as a packet in several buffers demands (section 5.1.6.4).
    pub fn add_used(&mut self, chains: &[(u16, u32)]) -> Result<(), Broken> {
        let (ring, size) = (
            self.parked.queue.used_ring(),
            u64::from(self.parked.queue.size()),
        );
        let mut index = self.parked.queue.next_used();
        for &(head, length) in chains {
            // Flags and index, 2 bytes each, then entries of 8 bytes. The size of a queue is not zero.
            let entry = u64::from(index)
                .checked_rem(size)
                .and_then(|slot| ring.checked_add(slot.checked_mul(8)?)?.checked_add(4))
                .ok_or(Broken::Unwritable)?;
            let element = u64::from(head) | u64::from(length) << u32::BITS;
            self.memory
                .write_obj(element.to_le(), GuestAddress(entry))
                .map_err(|_| Broken::Unwritable)?;
            index = index.wrapping_add(1);
        }
        self.parked.queue.set_next_used(index);
        let address = ring.checked_add(2).ok_or(Broken::Unwritable)?;
        // The driver that sees the new index sees the entries too.
        self.memory
            .store(index.to_le(), GuestAddress(address), Ordering::Release)
            .map_err(|_| Broken::Unwritable)
    }

    /// Tells the driver not to notify: the device looks by itself.
    pub fn disable_notification(&mut self) -> Result<(), Broken> {
        self.parked
            .queue
            .disable_notification(self.memory)
            .map_err(Broken::Queue)
    }

    /// Asks the driver to notify the next chain. Returns whether there is one already, of which it will not tell.
    pub fn enable_notification(&mut self) -> Result<bool, Broken> {
        self.parked.promised = self
            .parked
            .queue
            .enable_notification(self.memory)
            .map_err(Broken::Queue)?;
        Ok(self.parked.promised)
    }

    /// Whether chains were used since [`wants_interrupt`](Self::wants_interrupt) was last asked.
    pub fn has_used(&self) -> bool {
        self.parked.queue.next_used() != self.parked.considered
    }

    /// Whether the driver wants to hear of the chains that were used since the last call (sections 2.7.7 and 2.7.10).
    pub fn wants_interrupt(&mut self) -> Result<bool, Broken> {
        let now = self.parked.queue.next_used();
        let before = std::mem::replace(&mut self.parked.considered, now);
        // The driver says what it wants and then looks at the used ring; here the ring is written and then that read.
        // Without a full barrier each could miss the other.
        fence(Ordering::SeqCst);
        let event_idx = self.parked.queue.event_idx_enabled();
        // Flags and index, 2 bytes each, then entries of 2 bytes, then used_event.
        let offset = if event_idx {
            u64::from(self.parked.queue.size())
                .saturating_mul(2)
                .saturating_add(4)
        } else {
            0
        };
        let address = self
            .parked
            .queue
            .avail_ring()
            .checked_add(offset)
            .ok_or(Broken::Unreadable)?;
        let value: u16 = self
            .memory
            .load(GuestAddress(address), Ordering::Relaxed)
            .map_err(|_| Broken::Unreadable)?;
        let value = u16::from_le(value);
        Ok(if event_idx {
            has_passed(value, before, now)
        } else {
            u32::from(value) & VRING_AVAIL_F_NO_INTERRUPT == 0
        })
    }
}

/// Whether the entry `event`, which the other side waits for, is among those from `before` up to `now`, all modulo 2^16
/// (section 2.7.10, `vring_need_event`).
const fn has_passed(event: u16, before: u16, now: u16) -> bool {
    event.wrapping_sub(before) < now.wrapping_sub(before)
}

#[cfg(test)]
mod tests;
