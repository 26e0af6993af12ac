//! Unix sockets at paths of the host: listening ones of this process's own, and connections to those of others.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest path of a socket, in bytes: one byte of `sockaddr_un` is left for the end of the string (unix(7)).
pub const LONGEST_PATH: usize = 107;

/// How many clients may wait for their turn.
const BACKLOG: libc::c_int = 128;

/// How long somebody else may have the directory of a socket locked, which takes one who replaces a socket far less.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at that lock.
const PAUSE: Duration = Duration::from_millis(5);

/// Why a socket cannot be made at a path.
#[derive(Debug)]
pub enum ListenError {
    /// Somebody listens there already.
    InUse,
    /// There is a file, and it is none that may be replaced.
    NotASocket,
    /// The host refuses.
    Host(io::Error),
}

/// A listening socket, which does not block. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, by which it is known as this socket's.
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`. A socket of that name that nobody listens on, as a killed program leaves it, is replaced. Whatever
    /// the umask, only this user can connect.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let listener = match listen(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => replace(path)?,
            result => result.map_err(ListenError::Host)?,
        };
        let listener = Self {
            listener,
            path: path.to_owned(),
            identity: identity(path),
        };
        let non_blocking = listener.listener.set_nonblocking(true);
        non_blocking.map_err(ListenError::Host)?;
        Ok(listener)
    }

    /// Accepts a client if one wants to connect. Its stream does not block.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        let stream = accept(|| self.listener.accept().map(|(stream, _)| stream))?;
        if let Some(stream) = &stream {
            stream.set_nonblocking(true)?;
        }
        Ok(stream)
    }
}

/// Readable when a client wants to connect.
impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have put another file there meanwhile.
        if self.identity.is_some() && self.identity == identity(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Connects to who listens at `path`, without waiting for it. The stream does not block.
///
/// # Errors
/// Nobody listens there, or too many clients wait there already, or the host refuses.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, size) = address(path)?;
    let socket = socket(libc::SOCK_NONBLOCK)?;
    // SAFETY: the address lives across the call, and is as long as is said.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if connected < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(UnixStream::from(socket))
}

/// A new stream socket.
fn socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: the call has no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A path as the kernel takes it.
#[allow(clippy::cast_possible_truncation)] // AF_UNIX is 1, and the size of an address 110.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all zeros are a valid address: two integers and bytes.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let name = path.as_os_str().as_bytes();
    if name.len() > LONGEST_PATH || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

/// Accepts a client if one wants to connect.
fn accept(mut accept: impl FnMut() -> io::Result<UnixStream>) -> io::Result<Option<UnixStream>> {
    loop {
        match accept() {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // The client has given up, the next one may not have.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes a socket at `path`, where nothing may be yet, with mode 0600.
fn listen(path: &Path) -> io::Result<UnixListener> {
    // A socket's file gets the mode of the socket itself, less the umask (net/unix/af_unix.c): it never has another one.
    let socket = File::from(socket(0)?);
    socket.set_permissions(fs::Permissions::from_mode(0o600))?;

    let (address, size) = address(path)?;
    // SAFETY: the address lives across the call, and is as long as is said.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has no pointers.
    if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } < 0 {
        let error = io::Error::last_os_error();
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Makes a socket in place of the one that is there, if nobody listens on that.
///
/// Of several that do so at the same time, one has the directory locked from its look at the old socket until it has
/// made its own: none removes another's.
fn replace(path: &Path) -> Result<UnixListener, ListenError> {
    let _lock = lock_directory(directory_of(path), PATIENCE);
    let there = fs::symlink_metadata(path).map_err(ListenError::Host)?;
    if !there.file_type().is_socket() {
        return Err(ListenError::NotASocket);
    }
    if is_alive(path).map_err(ListenError::Host)? {
        return Err(ListenError::InUse);
    }
    fs::remove_file(path).map_err(ListenError::Host)?;
    listen(path).map_err(|error| match error.kind() {
        // Somebody came just now, found nothing and needed no lock.
        io::ErrorKind::AddrInUse => ListenError::InUse,
        _ => ListenError::Host(error),
    })
}

/// The directory that a file is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Locks a directory against others who do so. `None` where it cannot be locked: it may not be readable, or somebody has had
/// it locked for longer than `patience`.
fn lock_directory(path: &Path, patience: Duration) -> Option<File> {
    let directory = File::open(path).ok()?;
    let started = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => {
                std::thread::sleep(PAUSE);
            }
            Err(_) => return None,
        }
    }
}

/// Whether somebody has this socket. A connection would take the place of a client; to connect a socket of another type
/// is refused in different ways (`unix_find_bsd` in Linux's net/unix/af_unix.c) and leaves no trace.
fn is_alive(path: &Path) -> io::Result<bool> {
    let error = match UnixDatagram::unbound()?.connect(path) {
        // A socket for datagrams, of some other program.
        Ok(()) => return Ok(true),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::EPROTOTYPE) => Ok(true),
        Some(libc::ECONNREFUSED) => Ok(false),
        _ => Err(error),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use hv_test_limit::{LIMIT as LONG, join};

    use super::*;

    /// `connect` waits for nobody: not for who accepts, nor for room among those who wait.
    #[test]
    fn a_connection_is_made_at_once_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let refused = |path: &Path| connect(path).unwrap_err().kind();
        assert_eq!(refused(&path), io::ErrorKind::NotFound);
        let listener = Listener::bind(&path).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(waiting.len() >= 128);
        let mut client = waiting.swap_remove(0);
        let mut server = listener.accept().unwrap().unwrap();
        let mut bytes = [0; 2];
        for stream in [&mut client, &mut server] {
            let empty = stream.read(&mut bytes).unwrap_err();
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        }
        client.write_all(b"hi").unwrap();
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hi");
        drop(listener);
        assert_eq!(refused(&path), io::ErrorKind::NotFound);
        // As a killed program leaves it.
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(refused(&path), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_path_is_as_long_as_the_kernel_takes_it() {
        let directory = tempfile::tempdir().unwrap();
        let rest = LONGEST_PATH - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(rest));
        let listener = Listener::bind(&path).unwrap();
        connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        let longer = directory.path().join("x".repeat(rest + 1));
        let errno = |error: io::Error| error.raw_os_error();
        assert_eq!(
            errno(connect(&longer).unwrap_err()),
            Some(libc::ENAMETOOLONG)
        );
        match Listener::bind(&longer) {
            Err(ListenError::Host(error)) => assert_eq!(errno(error), Some(libc::ENAMETOOLONG)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_is_locked_for_as_long_as_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let other = File::open(directory.path()).unwrap();
        let lock = lock_directory(directory.path(), LONG);
        assert!(lock.is_some());
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        other.try_lock().unwrap();
        assert!(lock_directory(&directory.path().join("missing"), LONG).is_none());
        // Who has it locked is waited for, but not for ever.
        assert!(lock_directory(directory.path(), Duration::ZERO).is_none());
        let waiting = std::thread::spawn({
            let path = directory.path().to_owned();
            move || lock_directory(&path, LONG).is_some()
        });
        std::thread::sleep(10 * PAUSE);
        other.unlock().unwrap();
        assert!(join(waiting));
    }

    #[test]
    fn a_socket_is_in_the_directory_that_its_path_says() {
        for (path, directory) in [
            ("socket", "."),
            ("./socket", "."),
            ("run/socket", "run"),
            ("/socket", "/"),
            ("/run/vm/socket", "/run/vm"),
        ] {
            assert_eq!(
                directory_of(Path::new(path)),
                Path::new(directory),
                "{path}"
            );
        }
    }

    #[test]
    fn of_several_one_replaces_a_dead_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(4);
            let sockets: Vec<_> = std::thread::scope(|scope| {
                let bind = || {
                    start.wait();
                    Listener::bind(&path)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let mut bound = Vec::new();
            for result in sockets {
                match result {
                    Ok(socket) => bound.push(socket),
                    Err(ListenError::InUse) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert_eq!(bound.len(), 1);
            let _client = UnixStream::connect(&path).unwrap();
            assert!(bound[0].accept().unwrap().is_some(), "it has the path");
        }
    }

    #[test]
    fn a_socket_is_alive_dead_or_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(is_alive(&path).is_err(), "nothing is there");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(is_alive(&path).unwrap());
        drop(listener);
        assert!(!is_alive(&path).unwrap());
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(is_alive(&path).unwrap());
    }

    #[test]
    fn a_client_that_gave_up_does_not_hide_the_next_one() {
        let error = |number| Err(io::Error::from_raw_os_error(number));
        let accepted = |results: Vec<io::Result<UnixStream>>| {
            let mut results = results.into_iter();
            let accepted = accept(|| results.next().unwrap());
            assert_eq!(results.len(), 0);
            accepted
        };
        let stream = || Ok(UnixStream::pair().unwrap().0);
        let given_up = [error(libc::ECONNABORTED), error(libc::EINTR), stream()];
        assert!(accepted(given_up.into()).unwrap().is_some());
        assert!(accepted(vec![error(libc::EAGAIN)]).unwrap().is_none());
        assert!(accepted(vec![error(libc::EMFILE)]).is_err());
    }
}
