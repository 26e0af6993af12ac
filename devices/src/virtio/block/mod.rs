//! The block device (VIRTIO 1.3, section 5.2).
//!
//! | module | what it holds |
//! |---|---|
//! | `backend` | [`Backend`]: the interface to a device's storage |
//! | `raw` | [`Raw`], the back end of raw images: opening, locking, reading and writing guest memory without a copy |
//! | `on_error` | [`OnError`]: which failed requests are held until the device is paused and goes on |
//! | `request` | one request: from a descriptor chain to its status byte |
//! | `device` | features, configuration space, start and stop |

mod backend;
mod device;
mod on_error;
mod raw;
mod request;
#[cfg(test)]
mod testing;

pub use backend::{Backend, Info};
pub use device::{Block, Serial, SerialError};
pub use on_error::{HoldListener, OnError, RequestError};
pub use raw::{ImageFormat, OpenError, Raw};

/// Bytes in a sector, the unit of every request whatever the block size (VIRTIO 1.3, section 5.2.4).
const SECTOR_SIZE: u64 = 512;
