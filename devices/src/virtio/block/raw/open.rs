//! Opening a disk image: which files are accepted, how they are locked, and which formats are refused.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hv_core::format::{Archive, Format, HEAD};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::file_lock::{self, LockError};

/// What the user says of an image's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// Nothing. It is raw unless its first bytes say otherwise.
    #[default]
    Auto,
    /// It is raw, whatever it begins with.
    Raw,
}

/// Why a disk image could not be opened. Each is one line that says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there.
    #[error("disk image '{}' does not exist: check the path, or create it, e.g. with 'truncate -s 1G {}'", .0.display(), .0.display())]
    NotFound(PathBuf),
    /// A directory, a pipe, a terminal, …
    #[error("disk image '{}' is {found}: give a file or a block device", path.display())]
    NotADisk {
        /// The image.
        path: PathBuf,
        /// What it is instead, with its article.
        found: &'static str,
    },
    /// The user may not read it, or not write to it.
    #[error("disk image '{}' is not {}: change its permissions{}", path.display(),
        if *read_only { "readable" } else { "writable" },
        if *read_only { "" } else { ", or attach it with readonly=on" })]
    Permission {
        /// The image.
        path: PathBuf,
        /// Whether it was to be opened for reading only.
        read_only: bool,
    },
    /// The file system or the block device is read-only.
    #[error("disk image '{}' is on a read-only file system: attach it with readonly=on", .0.display())]
    ReadOnly(PathBuf),
    /// Another process, or another disk of this one, has it open in a way that excludes this one.
    #[error("disk image '{}' is in use by another virtual machine, or given twice: stop the other{}", path.display(),
        if *read_only { "" } else { ", or attach the image with readonly=on to both" })]
    Locked {
        /// The image.
        path: PathBuf,
        /// Whether it was to be opened for reading only.
        read_only: bool,
    },
    /// The image holds no byte.
    #[error("disk image '{}' is empty: give it a size, e.g. with 'truncate -s 1G {}'", .0.display(), .0.display())]
    Empty(PathBuf),
    /// The block device is mounted, part of a RAID, or otherwise held by the host.
    #[error("disk image '{}' is mounted or otherwise in use on this host: unmount it, or attach it with readonly=on", .0.display())]
    Busy(PathBuf),
    /// Its first bytes are those of something that has to be converted or unpacked first: as a raw disk it makes no sense, and
    /// what the guest writes would destroy it.
    #[error("disk image '{}' {problem}, or add format=raw if the guest shall see it as it is", path.display())]
    NotRaw {
        /// The image.
        path: PathBuf,
        /// What it is, and what to do.
        problem: String,
    },
    /// Another file took its place while it was opened.
    #[error("disk image '{}' was replaced while it was opened: start again", .0.display())]
    Replaced(PathBuf),
    /// Anything else.
    #[error("cannot open disk image '{}': {source}", path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

impl OpenError {
    /// What `error` means that the host gave for the image at `path`.
    pub(super) fn new(path: &Path, read_only: bool, error: io::Error) -> Self {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(path),
            io::ErrorKind::PermissionDenied => Self::Permission { path, read_only },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
            io::ErrorKind::ResourceBusy => Self::Busy(path),
            _ => Self::Io {
                path,
                source: error,
            },
        }
    }
}

/// Opens and locks the image at `path`, and looks at what it begins with.
pub(super) fn open(path: &Path, read_only: bool, format: ImageFormat) -> Result<File, OpenError> {
    let host = |error| OpenError::new(path, read_only, error);
    let refuse = |kind| match not_a_disk(kind) {
        None => Ok(()),
        Some(found) => Err(OpenError::NotADisk {
            path: path.to_path_buf(),
            found,
        }),
    };
    // Looked at before it is opened, as opening some devices has effects, and after: another file may be there by then.
    let expected = path.metadata().map_err(host)?.file_type();
    refuse(expected)?;
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(flags(expected.is_block_device(), read_only).bits())
        .open(path)
        .map_err(host)?;
    let found = file.metadata().map_err(host)?.file_type();
    refuse(found)?;
    if found != expected {
        return Err(OpenError::Replaced(path.to_path_buf()));
    }
    let flags = OFlag::from_bits_truncate(
        fcntl(&file, FcntlArg::F_GETFL).map_err(|error| host(error.into()))?,
    );
    fcntl(&file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))
        .map_err(|error| host(error.into()))?;
    match file_lock::acquire(&file, read_only) {
        Ok(true) => {}
        Ok(false) => log::warn!(
            "disk image '{}': its file system has no locks, so nothing prevents a second writer",
            path.display()
        ),
        Err(LockError::Held) => {
            return Err(OpenError::Locked {
                path: path.to_path_buf(),
                read_only,
            });
        }
        Err(LockError::Io(error)) => return Err(host(error)),
    }
    let head = match format {
        ImageFormat::Auto => first_bytes(|rest, at| file.read_at(rest, at)).map_err(host)?,
        ImageFormat::Raw => Vec::new(),
    };
    match Format::of(&head).and_then(|format| not_raw(path, format)) {
        None => Ok(file),
        Some(problem) => Err(OpenError::NotRaw {
            path: path.to_path_buf(),
            problem,
        }),
    }
}

/// How an image is opened.
pub(super) fn flags(is_block_device: bool, read_only: bool) -> OFlag {
    // Opening a pipe waits for its other end, without O_NONBLOCK.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    if is_block_device && !read_only {
        // A block device has an inode for each of its names, and locks belong to an inode. O_EXCL excludes all other
        // exclusive users of the device by any name: file systems, RAID, and other virtual machines.
        flags | OFlag::O_EXCL
    } else {
        flags
    }
}

/// What `kind` is if it is nothing to keep a disk on.
fn not_a_disk(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_block_device() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a character device")
    }
}

/// What an image begins with, as far as formats are known by it. `read` reads from an offset on.
pub(super) fn first_bytes(
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let mut length = 0_usize;
    while let Some(rest) = head.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match read(rest, length as u64) {
            Ok(0) => break,
            Ok(count) => length = length.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(length);
    Ok(head)
}

/// What is wrong with the image at `path` and what to do, if `format` is a container. File systems, partitions and archives
/// that guests read from a bare disk are raw disks.
fn not_raw(path: &Path, format: Format) -> Option<String> {
    let raw = path.with_extension("img");
    let raw = if raw == path {
        path.with_extension("raw")
    } else {
        raw
    };
    let (path, raw) = (path.display(), raw.display());
    match format {
        Format::DiskImage(image) => Some(format!(
            "is in {} format: convert it with 'qemu-img convert -O raw {path} {raw}'",
            image.name()
        )),
        Format::Compressed(compression) => Some(format!(
            "is compressed by {name}: unpack it with '{name} -dc <{path} >{raw}'",
            name = compression.name()
        )),
        Format::Archive(Archive::Zip) => {
            Some(format!("is a zip archive: unpack it with 'unzip {path}'"))
        }
        Format::Archive(Archive::SevenZip) => {
            Some(format!("is a 7z archive: unpack it with '7z x {path}'"))
        }
        Format::Archive(Archive::Cpio | Archive::Tar | Archive::Ar)
        | Format::FileSystem(_)
        | Format::Luks
        | Format::Partitions
        | Format::DeviceTree
        | Format::UImage => None,
    }
}
