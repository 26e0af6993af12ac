//! The host's end of a vsock: the socket at which its clients connect, and the paths at which it reaches servers.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::thread::{Role, WorkerThread};
use crate::unix_socket::{self, LONGEST_PATH, ListenError, Listener};
use crate::write_problem;

/// The longest path, in bytes: `_4294967295` has to fit behind it.
const LONGEST: usize = LONGEST_PATH - 11;

/// The addresses that no guest can have (vsock(7)): the hypervisor's, the loopback's, the host's, and `VMADDR_CID_ANY`.
const FIRST_CID: u32 = 3;
const LAST_CID: u32 = u32::MAX - 1;

/// Why a vsock cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An address that no guest can have.
    #[error("{0} is no CID of a guest: use a number from {FIRST_CID} to {LAST_CID}")]
    Cid(u32),
    /// The paths of ports would be too long for sockets.
    #[error("the vsock's path {} is too long: use one of at most {LONGEST} bytes, because a port is appended to it", .0.display())]
    PathTooLong(PathBuf),
    /// No socket can be made there.
    #[error("cannot make the vsock's socket {}: {}", .path.display(), write_problem(.error))]
    Socket {
        /// Its path, as the user named it.
        path: PathBuf,
        /// The host's reason.
        error: io::Error,
    },
    /// Somebody listens there already.
    #[error("the vsock's socket {} is in use: another program listens on it; use another path", .0.display())]
    InUse(PathBuf),
    /// There is a file where the socket is to be, and it is none that may be replaced.
    #[error("cannot make the vsock's socket {}: a file is there that is no socket; remove it or use another path", .0.display())]
    NotASocket(PathBuf),
    /// The host has no thread left.
    #[error("cannot start the vsock's thread: {0}")]
    Thread(io::Error),
}

/// The host's end of a guest's vsock, which outlives resets of the device and reboots of the guest: a listening Unix socket, whose file
/// is removed at the end, and the thread `virtio-vsock`.
///
/// The thread is here and not the device's own, because it may connect to sockets. Who makes the device anew at a reboot need not be
/// able to then.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) socket: Arc<HostSocket>,
    pub(super) thread: WorkerThread,
}

impl Endpoint {
    /// For a guest with the address `cid`, on a socket at `path`, at which only this user can connect. A guest's connection to the host's
    /// port `P` goes to the socket at `path` and `_P`.
    ///
    /// # Errors
    /// No guest has this address, the path is too long, somebody listens there or something else is there, or the host refuses.
    pub fn open(cid: u32, path: &Path) -> Result<Self, OpenError> {
        if !(FIRST_CID..=LAST_CID).contains(&cid) {
            return Err(OpenError::Cid(cid));
        }
        let path = path.to_owned();
        if path.as_os_str().as_bytes().len() > LONGEST {
            return Err(OpenError::PathTooLong(path));
        }
        let listener = Listener::bind(&path).map_err(|error| match error {
            ListenError::InUse => OpenError::InUse(path.clone()),
            ListenError::NotASocket => OpenError::NotASocket(path.clone()),
            ListenError::Host(error) => OpenError::Socket {
                path: path.clone(),
                error,
            },
        })?;
        Ok(Self {
            socket: Arc::new(HostSocket {
                cid,
                path,
                listener,
            }),
            thread: WorkerThread::spawn(Role::Vsock).map_err(OpenError::Thread)?,
        })
    }
}

/// The host's socket.
#[derive(Debug)]
pub struct HostSocket {
    cid: u32,
    path: PathBuf,
    listener: Listener,
}

impl HostSocket {
    /// The guest's address.
    pub fn cid(&self) -> u32 {
        self.cid
    }

    /// Where clients connect.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Connects to who serves this port of the host's.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        unix_socket::connect(Path::new(&path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_addresses_of_guests_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        for cid in [0, 1, 2, u32::MAX] {
            let error = Endpoint::open(cid, &path).unwrap_err();
            assert!(matches!(error, OpenError::Cid(of) if of == cid), "{error}");
            assert_eq!(error.to_string().lines().count(), 1);
        }
        for cid in [3, 0x8000_0000, u32::MAX - 1] {
            assert_eq!(Endpoint::open(cid, &path).unwrap().socket.cid(), cid);
        }
    }

    #[test]
    fn a_path_that_others_have_or_that_is_too_long_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let endpoint = Endpoint::open(3, &path).unwrap();
        assert!(matches!(Endpoint::open(3, &path), Err(OpenError::InUse(_))));
        drop(endpoint);
        assert!(!path.exists());
        // As a killed program leaves it.
        drop(UnixListener::bind(&path).unwrap());
        drop(Endpoint::open(3, &path).unwrap());
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(
            Endpoint::open(3, &path),
            Err(OpenError::NotASocket(_))
        ));
        let missing = directory.path().join("missing").join("v");
        let error = Endpoint::open(3, &missing).unwrap_err();
        assert!(matches!(error, OpenError::Socket { .. }));

        let rest = LONGEST - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(rest));
        let endpoint = Endpoint::open(3, &path).unwrap();
        let server = directory
            .path()
            .join(format!("{}_4294967295", "x".repeat(rest)));
        let _server = UnixListener::bind(server).unwrap();
        endpoint.socket.connect(u32::MAX).unwrap();
        assert!(endpoint.socket.connect(1).is_err());
        let path = directory.path().join("x".repeat(rest + 1));
        let error = Endpoint::open(3, &path).unwrap_err();
        assert!(matches!(error, OpenError::PathTooLong(_)), "{error}");
    }
}
