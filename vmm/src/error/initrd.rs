//! Why an initial RAM disk cannot be used.

use std::io;

/// What is wrong with an initrd file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdProblem {
    /// It cannot be opened, or is no file.
    #[error("{0}")]
    Open(String),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    /// It has no bytes.
    #[error("the file is empty")]
    Empty,
    /// It is a disk in a container of this format, by `qemu-img`'s name.
    #[error("it is a disk image in {0} format")]
    DiskImage(&'static str),
    /// It is a raw disk.
    #[error("it is a disk with partitions")]
    Partitions,
    /// It is an encrypted disk.
    #[error("it is an encrypted disk")]
    Encrypted,
}

impl From<io::Error> for InitrdProblem {
    fn from(error: io::Error) -> InitrdProblem {
        InitrdProblem::Io(error)
    }
}
