//! One request to the block device: from a descriptor chain to its status byte (VIRTIO 1.3, section 5.2.6).
//!
//! Nothing here knows of threads, events or rings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::disk::Disk;
use super::{SECTOR_SIZE, Serial};

/// Descriptors in a chain, at most. A driver keeps to the queue's size, or to `seg_max` and two in an indirect table;
/// QEMU draws the same line.
const MAX_DESCRIPTORS: usize = 1024;

/// Sectors in a segment of a discard request. A hole costs the host the same whatever its size; this only keeps a
/// guest's numbers away from overflow.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// Segments in a discard request.
pub(super) const MAX_DISCARD_SEGMENTS: u32 = 16;
/// Sectors in a segment of a write-zeroes request: 32 MiB. Where the host cannot zero a range by itself this much is
/// written, and a reset waits for it.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;
/// Segments in a write-zeroes request.
pub(super) const MAX_WRITE_ZEROES_SEGMENTS: u32 = 1;

/// Bytes of `struct virtio_blk_req` in front of the data: type, reserved, sector.
const HEADER_SIZE: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const SEGMENT_SIZE: usize = 16;

/// A descriptor chain that is no request at all, not even one to answer with an error: there is no telling where its
/// status byte would be. The device cannot go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
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

/// A list of buffers in guest memory that is taken apart from its two ends. How the driver cut it into descriptors makes
/// no difference (VIRTIO 1.3, section 2.7.4, message framing).
#[derive(Default)]
struct Buffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
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

    fn push(
        &mut self,
        memory: &'m GuestMemoryMmap,
        descriptor: Descriptor,
    ) -> Result<(), Malformed> {
        let address = descriptor.addr();
        let length =
            usize::try_from(descriptor.len()).map_err(|_| Malformed::Address(address.0))?;
        for slice in memory.get_slices(address, length) {
            self.slices
                .push(slice.map_err(|_| Malformed::Address(address.0))?);
        }
        self.length = self.length.saturating_add(descriptor.len().into());
        Ok(())
    }

    fn as_slice(&self) -> &[VolatileSlice<'m>] {
        self.slices.get(self.taken..).unwrap_or_default()
    }

    /// Takes the first bytes, if there are enough.
    fn take_front<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let mut missing = bytes.as_mut_slice();
        self.length = self.length.checked_sub(missing.len() as u64)?;
        while !missing.is_empty() {
            let slice = self.slices.get_mut(self.taken)?;
            let count = slice.copy_to(missing);
            *slice = slice.offset(count).ok()?;
            if slice.is_empty() {
                self.taken = self.taken.checked_add(1)?;
            }
            missing = missing.get_mut(count..)?;
        }
        Some(bytes)
    }

    /// Takes the last byte.
    fn take_last(&mut self) -> Option<VolatileSlice<'m>> {
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
    fn copy_from(&self, mut bytes: &[u8]) -> u64 {
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
pub(super) struct Chain<'m> {
    readable: Buffers<'m>,
    writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Takes over the descriptors of a chain.
    pub fn load(
        &mut self,
        memory: &'m GuestMemoryMmap,
        descriptors: impl Iterator<Item = Descriptor>,
    ) -> Result<(), Malformed> {
        self.readable.clear();
        self.writable.clear();
        // The iterator ends without a word at whatever it cannot follow; but then there should have been a next one.
        let mut more = true;
        for (count, descriptor) in descriptors.enumerate() {
            if count >= MAX_DESCRIPTORS {
                return Err(Malformed::TooLong);
            }
            more = descriptor.has_next();
            if descriptor.is_write_only() {
                self.writable.push(memory, descriptor)?;
            } else if self.writable.slices.is_empty() {
                self.readable.push(memory, descriptor)?;
            } else {
                return Err(Malformed::Order);
            }
        }
        if more { Err(Malformed::Chain) } else { Ok(()) }
    }
}

/// What the status byte says about a request that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Io,
    Unsupported,
}

impl Failure {
    fn status(self) -> u32 {
        match self {
            Self::Io => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        }
    }
}

/// Carries out requests on a disk.
pub(super) struct Executor {
    pub disk: Arc<Disk>,
    pub serial: Serial,
    /// The driver has no way to flush, so that a write is done only when it is on stable storage (VIRTIO 1.3, section
    /// 5.2.6.2).
    pub write_through: bool,
    /// An error of the host has been reported. A guest can cause one after the other and must not fill the log.
    pub reported: AtomicBool,
}

impl Executor {
    /// Carries out the request in `chain` and stores its status. Returns how many bytes from the start of the writable
    /// buffers on are written, for the used ring.
    pub fn execute(&self, chain: &mut Chain<'_>) -> Result<u32, Malformed> {
        let Chain { readable, writable } = chain;
        let status_byte = writable.take_last().ok_or(Malformed::NoStatus)?;
        let header: [u8; HEADER_SIZE] = readable.take_front().ok_or(Malformed::ShortHeader)?;
        let kind = u32_at(&header, 0);
        let sector = u64_at(&header, 8);

        let result = match kind {
            VIRTIO_BLK_T_IN => self.read(writable, sector),
            VIRTIO_BLK_T_OUT => self.write(readable, sector).map(|()| 0),
            VIRTIO_BLK_T_FLUSH => self.check("flush", self.disk.flush()).map(|()| 0),
            VIRTIO_BLK_T_GET_ID => Ok(writable.copy_from(&self.serial.0)),
            VIRTIO_BLK_T_DISCARD => self.discard(readable).map(|()| 0),
            VIRTIO_BLK_T_WRITE_ZEROES => self.write_zeroes(readable).map(|()| 0),
            _ => Err(Failure::Unsupported),
        };
        let (status, written) = match result {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(failure) => (failure.status(), 0),
        };
        status_byte.copy_from(&[status.to_le_bytes()[0]]);
        // The status counts only where nothing unwritten lies before it.
        let used = if written == writable.length {
            written.saturating_add(1)
        } else {
            written
        };
        // Fits, as a chain holds less than 2^32 bytes.
        Ok(u32::try_from(used).unwrap_or(u32::MAX))
    }

    fn read(&self, buffers: &Buffers<'_>, sector: u64) -> Result<u64, Failure> {
        let offset = self.offset(sector, buffers.length)?;
        self.check("read", self.disk.read(buffers.as_slice(), offset))?;
        Ok(buffers.length)
    }

    fn write(&self, buffers: &Buffers<'_>, sector: u64) -> Result<(), Failure> {
        let offset = self.offset(sector, buffers.length)?;
        self.writable()?;
        self.check("write", self.disk.write(buffers.as_slice(), offset))?;
        self.written()
    }

    fn discard(&self, segments: &mut Buffers<'_>) -> Result<(), Failure> {
        self.writable()?;
        self.for_each_segment(
            segments,
            MAX_DISCARD_SEGMENTS,
            MAX_DISCARD_SECTORS,
            |offset, length, flags| match flags {
                0 => self.check("discard", self.disk.discard(offset, length)),
                _ => Err(Failure::Unsupported),
            },
        )?;
        self.written()
    }

    fn write_zeroes(&self, segments: &mut Buffers<'_>) -> Result<(), Failure> {
        self.writable()?;
        let (count, sectors) = (MAX_WRITE_ZEROES_SEGMENTS, MAX_WRITE_ZEROES_SECTORS);
        self.for_each_segment(segments, count, sectors, |offset, length, flags| {
            let unmap = match flags {
                0 => false,
                VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => true,
                _ => return Err(Failure::Unsupported),
            };
            self.check(
                "write zeroes",
                self.disk.write_zeroes(offset, length, unmap),
            )
        })?;
        self.written()
    }

    /// Calls `action` with offset and length in bytes, and the flags, of each segment of a discard or write-zeroes
    /// request.
    fn for_each_segment(
        &self,
        segments: &mut Buffers<'_>,
        max_count: u32,
        max_sectors: u32,
        action: impl Fn(u64, u64, u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (length, size) = (segments.length, SEGMENT_SIZE as u64);
        let limit = size.saturating_mul(max_count.into());
        if length == 0 || length > limit || !length.is_multiple_of(size) {
            return Err(Failure::Io);
        }
        while let Some(segment) = segments.take_front::<SEGMENT_SIZE>() {
            let (sector, count, flags) = (
                u64_at(&segment, 0),
                u32_at(&segment, 8),
                u32_at(&segment, 12),
            );
            if count > max_sectors {
                return Err(Failure::Io);
            }
            let length = u64::from(count).saturating_mul(SECTOR_SIZE);
            action(self.offset(sector, length)?, length, flags)?;
        }
        Ok(())
    }

    /// Where in the image `length` bytes from `sector` on begin, if they are whole sectors of the disk.
    fn offset(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let end = sector
            .checked_add(length / SECTOR_SIZE)
            .ok_or(Failure::Io)?;
        if length.is_multiple_of(SECTOR_SIZE) && end <= self.disk.sectors() {
            sector.checked_mul(SECTOR_SIZE).ok_or(Failure::Io)
        } else {
            Err(Failure::Io)
        }
    }

    fn writable(&self) -> Result<(), Failure> {
        if self.disk.is_read_only() {
            Err(Failure::Io)
        } else {
            Ok(())
        }
    }

    /// After every change of the disk.
    fn written(&self) -> Result<(), Failure> {
        if self.write_through {
            self.check("flush", self.disk.flush())
        } else {
            Ok(())
        }
    }

    /// Reports the first error of the host. The guest learns of each.
    fn check(&self, what: &str, result: std::io::Result<()>) -> Result<(), Failure> {
        result.map_err(|error| {
            if !self.reported.swap(true, Ordering::Relaxed) {
                log::warn!("disk image: {what} failed, the guest sees an I/O error: {error}");
            }
            Failure::Io
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
