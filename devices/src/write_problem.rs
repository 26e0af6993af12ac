//! The text for a file or a socket that cannot be created or written.

use std::io;

/// Why a file or a socket of the user's cannot be made or written, in words, and what to do where that is known.
#[must_use]
pub fn write_problem(error: &io::Error) -> String {
    use io::ErrorKind;
    let words = match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) => "there is no such directory; make it, or check the path",
        (ErrorKind::NotADirectory, _) => "a part of the path is no directory; check the path",
        (ErrorKind::IsADirectory, _) => "it is a directory; name a file in it",
        (ErrorKind::PermissionDenied, _) => {
            "no permission to write there; check the mode of the directory, and of the file if there is one"
        }
        (ErrorKind::ReadOnlyFilesystem, _) => "its file system is read-only; use another path",
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => {
            "there is no space left for it; use another path"
        }
        (_, Some(libc::ENXIO)) => {
            "it is a FIFO or a device that nobody reads; start its reader first"
        }
        (_, Some(code)) => nix::errno::Errno::from_raw(code).desc(),
        // Rust's own, for a path that does not fit into a socket's address.
        (ErrorKind::InvalidInput, None) => "the path is too long for a socket; use a shorter one",
        _ => return error.to_string(),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_no_numbers_of_errors() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, expected) in [
            (directory.path().join("none/x"), "no such directory"),
            (file.join("x"), "no directory"),
            (directory.path().to_owned(), "is a directory"),
        ] {
            let problem = write_problem(&std::fs::write(path, "").unwrap_err());
            assert!(problem.contains(expected), "{problem}");
            assert!(!problem.contains("os error"), "{problem}");
        }
        for (errno, expected) in [
            (libc::ENOENT, "there is no such directory"),
            (libc::ENOTDIR, "a part of the path is no directory"),
            (libc::EISDIR, "it is a directory"),
            (libc::EACCES, "no permission to write there"),
            (libc::EPERM, "no permission to write there"),
            (libc::EROFS, "its file system is read-only"),
            (libc::ENOSPC, "there is no space left for it"),
            (libc::EDQUOT, "there is no space left for it"),
            (libc::ENXIO, "it is a FIFO or a device that nobody reads"),
            (libc::EIO, "I/O error"),
            (libc::EINVAL, "Invalid argument"),
        ] {
            let problem = write_problem(&io::Error::from_raw_os_error(errno));
            assert!(problem.starts_with(expected), "{errno}: {problem}");
        }
        assert_eq!(write_problem(&io::Error::other("a reason")), "a reason");
        let long = "x".repeat(200);
        let error = std::os::unix::net::UnixListener::bind(long).unwrap_err();
        assert!(write_problem(&error).contains("too long"));
        for errno in 1..=133 {
            let problem = write_problem(&io::Error::from_raw_os_error(errno));
            assert!(!problem.contains("os error"), "{problem}");
        }
    }
}
