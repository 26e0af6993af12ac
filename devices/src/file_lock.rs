//! Locks on a disk image, so that no two writers, and no writer and reader, share it by accident.
//!
//! They are open file description locks (fcntl(2), `F_OFD_SETLK`): they belong to the open file and not to the process,
//! go away with its last descriptor, also after `kill -9`, and exclude a second `open` in the same process.
//!
//! They fit those of QEMU (`block/file-posix.c`), which uses single bytes of the file as flags. With a *read* lock on
//! byte 100 + n a process says that it uses permission n, with one on byte 200 + n that others must not, and it tests
//! the opposite byte for any lock of somebody else's:
//!
//! - A writer here takes a write lock on the whole file. That collides with every lock of anyone, QEMU's flags
//!   included, in both directions.
//! - A reader here behaves as a QEMU that reads: it sets the flags "I read", "nobody may write", "nobody may resize",
//!   and then looks for anyone who does. So any number of readers, QEMU's included, stand beside each other.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Byte whose lock says that permission 0 is used. Permissions: 0 read consistent data, 1 write, 3 resize.
const USED: i64 = 100;
/// Byte whose lock says that others may not use permission 0.
const UNSHARED: i64 = 200;
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

pub(crate) enum LockError {
    /// Somebody else has locked the image.
    Held,
    Io(io::Error),
}

/// Locks `file` for reading or for writing, without waiting. The lock goes away with the file. `false` where the file
/// system knows no locks.
pub(crate) fn acquire(file: &File, read_only: bool) -> Result<bool, LockError> {
    let result = if read_only {
        acquire_shared(file)
    } else {
        acquire_exclusively(file)
    };
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(LockError::Held),
        Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        Err(error) => Err(LockError::Io(error.into())),
    }
}

/// Locks `file` for writing, without waiting: EAGAIN or EACCES if somebody else has locked it.
pub(crate) fn acquire_exclusively(file: &File) -> nix::Result<()> {
    set(file, libc::F_WRLCK, 0, 0)
}

fn acquire_shared(file: &File) -> nix::Result<()> {
    for byte in [USED + READ, UNSHARED + WRITE, UNSHARED + RESIZE] {
        set(file, libc::F_RDLCK, byte, 1)?;
    }
    // First announced, then looked: of two that come at the same time, at least one sees the other.
    for byte in [USED + WRITE, USED + RESIZE, UNSHARED + READ] {
        let mut probe = flock(libc::F_WRLCK, byte, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe))?;
        if i32::from(probe.l_type) != libc::F_UNLCK {
            return Err(Errno::EAGAIN);
        }
    }
    Ok(())
}

fn set(file: &File, kind: i32, start: i64, length: i64) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&flock(kind, start, length))).map(|_| ())
}

/// `length` 0 is to the end of any file.
#[allow(clippy::cast_possible_truncation)] // The kinds of lock are 0, 1 and 2.
fn flock(kind: i32, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests;
