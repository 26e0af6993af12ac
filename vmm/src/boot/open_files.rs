//! The files that a guest boots from: kernel or firmware, initrd and device tree. Each is read at every boot of the guest, so
//! it has to be a file that can be read more than once.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::file_problem;

/// A machine's files, which are opened once and stay open: at a reboot, the guest boots from the same files again, whatever has
/// become of their paths.
#[derive(Clone, Debug, Default)]
pub struct OpenFiles(Arc<Mutex<Vec<OpenFile>>>);

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    what: &'static str,
    file: File,
}

impl OpenFiles {
    /// The file at `path`, in which there should be a `what`, at its beginning.
    ///
    /// # Errors
    /// In words for the user, if it cannot be opened or is no file.
    pub fn open(&self, path: &Path, what: &'static str) -> Result<File, String> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let again = |file: &File| {
            let mut file = file.try_clone()?;
            file.rewind()?;
            Ok(file)
        };
        // What are two things in one has two descriptors, because those have the places that are read next.
        let known = files
            .iter()
            .find(|file| file.path == path && file.what == what);
        let file = match known {
            Some(known) => again(&known.file),
            None => {
                let file = open(path, what)?;
                let copy = again(&file);
                files.push(OpenFile {
                    path: path.to_owned(),
                    what,
                    file,
                });
                copy
            }
        };
        file.map_err(|error| file_problem(&error))
    }
}

/// Opens the file at `path`, in which there should be a `what`.
///
/// # Errors
/// In words for the user, if it cannot be opened or is no file.
fn open(path: &Path, what: &str) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.read(true);
    // A FIFO without a writer would be waited for, and a terminal would become this process's own.
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let found = match options.open(path) {
        Ok(file) => {
            let kind = file
                .metadata()
                .map_err(|error| file_problem(&error))?
                .file_type();
            if kind.is_file() || kind.is_block_device() {
                return Ok(file);
            }
            if kind.is_dir() {
                return Err(format!("it is a directory; name the {what} in it"));
            }
            if kind.is_fifo() { "a pipe" } else { "a device" }
        }
        // Somebody has a lease on it (fcntl(2), F_SETLEASE), which takes a while to break.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return File::open(path).map_err(|error| file_problem(&error));
        }
        // A socket has no open.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => "no file",
        Err(error) => return Err(file_problem(&error)),
    };
    Err(format!(
        "it is {found}, which cannot be read again when the guest reboots; give it as a file"
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use hv_test_limit::within;

    use super::*;

    #[test]
    fn a_file_stays_the_same_when_its_path_names_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernel");
        fs::write(&path, "the first").unwrap();
        let files = OpenFiles::default();
        let read = |files: &OpenFiles, what| {
            std::io::read_to_string(files.open(&path, what).unwrap()).unwrap()
        };
        assert_eq!(read(&files, "kernel"), "the first");
        fs::write(directory.path().join("new"), "the second").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(read(&files, "kernel"), "the first");
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&files, "kernel"), "the first");
        assert!(OpenFiles::default().open(&path, "kernel").is_err());
    }

    #[test]
    fn one_file_as_two_things_is_read_from_two_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("both");
        fs::write(&path, "contents").unwrap();
        let files = OpenFiles::default();
        let kernel = files.open(&path, "kernel").unwrap();
        let mut initrd = files.open(&path, "archive").unwrap();
        initrd.seek(std::io::SeekFrom::End(0)).unwrap();
        assert_eq!(std::io::read_to_string(kernel).unwrap(), "contents");
    }

    #[test]
    fn only_files_are_opened_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "contents").unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        assert!(open(&path("file"), "kernel").is_ok());
        for (name, expected) in [
            ("missing", "no such file"),
            ("", "directory; name the kernel"),
            ("fifo", "is a pipe"),
            ("socket", "no file"),
        ] {
            let path = path(name);
            let problem = within(move || open(&path, "kernel").unwrap_err());
            assert!(problem.contains(expected), "{name}: {problem}");
        }
        let problem = open(Path::new("/dev/zero"), "kernel").unwrap_err();
        assert!(problem.contains("a device"), "{problem}");
    }
}
