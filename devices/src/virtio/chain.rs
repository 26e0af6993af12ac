//! Descriptor chains as buffers in guest memory (VIRTIO 1.3, section 2.7.5).

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::{GuestMemoryMmap, GuestRegionMmap, GuestSlice};

/// Descriptors in a chain, at most. A driver keeps to the queue's size, or to `seg_max` and two in an indirect table;
/// QEMU draws the same line.
pub const MAX_DESCRIPTORS: usize = 1024;

/// A descriptor chain that is no request at all, not even one to answer with an error: there is no telling where its
/// status byte would be. The device cannot go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the chain has no end, or leaves the descriptor table, guest memory or 2^32 bytes")]
    Chain,
    #[error("the chain has more than {MAX_DESCRIPTORS} descriptors")]
    TooLong,
    #[error("a buffer at {0:#x} is not in guest memory")]
    Address(u64),
    #[error("a device-readable buffer follows a device-writable one")]
    Order,
    #[error("the request is shorter than its header")]
    ShortHeader,
    #[error("the request has no room for a status")]
    NoStatus,
}

/// The guest's memory, with the region in which the last buffer was: where the next one is as well, as a rule.
struct Regions<'m> {
    memory: &'m GuestMemoryMmap,
    last: Option<&'m GuestRegionMmap>,
}

impl<'m> Regions<'m> {
    /// A buffer that lies in one region.
    fn get_slice(&mut self, address: GuestAddress, length: usize) -> Option<GuestSlice<'m>> {
        let last = self
            .last
            .and_then(|region| Some((region, region.to_region_addr(address)?)));
        let (region, start) = match last {
            Some(found) => found,
            None => self.memory.to_region_addr(address)?,
        };
        self.last = Some(region);
        region.get_slice(start, length).ok()
    }
}

/// A list of buffers in guest memory that is taken apart from its two ends. How the driver cut it into descriptors makes
/// no difference (VIRTIO 1.3, section 2.7.4, message framing).
#[derive(Default)]
pub struct Buffers<'m> {
    slices: Vec<GuestSlice<'m>>,
    /// Slices that have been taken from the front.
    taken: usize,
    /// Bytes in the rest. A chain holds less than 2^32.
    length: u64,
}

impl<'m> Buffers<'m> {
    fn clear(&mut self) {
        self.slices.clear();
        self.taken = 0;
        self.length = 0;
    }

    /// No buffers, of any memory, in the same space.
    fn recycle<'n>(mut self) -> Buffers<'n> {
        self.slices.clear();
        Buffers {
            // An empty list of another lifetime, made of the same allocation.
            slices: self.slices.into_iter().map_while(|_| None).collect(),
            taken: 0,
            length: 0,
        }
    }

    fn push(&mut self, regions: &mut Regions<'m>, descriptor: Descriptor) -> Result<(), Malformed> {
        let address = descriptor.addr();
        let length =
            usize::try_from(descriptor.len()).map_err(|_| Malformed::Address(address.0))?;
        if length == 0 {
            return Ok(());
        }
        if let Some(slice) = regions.get_slice(address, length) {
            self.slices.push(slice);
        } else {
            // It may lie in several regions.
            for slice in regions.memory.get_slices(address, length) {
                self.slices
                    .push(slice.map_err(|_| Malformed::Address(address.0))?);
            }
        }
        self.length = self.length.saturating_add(descriptor.len().into());
        Ok(())
    }

    /// Bytes in the buffers.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The buffers, without those that are used up.
    pub fn as_slice(&self) -> &[GuestSlice<'m>] {
        self.slices.get(self.taken..).unwrap_or_default()
    }

    /// Takes the first bytes, if there are enough.
    pub fn take_front<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if self.length < N as u64 {
            return None;
        }
        self.peek(&mut bytes);
        self.advance(N as u64);
        Some(bytes)
    }

    /// Copies the front into `bytes` as far as it goes, and returns how much that is.
    pub fn peek(&self, bytes: &mut [u8]) -> usize {
        let mut copied = 0_usize;
        for slice in self.as_slice() {
            let Some(missing) = bytes.get_mut(copied..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            copied = copied.saturating_add(slice.copy_to(missing));
        }
        copied
    }

    /// Takes the first `count` bytes, or all if there are fewer.
    pub fn advance(&mut self, mut count: u64) {
        self.length = self.length.saturating_sub(count);
        while let Some(slice) = self.slices.get_mut(self.taken) {
            let part = usize::try_from(count).map_or(slice.len(), |count| count.min(slice.len()));
            let Ok(rest) = slice.offset(part) else { return };
            *slice = rest;
            if !rest.is_empty() {
                return;
            }
            count = count.saturating_sub(part as u64);
            self.taken = self.taken.saturating_add(1);
        }
    }

    /// The buffers behind the first `offset` bytes.
    pub fn behind(&self, mut offset: usize) -> impl Iterator<Item = GuestSlice<'m>> {
        self.as_slice().iter().filter_map(move |slice| {
            let skipped = offset.min(slice.len());
            offset = offset.saturating_sub(skipped);
            slice.offset(skipped).ok().filter(|rest| !rest.is_empty())
        })
    }

    /// Takes the last byte.
    pub fn take_last(&mut self) -> Option<GuestSlice<'m>> {
        let slice = self.slices.last_mut()?;
        let (rest, last) = slice.split_at(slice.len().checked_sub(1)?).ok()?;
        *slice = rest;
        if rest.is_empty() {
            self.slices.pop();
        }
        self.length = self.length.checked_sub(1)?;
        Some(last)
    }

    /// Fills the front with as much of `bytes` as fits, and returns how much that is.
    pub fn copy_from(&self, mut bytes: &[u8]) -> u64 {
        let mut copied = 0;
        for slice in self.as_slice() {
            let count = slice.len().min(bytes.len());
            slice.copy_from(bytes);
            bytes = bytes.get(count..).unwrap_or_default();
            copied = u64::saturating_add(copied, count as u64);
        }
        copied
    }
}

/// A descriptor chain as two lists of buffers. Made once and used for one request after the other, so that a request
/// needs no memory from the heap.
#[derive(Default)]
pub struct Chain<'m> {
    /// The device-readable buffers.
    pub readable: Buffers<'m>,
    /// The device-writable buffers, which follow them.
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// An empty chain, for buffers in any memory, in the same space.
    pub fn recycle<'n>(self) -> Chain<'n> {
        Chain {
            readable: self.readable.recycle(),
            writable: self.writable.recycle(),
        }
    }

    /// Takes over the descriptors of a chain.
    pub fn load(
        &mut self,
        memory: &'m GuestMemoryMmap,
        descriptors: impl Iterator<Item = Descriptor>,
    ) -> Result<(), Malformed> {
        self.readable.clear();
        self.writable.clear();
        let mut regions = Regions { memory, last: None };
        // The iterator ends without a word at whatever it cannot follow; but then there should have been a next one.
        let mut more = true;
        for (count, descriptor) in descriptors.enumerate() {
            if count >= MAX_DESCRIPTORS {
                return Err(Malformed::TooLong);
            }
            more = descriptor.has_next();
            if descriptor.is_write_only() {
                self.writable.push(&mut regions, descriptor)?;
            } else if self.writable.slices.is_empty() {
                self.readable.push(&mut regions, descriptor)?;
            } else {
                return Err(Malformed::Order);
            }
        }
        if more { Err(Malformed::Chain) } else { Ok(()) }
    }
}
