//! A file of the host's for output.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::OpenError;
use crate::file_lock::acquire_exclusively;

/// A file that is open for output and not changed yet. What is written goes to its end, also after somebody else has
/// shortened it, as log rotation does.
///
/// A new file gets its mode from the umask, as with a shell's `>`.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    path: PathBuf,
    /// For messages.
    what: String,
    is_regular: bool,
    /// Device and inode.
    identity: (u64, u64),
}

impl OutputFile {
    /// Opens or makes the file for `what`, such as `serial port's output`.
    ///
    /// # Errors
    /// It cannot be written, is a FIFO that nobody reads, or a block device.
    pub fn open(path: &Path, what: impl Into<String>) -> Result<Self, OpenError> {
        let what = what.into();
        let failed = |what, error| OpenError::File {
            what,
            path: path.to_owned(),
            error,
        };
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        // A FIFO without a reader would be waited for, and a terminal would become this process's own.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let opened = options
            .open(path)
            .and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(failed(what, error)),
        };
        let path = path.to_owned();
        if metadata.file_type().is_block_device() {
            return Err(OpenError::BlockDevice { what, path });
        }
        Ok(Self {
            is_regular: metadata.is_file(),
            file,
            path,
            what,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Locks a regular file as a disk that is written is, for as long as it is open: it is no image that a machine has, this
    /// one or another, and no two machines write to it.
    ///
    /// # Errors
    /// Somebody has locked it.
    pub fn lock(&self) -> Result<(), OpenError> {
        // A file system without locks has none of a disk's either.
        let refused = || {
            matches!(
                acquire_exclusively(&self.file),
                Err(Errno::EAGAIN | Errno::EACCES)
            )
        };
        if self.is_regular && refused() {
            return Err(OpenError::FileInUse {
                what: self.what.clone(),
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Whether it is the file at `path`, by whatever name. Where there is nothing, it is not.
    #[must_use]
    pub fn is(&self, path: &Path) -> bool {
        path.metadata()
            .is_ok_and(|there| (there.dev(), there.ino()) == self.identity)
    }

    /// Removes what was in it, if it is a regular file.
    ///
    /// # Errors
    /// The host's.
    pub fn empty(&self) -> Result<(), OpenError> {
        if self.is_regular {
            self.file.set_len(0).map_err(|error| self.failed(error))
        } else {
            Ok(())
        }
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// The host has none left.
    pub fn file(&self) -> Result<File, OpenError> {
        self.file.try_clone().map_err(|error| self.failed(error))
    }

    /// That it cannot be written, for this reason.
    #[must_use]
    pub fn failed(&self, error: io::Error) -> OpenError {
        OpenError::File {
            what: self.what.clone(),
            path: self.path.clone(),
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use hv_test_limit::{LIMIT, watch, within};
    use std::fs;

    use super::*;
    use crate::chardev::{OutputSink, OutputThread};
    use crate::virtio::block::{ImageFormat, Raw};

    #[test]
    fn a_file_is_as_it_was_until_it_is_emptied_and_a_fifo_not_waited_for() {
        let _watch = watch();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "from before").unwrap();
        let file = OutputFile::open(&path, "test").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"from before");
        file.empty().unwrap();
        let output = OutputThread::spawn(file.file().unwrap(), "test").unwrap();
        output.write(b"now");
        assert!(output.close(LIMIT));
        assert_eq!(fs::read(&path).unwrap(), b"now");

        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [fifo.clone(), directory.path().to_owned()] {
            let refused = within(move || OutputFile::open(&path, "test"));
            assert!(
                matches!(refused, Err(OpenError::File { .. })),
                "{refused:?}"
            );
        }
        let reader = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&fifo)
            .unwrap();
        OutputFile::open(&fifo, "test").unwrap().empty().unwrap();
        drop(reader);
    }

    #[test]
    fn output_goes_to_the_end_of_a_file_that_somebody_shortened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = OutputFile::open(&path, "test").unwrap();
        let output = OutputThread::spawn(file.file().unwrap(), "test").unwrap();
        output.write(b"rotated away");
        assert!(output.flush(LIMIT));
        fs::write(&path, "").unwrap();
        output.write(b"after");
        assert!(output.close(LIMIT));
        assert_eq!(fs::read(&path).unwrap(), b"after");
    }

    #[test]
    fn a_file_that_a_machine_has_is_refused_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let link = directory.path().join("link");
        fs::write(&path, [1; 512]).unwrap();
        fs::hard_link(&path, &link).unwrap();
        for read_only in [true, false] {
            let disk = Raw::open(&path, read_only, ImageFormat::Raw).unwrap();
            let refused = OutputFile::open(&link, "test").unwrap().lock();
            assert!(matches!(refused, Err(OpenError::FileInUse { .. })));
            drop(disk);
        }
        let output = OutputFile::open(&path, "test").unwrap();
        output.lock().unwrap();
        assert!(output.is(&link) && !output.is(directory.path()));
        assert!(!output.is(&directory.path().join("missing")));
        assert!(
            Raw::open(&link, true, ImageFormat::Raw).is_err()
                && Raw::open(&link, false, ImageFormat::Raw).is_err()
        );
        assert!(OutputFile::open(&link, "test").unwrap().lock().is_err());
        assert_eq!(fs::read(&path).unwrap(), [1; 512]);
    }
}
