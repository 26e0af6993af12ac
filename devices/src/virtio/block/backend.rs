//! The interface between a block device's requests and its storage.

use std::io;

use vm_memory::VolatileSlice;

/// What a block device has to know of its back end. It stays the same as long as the back end lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What users call it, for messages: the path of the image.
    pub name: String,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// It cannot be changed: nothing but reads and flushes is asked of it.
    pub read_only: bool,
}

/// The storage of one block device, which outlives resets of the device and reboots of the guest.
///
/// Offsets and lengths are in bytes and lie within [`Info::sectors`]. A long request comes in several pieces, which need not
/// begin or end at a sector. The buffers are guest memory: the guest may read and write them at any time.
///
/// Every error is reported to the guest as an I/O error of the request (VIRTIO_BLK_S_IOERR).
pub trait Backend: Send + Sync + 'static {
    /// Its size, and what may be asked of it.
    fn info(&self) -> &Info;

    /// Fills `buffers` with what is at `offset`.
    ///
    /// # Errors
    /// Something of it cannot be read. What is in the buffers is undefined then.
    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;

    /// Writes `buffers` at `offset`.
    ///
    /// # Errors
    /// Something of it cannot be written. Some of it may be.
    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;

    /// The quick path: does what [`read`](Self::read) does if that takes microseconds and waits for nothing. Called on a
    /// vCPU's thread. `false` declines: what is in `buffers` is undefined then, and `read` is asked.
    fn read_now(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> bool {
        let _ = (buffers, offset);
        false
    }

    /// The same for [`write`](Self::write). Where it declines, some may be written.
    fn write_now(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> bool {
        let _ = (buffers, offset);
        false
    }

    /// Returns when all that was written, discarded and zeroed before is on stable storage.
    ///
    /// # Errors
    /// Some of it may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Lets go of the storage behind `length` bytes from `offset` on, where that is possible. What is read there afterwards
    /// is undefined.
    ///
    /// # Errors
    /// The host's, but not that it cannot do this.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes `length` bytes from `offset` on read as zeros; `unmap` allows to let go of their storage.
    ///
    /// # Errors
    /// Some of them may not be zero.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}
