//! A raw disk image: a regular file or a block device of the host.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};

use super::{Backend, Info, SECTOR_SIZE};
use crate::memory::{GuestSlice, note_write};

pub use open::{ImageFormat, OpenError};

mod open;

/// An open and locked disk image. It stays open and locked as long as this lives, guest reboots included.
///
/// A size that is no multiple of 512 bytes is treated as QEMU does: the last sector counts as whole, what lies beyond
/// the end of the file reads as zeros, and writing there extends the file. If somebody shortens the file meanwhile, reading what
/// is gone is an error.
#[derive(Debug)]
pub struct Raw {
    file: File,
    info: Info,
    /// The file's size when it was opened, in bytes.
    size: u64,
    /// Whether reads, and writes, may be tried without waiting.
    now: [AtomicBool; 2],
    /// The file is nowhere but in the host's memory, so that nothing waits for storage.
    in_memory: bool,
    /// How the first flush that failed did: its errno.
    lost: OnceLock<i32>,
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// The file systems that keep files in memory (linux/magic.h). They refuse RWF_NOWAIT, and do not need it.
const IN_MEMORY: [FsType; 2] = [TMPFS_MAGIC, FsType(0x8584_58f6)];

/// How many buffers go into one system call. The kernel takes up to 1024 (`IOV_MAX`), but the host spends a fifth more on
/// writing a MiB by 256 buffers at once than by 64 (Linux 6.12, tmpfs).
const VECTOR_SIZE: usize = 64;

/// How many zeros are written at once where the file system cannot zero a range by itself, in bytes.
const ZEROS: usize = 64 * 1024;

impl Raw {
    /// Opens the image and locks it: any number of readers, or one writer. The locks are also those of QEMU.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        path: impl AsRef<Path>,
        read_only: bool,
        format: ImageFormat,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let file = open::open(path, read_only, format)?;
        let opened = Self::new(file, path.display().to_string(), read_only)
            .map_err(|error| OpenError::new(path, read_only, error))?;
        if opened.info.sectors == 0 {
            return Err(OpenError::Empty(path.to_path_buf()));
        }
        Ok(opened)
    }

    /// The image in an open `file`, which messages call `name`.
    fn new(mut file: File, name: String, read_only: bool) -> io::Result<Self> {
        // The end is where seeking says, for files and block devices alike.
        let size = file.seek(SeekFrom::End(0))?;
        let is_file = file.metadata()?.is_file();
        Ok(Self {
            in_memory: is_file && IN_MEMORY.contains(&fstatfs(&file)?.filesystem_type()),
            now: [AtomicBool::new(true), AtomicBool::new(!read_only)],
            file,
            size,
            lost: OnceLock::new(),
            info: Info {
                name,
                sectors: size.div_ceil(SECTOR_SIZE),
                read_only,
            },
        })
    }

    fn transfer_now(&self, buffers: &[GuestSlice<'_>], offset: u64, direction: Direction) -> bool {
        let [reads, writes] = &self.now;
        let allowed = match direction {
            Direction::Read => reads,
            Direction::Write => writes,
        };
        let Ok(offset) = libc::off_t::try_from(offset) else {
            return false;
        };
        if !allowed.load(Ordering::Relaxed) || buffers.len() > VECTOR_SIZE {
            return false;
        }
        let mut vector = IoVectors::new();
        collect(buffers.iter().copied(), &mut vector);
        let length: usize = vector.iter().map(|part| part.iov_len).sum();
        let flags = if self.in_memory { 0 } else { libc::RWF_NOWAIT };
        // At most VECTOR_SIZE.
        let count = libc::c_int::try_from(vector.len()).unwrap_or(libc::c_int::MAX);
        let (fd, parts) = (self.file.as_raw_fd(), vector.as_ptr());
        let done = match direction {
            // SAFETY: as in `read`, with `count` vectors.
            Direction::Read => unsafe { libc::preadv2(fd, parts, count, offset, flags) },
            // SAFETY: as in `write`, with `count` vectors.
            Direction::Write => unsafe { libc::pwritev2(fd, parts, count, offset, flags) },
        };
        match usize::try_from(done) {
            Ok(done) => {
                if matches!(direction, Direction::Read) {
                    note_write(buffers.iter().copied(), done);
                }
                done == length
            }
            Err(_) => {
                // Not with this file system, or not on this kernel: never again.
                if matches!(
                    Errno::last(),
                    Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS
                ) {
                    allowed.store(false, Ordering::Relaxed);
                }
                false
            }
        }
    }

    fn fill_with_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        let end = offset
            .checked_add(length)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut offset = offset;
        while offset < end {
            let count =
                usize::try_from(end.saturating_sub(offset)).map_or(ZEROS, |left| left.min(ZEROS));
            self.file
                .write_all_at(zeros.get(..count).unwrap_or(&zeros), offset)?;
            offset = offset.saturating_add(ZEROS as u64);
        }
        Ok(())
    }

    /// Returns `false` if the host cannot do this, with this file or at this alignment.
    fn fallocate(&self, operation: FallocateFlags, offset: u64, length: u64) -> io::Result<bool> {
        let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = i64::try_from(offset).map_err(out_of_range)?;
        let length = i64::try_from(length).map_err(out_of_range)?;
        if length == 0 {
            // Nothing to do, which fallocate(2) calls an error.
            return Ok(true);
        }
        loop {
            match fallocate(
                &self.file,
                operation | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                offset,
                length,
            ) {
                Ok(()) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::ENODEV) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Backend for Raw {
    fn info(&self) -> &Info {
        &self.info
    }

    /// From the end of the file on there are zeros, if that is where it was.
    fn read(&self, buffers: &[GuestSlice<'_>], offset: u64) -> io::Result<()> {
        let mut position = Position::default();
        let end = transfer(buffers, &mut position, offset, |vector, count, offset| {
            // SAFETY: `transfer` passes `count` valid vectors; each lies within one guest memory slice, which stays
            // mapped while `buffers` is borrowed. Only the kernel writes to the memory, as the guest may at the same
            // time: it is accessed through raw pointers and volatile slices alone, never through a reference.
            unsafe { libc::preadv(self.file.as_raw_fd(), vector, count, offset) }
        });
        // Also where that failed in the middle.
        note_write(buffers.iter().copied(), usize::MAX);
        let end = end?;
        let is_short = position.rest(buffers).any(|slice| !slice.is_empty());
        if is_short && end < self.size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the image has become shorter",
            ));
        }
        for slice in position.rest(buffers) {
            let mut slice = slice;
            while !slice.is_empty() {
                let zeros = [0; 512];
                slice.copy_from(&zeros[..]);
                slice = slice
                    .offset(zeros.len().min(slice.len()))
                    .map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn write(&self, buffers: &[GuestSlice<'_>], offset: u64) -> io::Result<()> {
        let mut position = Position::default();
        transfer(buffers, &mut position, offset, |vector, count, offset| {
            // SAFETY: as in `read`; here the kernel only reads the memory.
            unsafe { libc::pwritev(self.file.as_raw_fd(), vector, count, offset) }
        })?;
        if position.rest(buffers).any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Declines what is not in the host's page cache.
    fn read_now(&self, buffers: &[GuestSlice<'_>], offset: u64) -> bool {
        self.transfer_now(buffers, offset, Direction::Read)
    }

    /// Declines what the host's page cache does not take at once.
    fn write_now(&self, buffers: &[GuestSlice<'_>], offset: u64) -> bool {
        self.transfer_now(buffers, offset, Direction::Write)
    }

    /// After one flush has failed, all do: Linux takes the pages that it could not write for written, and fdatasync(2) succeeds
    /// the next time. What the guest has written before is lost, and no later flush may say otherwise. Only opening the image anew
    /// ends this.
    fn flush(&self) -> io::Result<()> {
        if let Some(errno) = self.lost.get() {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        self.file.sync_data().inspect_err(|error| {
            let _ = self.lost.set(error.raw_os_error().unwrap_or(libc::EIO));
        })
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        // A discard is a hint, so one that the host does not know is done.
        self.fallocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, length)
            .map(|_| ())
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap && self.fallocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, length)?
            || self.fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, length)?
        {
            return Ok(());
        }
        self.fill_with_zeros(offset, length)
    }
}

/// How far a transfer has come: this many slices, and this many bytes of the next one.
#[derive(Clone, Copy, Default)]
struct Position {
    slices: usize,
    bytes: usize,
}

impl Position {
    /// What is left of `buffers`. The first slice may be empty.
    fn rest<'a>(self, buffers: &[GuestSlice<'a>]) -> impl Iterator<Item = GuestSlice<'a>> {
        let mut rest = buffers.get(self.slices..).unwrap_or_default().iter();
        let first = rest.next().and_then(|slice| slice.offset(self.bytes).ok());
        first.into_iter().chain(rest.copied())
    }

    fn advance(&mut self, buffers: &[GuestSlice<'_>], mut count: usize) {
        for slice in buffers.iter().skip(self.slices) {
            let left = slice.len().saturating_sub(self.bytes);
            if count < left {
                self.bytes = self.bytes.saturating_add(count);
                return;
            }
            count = count.saturating_sub(left);
            *self = Self {
                slices: self.slices.saturating_add(1),
                bytes: 0,
            };
        }
    }
}

/// I/O vectors, on the stack. Not an array: to clear all of it would cost as much as everything else here.
type IoVectors = ArrayVec<libc::iovec, VECTOR_SIZE>;

/// Adds I/O vectors over `buffers` to the empty `vectors`, as many as fit.
fn collect<'a>(buffers: impl Iterator<Item = GuestSlice<'a>>, vectors: &mut IoVectors) {
    let buffers = buffers.filter(|slice| !slice.is_empty());
    vectors.extend(buffers.take(VECTOR_SIZE).map(|slice| {
        let memory = slice.ptr_guard_mut();
        libc::iovec {
            iov_base: memory.as_ptr().cast(),
            iov_len: memory.len(),
        }
    }));
}

/// Calls `operation` with I/O vectors over `buffers` until all is transferred or, as at the end of a file, nothing more
/// is. What is interrupted or partial goes on where it stopped. Returns the offset at which it ended.
fn transfer(
    buffers: &[GuestSlice<'_>],
    position: &mut Position,
    offset: u64,
    operation: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
) -> io::Result<u64> {
    let mut offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        let mut vector = IoVectors::new();
        collect(position.rest(buffers), &mut vector);
        if vector.is_empty() {
            return Ok(offset.unsigned_abs());
        }
        // At most VECTOR_SIZE.
        let count = libc::c_int::try_from(vector.len()).unwrap_or(libc::c_int::MAX);
        match operation(vector.as_ptr(), count, offset) {
            0 => return Ok(offset.unsigned_abs()),
            done @ 1.. => {
                position.advance(buffers, done.unsigned_abs());
                offset = i64::try_from(done)
                    .ok()
                    .and_then(|done| offset.checked_add(done))
                    .ok_or(io::ErrorKind::InvalidInput)?;
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
