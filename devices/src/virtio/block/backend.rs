//! The interface between a block device's requests and its storage.

use std::io;

use crate::memory::GuestSlice;

/// Properties of a back end. They never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name in messages: the path of the image.
    pub name: String,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether it cannot be written: then only reads and flushes are requested.
    pub read_only: bool,
}

/// The storage of one block device, which outlives resets of the device and reboots of the guest.
///
/// Offsets and lengths are in bytes and lie within [`Info::sectors`]. A long request comes in several pieces, which need not
/// begin or end at a sector. The buffers are guest memory: the guest may read and write them at any time.
///
/// Every error is reported to the guest as an I/O error of the request (VIRTIO_BLK_S_IOERR).
pub trait Backend: Send + Sync + 'static {
    /// Its size, and whether it can be written.
    fn info(&self) -> &Info;

    /// Reads from `offset` into `buffers`.
    ///
    /// # Errors
    /// Something of it cannot be read. What is in the buffers is undefined then.
    fn read(&self, buffers: &[GuestSlice<'_>], offset: u64) -> io::Result<()>;

    /// Writes `buffers` at `offset`.
    ///
    /// # Errors
    /// Something of it cannot be written. Some of it may be.
    fn write(&self, buffers: &[GuestSlice<'_>], offset: u64) -> io::Result<()>;

    /// The fast path: the same as [`read`](Self::read) if it takes microseconds and does not block. Called on a vCPU's thread.
    /// `false` declines: then `buffers` are undefined, and `read` is called.
    fn read_now(&self, buffers: &[GuestSlice<'_>], offset: u64) -> bool {
        let _ = (buffers, offset);
        false
    }

    /// The same for [`write`](Self::write). If it declines, a part may have been written.
    fn write_now(&self, buffers: &[GuestSlice<'_>], offset: u64) -> bool {
        let _ = (buffers, offset);
        false
    }

    /// Returns when everything written, discarded and zeroed before is on stable storage.
    ///
    /// # Errors
    /// Some of it may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Deallocates the storage of `length` bytes from `offset` on, if possible. Their contents are undefined
    /// afterwards.
    ///
    /// # Errors
    /// The host's, but not that it cannot do this.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes `length` bytes from `offset` on read as zeros; `unmap` permits to deallocate their storage.
    ///
    /// # Errors
    /// Some of them may not be zero.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}
