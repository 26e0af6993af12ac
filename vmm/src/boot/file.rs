//! Opening the files that a guest boots from: kernel or firmware, initrd and device tree. Each is opened again at every
//! boot of the guest, so it has to be a file that can be read more than once.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::error::file_problem;

/// Opens the file at `path`, in which there should be a `what`.
///
/// # Errors
/// In words for the user, if it cannot be opened or is no file.
pub fn open(path: &Path, what: &str) -> Result<File, String> {
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

    use super::*;

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
            let problem = open(&path(name), "kernel").unwrap_err();
            assert!(problem.contains(expected), "{name}: {problem}");
        }
        let problem = open(Path::new("/dev/zero"), "kernel").unwrap_err();
        assert!(problem.contains("a device"), "{problem}");
    }
}
