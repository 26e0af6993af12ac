//! One request to the block device: from a descriptor chain to its status byte (VIRTIO 1.3, section 5.2.6).
//!
//! This module is independent of threads, events and rings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::on_error::Policy;
use super::{Backend, SECTOR_SIZE, Serial};
use crate::memory::GuestSlice;
use crate::virtio::chain::{Buffers, Chain, Malformed};
use crate::virtio::worker::Handler;

/// Sectors in a segment of a discard request. A hole costs the host the same whatever its size; this only keeps a
/// guest's numbers away from overflow.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// Segments in a discard request.
pub(super) const MAX_DISCARD_SEGMENTS: u32 = 16;
/// Sectors in a segment of a write-zeroes request: 32 MiB.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;
/// Segments in a write-zeroes request.
pub(super) const MAX_WRITE_ZEROES_SEGMENTS: u32 = 1;

/// The most bytes that are read or written on a vCPU's thread, where they take some microseconds.
const MAX_NOW: u64 = 32 << 10;

/// The most bytes that the back end is asked for at once. Between two pieces a long request sees that the device is being
/// reset; Linux's requests are shorter than this.
const PIECE: u64 = 4 << 20;

/// Bytes of `struct virtio_blk_req` in front of the data: type, reserved, sector.
const HEADER_SIZE: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const SEGMENT_SIZE: usize = 16;

/// What the status byte says about a request that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Io,
    Unsupported,
    /// The device is being paused or reset, and the request is given up before its end.
    Stopped,
    /// The host could not carry it out, and it is held.
    Held,
}

impl Failure {
    fn status(self) -> u32 {
        match self {
            Self::Io | Self::Stopped | Self::Held => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        }
    }
}

/// What the header of a request says, and where its status goes.
struct Request<'m> {
    kind: u32,
    sector: u64,
    status: GuestSlice<'m>,
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

/// Carries out requests on a back end.
pub(super) struct Executor {
    backend: Arc<dyn Backend>,
    serial: Serial,
    /// The driver has no way to flush, so that a write is done only when it is on stable storage (VIRTIO 1.3, section
    /// 5.2.6.2).
    write_through: bool,
    /// Which failed requests are held.
    policy: Policy,
    /// An error of the host has been reported. A guest can cause one after the other and must not fill the log.
    reported: AtomicBool,
    /// From the back end's [`Info`](super::Info).
    sectors: u64,
    read_only: bool,
}

impl Handler for Executor {
    fn handle(
        &mut self,
        chain: &mut Chain<'_>,
        stop: &AtomicBool,
    ) -> Result<Option<u32>, Malformed> {
        self.execute(chain, stop)
    }

    fn handle_now(&mut self, chain: &mut Chain<'_>) -> Result<Option<u32>, Malformed> {
        self.execute_now(chain)
    }
}

impl Executor {
    pub fn new(
        backend: Arc<dyn Backend>,
        serial: Serial,
        write_through: bool,
        policy: Policy,
    ) -> Self {
        let info = backend.info();
        Self {
            sectors: info.sectors,
            read_only: info.read_only,
            backend,
            serial,
            write_through,
            policy,
            reported: AtomicBool::new(false),
        }
    }

    /// Carries out the request in `chain` and stores its status. Returns how many bytes from the start of the writable
    /// buffers on are written, for the used ring. `None` if `stop` was set before the end, or if it failed and is held: then
    /// some of it is done, and there is no status.
    pub fn execute(
        &self,
        chain: &mut Chain<'_>,
        stop: &AtomicBool,
    ) -> Result<Option<u32>, Malformed> {
        let request = Request::take(chain)?;
        let Chain { readable, writable } = chain;
        let result = match request.kind {
            VIRTIO_BLK_T_IN => self.read(writable, request.sector, stop),
            VIRTIO_BLK_T_OUT => self.write(readable, request.sector, stop).map(|()| 0),
            VIRTIO_BLK_T_FLUSH => self.flush().map(|()| 0),
            VIRTIO_BLK_T_GET_ID => Ok(writable.copy_from(&self.serial.0)),
            VIRTIO_BLK_T_DISCARD => self.discard(readable, stop).map(|()| 0),
            VIRTIO_BLK_T_WRITE_ZEROES => self.write_zeroes(readable, stop).map(|()| 0),
            _ => Err(Failure::Unsupported),
        };
        Ok(match result {
            Err(Failure::Stopped | Failure::Held) => None,
            result => Some(request.end(writable, result)),
        })
    }

    /// Carries out the request in `chain` if it is a small read or write that need not wait for the host's storage, and
    /// succeeds. Otherwise it has to be executed, as if it had not been begun.
    pub fn execute_now(&self, chain: &mut Chain<'_>) -> Result<Option<u32>, Malformed> {
        let request = Request::take(chain)?;
        let Chain { readable, writable } = chain;
        let data = match request.kind {
            VIRTIO_BLK_T_IN => &*writable,
            VIRTIO_BLK_T_OUT if !self.write_through && !self.read_only => &*readable,
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
                .backend
                .read_now(data.as_slice(), offset)
                .then(|| data.length()),
            _ => self.backend.write_now(data.as_slice(), offset).then_some(0),
        };
        Ok(written.map(|written| request.end(writable, Ok(written))))
    }

    fn read(&self, buffers: &Buffers<'_>, sector: u64, stop: &AtomicBool) -> Result<u64, Failure> {
        let offset = self.offset(sector, buffers.length())?;
        for_each_piece(buffers, offset, stop, |piece, offset| {
            self.transferred(
                "read",
                (offset, sum(piece)),
                self.backend.read(piece, offset),
            )
        })?;
        Ok(buffers.length())
    }

    fn write(&self, buffers: &Buffers<'_>, sector: u64, stop: &AtomicBool) -> Result<(), Failure> {
        let offset = self.offset(sector, buffers.length())?;
        self.writable()?;
        for_each_piece(buffers, offset, stop, |piece, offset| {
            let result = self.backend.write(piece, offset);
            self.transferred("write", (offset, sum(piece)), result)
        })?;
        self.written()
    }

    fn discard(&self, segments: &mut Buffers<'_>, stop: &AtomicBool) -> Result<(), Failure> {
        self.writable()?;
        self.for_each_segment(
            segments,
            MAX_DISCARD_SEGMENTS,
            MAX_DISCARD_SECTORS,
            |offset, length, flags| match flags {
                0 => {
                    go_on(stop)?;
                    let result = self.backend.discard(offset, length);
                    self.transferred("discard", (offset, length), result)
                }
                _ => Err(Failure::Unsupported),
            },
        )?;
        self.written()
    }

    fn write_zeroes(&self, segments: &mut Buffers<'_>, stop: &AtomicBool) -> Result<(), Failure> {
        self.writable()?;
        let (count, sectors) = (MAX_WRITE_ZEROES_SEGMENTS, MAX_WRITE_ZEROES_SECTORS);
        self.for_each_segment(segments, count, sectors, |offset, length, flags| {
            let unmap = match flags {
                0 => false,
                VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => true,
                _ => return Err(Failure::Unsupported),
            };
            let (mut offset, mut rest) = (offset, length);
            while rest > 0 {
                go_on(stop)?;
                let piece = rest.min(PIECE);
                let result = self.backend.write_zeroes(offset, piece, unmap);
                self.transferred("write zeroes", (offset, piece), result)?;
                (offset, rest) = (offset.saturating_add(piece), rest.saturating_sub(piece));
            }
            Ok(())
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
        if length.is_multiple_of(SECTOR_SIZE) && end <= self.sectors {
            sector.checked_mul(SECTOR_SIZE).ok_or(Failure::Io)
        } else {
            Err(Failure::Io)
        }
    }

    fn writable(&self) -> Result<(), Failure> {
        if self.read_only {
            Err(Failure::Io)
        } else {
            Ok(())
        }
    }

    /// After every change of the disk.
    fn written(&self) -> Result<(), Failure> {
        if self.write_through {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&self) -> Result<(), Failure> {
        self.backend
            .flush()
            .map_err(|error| self.report("flush", &error))
    }

    /// What the host says of a piece of a request: offset and length in bytes.
    fn transferred(
        &self,
        what: &'static str,
        piece: (u64, u64),
        result: std::io::Result<()>,
    ) -> Result<(), Failure> {
        result.map_err(|error| match self.policy.hold(what, piece, &error) {
            true => Failure::Held,
            false => self.report(what, &error),
        })
    }

    /// Logs the first error of the host that the guest sees. The guest learns of each.
    fn report(&self, what: &str, error: &std::io::Error) -> Failure {
        if !self.reported.swap(true, Ordering::Relaxed) {
            log::warn!(
                "disk '{}': {what} failed, the guest sees an I/O error: {error}",
                self.backend.info().name
            );
        }
        Failure::Io
    }
}

/// Bytes in `buffers`.
fn sum(buffers: &[GuestSlice<'_>]) -> u64 {
    buffers
        .iter()
        .fold(0, |sum: u64, slice| sum.saturating_add(slice.len() as u64))
}

/// Calls `transfer` with `buffers`, whose first byte is at `offset` of the disk, in pieces of at most [`PIECE`] bytes.
fn for_each_piece(
    buffers: &Buffers<'_>,
    mut offset: u64,
    stop: &AtomicBool,
    transfer: impl Fn(&[GuestSlice<'_>], u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut rest = buffers.as_slice();
    if buffers.length() <= PIECE {
        return transfer(rest, offset);
    }
    while let Some((first, others)) = rest.split_first() {
        let mut length = first.len() as u64;
        if length > PIECE {
            // One buffer is several pieces.
            let mut first = *first;
            while !first.is_empty() {
                go_on(stop)?;
                let count = usize::try_from(PIECE).map_or(first.len(), |max| max.min(first.len()));
                let (piece, behind) = first.split_at(count).map_err(|_| Failure::Io)?;
                transfer(&[piece], offset)?;
                offset = offset.saturating_add(count as u64);
                first = behind;
            }
            rest = others;
        } else {
            // One piece is several buffers.
            let fitting = others.iter().take_while(|slice| {
                let sum = length.saturating_add(slice.len() as u64);
                let fits = sum <= PIECE;
                if fits {
                    length = sum;
                }
                fits
            });
            let count = fitting.count().saturating_add(1);
            let (piece, behind) = rest.split_at_checked(count).ok_or(Failure::Io)?;
            go_on(stop)?;
            transfer(piece, offset)?;
            offset = offset.saturating_add(length);
            rest = behind;
        }
    }
    Ok(())
}

fn go_on(stop: &AtomicBool) -> Result<(), Failure> {
    if stop.load(Ordering::Acquire) {
        Err(Failure::Stopped)
    } else {
        Ok(())
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
