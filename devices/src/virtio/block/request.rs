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

use vm_memory::VolatileSlice;

use super::disk::Disk;
use super::{SECTOR_SIZE, Serial};
use crate::virtio::chain::{Buffers, Chain, Malformed};
use crate::virtio::worker::Handler;

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

/// The most bytes that are read or written on a vCPU's thread, where they take some microseconds.
const MAX_NOW: u64 = 32 << 10;

/// Bytes of `struct virtio_blk_req` in front of the data: type, reserved, sector.
const HEADER_SIZE: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const SEGMENT_SIZE: usize = 16;

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

/// What the header of a request says, and where its status goes.
struct Request<'m> {
    kind: u32,
    sector: u64,
    status: VolatileSlice<'m>,
}

impl<'m> Request<'m> {
    /// Takes header and status out of `chain`, which leaves the data.
    fn take(chain: &mut Chain<'m>) -> Result<Self, Malformed> {
        let status = chain.writable.take_last().ok_or(Malformed::NoStatus)?;
        let header: [u8; HEADER_SIZE] =
            chain.readable.take_front().ok_or(Malformed::ShortHeader)?;
        Ok(Self {
            kind: u32_at(&header, 0),
            sector: u64_at(&header, 8),
            status,
        })
    }

    /// Stores the status of a request that has written so many bytes to the front of `writable`. Returns how many are written
    /// with it.
    fn end(self, writable: &Buffers<'_>, result: Result<u64, Failure>) -> u32 {
        let (status, written) = match result {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(failure) => (failure.status(), 0),
        };
        self.status.copy_from(&[status.to_le_bytes()[0]]);
        // The status counts only where nothing unwritten lies before it.
        let used = if written == writable.length() {
            written.saturating_add(1)
        } else {
            written
        };
        // Fits, as a chain holds less than 2^32 bytes.
        u32::try_from(used).unwrap_or(u32::MAX)
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

impl Handler for Executor {
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<u32, Malformed> {
        self.execute(chain)
    }

    fn handle_now(&mut self, chain: &mut Chain<'_>) -> Result<Option<u32>, Malformed> {
        self.execute_now(chain)
    }
}

impl Executor {
    /// Carries out the request in `chain` and stores its status. Returns how many bytes from the start of the writable
    /// buffers on are written, for the used ring.
    pub fn execute(&self, chain: &mut Chain<'_>) -> Result<u32, Malformed> {
        let request = Request::take(chain)?;
        let Chain { readable, writable } = chain;
        let result = match request.kind {
            VIRTIO_BLK_T_IN => self.read(writable, request.sector),
            VIRTIO_BLK_T_OUT => self.write(readable, request.sector).map(|()| 0),
            VIRTIO_BLK_T_FLUSH => self.check("flush", self.disk.flush()).map(|()| 0),
            VIRTIO_BLK_T_GET_ID => Ok(writable.copy_from(&self.serial.0)),
            VIRTIO_BLK_T_DISCARD => self.discard(readable).map(|()| 0),
            VIRTIO_BLK_T_WRITE_ZEROES => self.write_zeroes(readable).map(|()| 0),
            _ => Err(Failure::Unsupported),
        };
        Ok(request.end(writable, result))
    }

    /// Carries out the request in `chain` if it is a small read or write that need not wait for the host's storage, and
    /// succeeds. Otherwise it has to be executed, as if it had not been begun.
    pub fn execute_now(&self, chain: &mut Chain<'_>) -> Result<Option<u32>, Malformed> {
        let request = Request::take(chain)?;
        let Chain { readable, writable } = chain;
        let data = match request.kind {
            VIRTIO_BLK_T_IN => &*writable,
            VIRTIO_BLK_T_OUT if !self.write_through && !self.disk.is_read_only() => &*readable,
            _ => return Ok(None),
        };
        let Ok(offset) = self.offset(request.sector, data.length()) else {
            return Ok(None);
        };
        if data.length() > MAX_NOW {
            return Ok(None);
        }
        let written = match request.kind {
            VIRTIO_BLK_T_IN => self
                .disk
                .read_now(data.as_slice(), offset)
                .then(|| data.length()),
            _ => self.disk.write_now(data.as_slice(), offset).then_some(0),
        };
        Ok(written.map(|written| request.end(writable, Ok(written))))
    }

    fn read(&self, buffers: &Buffers<'_>, sector: u64) -> Result<u64, Failure> {
        let offset = self.offset(sector, buffers.length())?;
        self.check("read", self.disk.read(buffers.as_slice(), offset))?;
        Ok(buffers.length())
    }

    fn write(&self, buffers: &Buffers<'_>, sector: u64) -> Result<(), Failure> {
        let offset = self.offset(sector, buffers.length())?;
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
        let (length, size) = (segments.length(), SEGMENT_SIZE as u64);
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
