//! The block device (VIRTIO 1.3, section 5.2), on a raw disk image.
//!
//! | module | what it holds |
//! |---|---|
//! | `disk` | the image: opening, locking, reading and writing guest memory without a copy |
//! | `request` | one request: from a descriptor chain to its status byte |
//! | `device` | features, configuration space, start and stop |

mod device;
mod disk;
mod request;

pub use device::{Block, Serial, SerialError};
pub(crate) use disk::lock_exclusively;
pub use disk::{Disk, OpenError};

/// Bytes in a sector, the unit of every request whatever the block size (VIRTIO 1.3, section 5.2.4).
const SECTOR_SIZE: u64 = 512;
