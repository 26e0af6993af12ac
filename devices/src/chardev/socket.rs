//! A Unix socket behind a console, to which one client at a time connects.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::output::{Outlet, write_some};
use super::{OpenError, OutputThread};
use crate::lock;

/// How many clients may wait for their turn.
const BACKLOG: libc::c_int = 128;

/// How long somebody else may have the directory of a socket locked, which takes one who replaces a socket far less.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at that lock.
const PAUSE: Duration = Duration::from_millis(5);

/// A listening socket and the client that is connected to it. Another client waits until this one has gone. The
/// socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, by which it is known as this socket's.
    identity: Option<(u64, u64)>,
    client: Arc<Client>,
}

/// The client, if there is one.
type Client = Mutex<Option<Arc<UnixStream>>>;

/// What came from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientInput {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing any more. The client may still listen.
    End,
}

impl Socket {
    /// Listens at `path`. A socket of that name that nobody listens on, as a killed program leaves it, is replaced. Whatever
    /// the umask, only this user can connect: who has a console has the guest.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the host refuses.
    pub fn bind(path: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Socket {
            path: path.to_owned(),
            error,
        };
        let listener = match listen(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => replace(path)?,
            result => result.map_err(failed)?,
        };
        let socket = Self {
            listener,
            path: path.to_owned(),
            identity: identity(path),
            client: Arc::default(),
        };
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    /// Takes a client that wants to connect, if there is none yet and one wants to. Returns the descriptor to wait
    /// on for its input, by its edges (EPOLLET); it is open until [`disconnect`](Self::disconnect).
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn accept(&self) -> io::Result<Option<RawFd>> {
        let mut client = lock(&self.client);
        if client.is_some() {
            return Ok(None);
        }
        let stream = accept(|| self.listener.accept().map(|(stream, _)| stream))?;
        let Some(stream) = stream else {
            return Ok(None);
        };
        stream.set_nonblocking(true)?;
        let fd = stream.as_raw_fd();
        *client = Some(Arc::new(stream));
        Ok(Some(fd))
    }

    /// The client's descriptor, if one is connected.
    #[must_use]
    pub fn client(&self) -> Option<RawFd> {
        lock(&self.client).as_ref().map(|client| client.as_raw_fd())
    }

    /// Reads what the client has sent, without waiting. An error of its is the end of its input.
    pub fn read(&self, buffer: &mut [u8]) -> ClientInput {
        let client = lock(&self.client).clone();
        let Some(client) = client else {
            return ClientInput::End;
        };
        read_available(|| (&*client).read(buffer))
    }

    /// Lets the client go.
    pub fn disconnect(&self) {
        if let Some(client) = lock(&self.client).take() {
            // The output may be waiting for it.
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Starts a thread for `console`'s output to the client. Without one, output is dropped.
    ///
    /// # Errors
    /// The host cannot start a thread.
    pub fn output(&self, console: impl Into<String>) -> io::Result<OutputThread> {
        OutputThread::spawn(ToClient(Arc::clone(&self.client)), console)
    }
}

/// The listening socket, which is readable when a client wants to connect.
impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.disconnect();
        // Somebody may have put another file there meanwhile.
        if self.identity.is_some() && self.identity == identity(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads what a client has sent.
fn read_available(mut read: impl FnMut() -> io::Result<usize>) -> ClientInput {
    loop {
        return match read() {
            Ok(0) => ClientInput::End,
            Ok(count) => ClientInput::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ClientInput::Nothing,
            Err(_) => ClientInput::End,
        };
    }
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
#[allow(clippy::cast_possible_truncation)] // AF_UNIX is 1, and the size of an address 110.
fn listen(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: the call has no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // A socket's file gets the mode of the socket itself, less the umask (net/unix/af_unix.c): it never has another one.
    let socket = File::from(fd);
    socket.set_permissions(fs::Permissions::from_mode(0o600))?;

    // SAFETY: all zeros are a valid address: two integers and bytes.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let name = path.as_os_str().as_bytes();
    // One byte is left for the end of the string.
    if name.len() >= address.sun_path.len() || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
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
fn replace(path: &Path) -> Result<UnixListener, OpenError> {
    let failed = |error| OpenError::Socket {
        path: path.to_owned(),
        error,
    };
    let _lock = lock_directory(directory_of(path), PATIENCE);
    let there = fs::symlink_metadata(path).map_err(failed)?;
    if !there.file_type().is_socket() {
        return Err(OpenError::NotASocket(path.to_owned()));
    }
    if is_alive(path).map_err(failed)? {
        return Err(OpenError::SocketInUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(failed)?;
    listen(path).map_err(|error| match error.kind() {
        // Somebody came just now, found nothing and needed no lock.
        io::ErrorKind::AddrInUse => OpenError::SocketInUse(path.to_owned()),
        _ => failed(error),
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

/// The client as an outlet.
struct ToClient(Arc<Client>);

impl Outlet for ToClient {
    /// A client that goes away is no end of the output: another may come.
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let client = lock(&self.0).clone();
        let Some(client) = client else {
            return Ok(bytes.len());
        };
        write_some(&*client, bytes).or_else(|error| {
            log::debug!("the console's client takes no more: {error}");
            Ok(bytes.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use hv_test_limit::{LIMIT as LONG, Watch, join, until, wait_for, watch};

    use super::*;
    use crate::chardev::OutputSink;

    /// A socket, in a directory of its own.
    fn socket() -> ((tempfile::TempDir, Watch), PathBuf, Socket) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = Socket::bind(&path).unwrap();
        ((directory, watch()), path, socket)
    }

    /// A client whose reads fail where they would wait for ever.
    fn connect(path: &Path) -> UnixStream {
        let client = UnixStream::connect(path).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client
    }

    /// Reads once there is something.
    fn read(socket: &Socket, buffer: &mut [u8]) -> ClientInput {
        wait_for(|| match socket.read(buffer) {
            ClientInput::Nothing => None,
            other => Some(other),
        })
    }

    #[test]
    fn clients_come_one_after_the_other() {
        let (_directory, path, socket) = socket();
        let output = socket.output("test").unwrap();
        let mut bytes = [0; 16];
        assert_eq!(socket.as_raw_fd(), socket.listener.as_raw_fd());
        assert_eq!(socket.accept().unwrap(), None);
        assert_eq!(socket.read(&mut bytes), ClientInput::End);
        output.write(&vec![b'x'; 1 << 20]);
        assert!(output.flush(LONG), "dropped");
        let mut first = connect(&path);
        let mut second = connect(&path);
        assert!(socket.accept().unwrap().is_some());
        assert_eq!(socket.accept().unwrap(), None, "one at a time");
        assert_eq!(socket.read(&mut bytes), ClientInput::Nothing);
        output.write(b"one");
        first.read_exact(&mut bytes[..3]).unwrap();
        assert_eq!(&bytes[..3], b"one");
        first.write_all(b"from one").unwrap();
        drop(first);
        assert_eq!(read(&socket, &mut bytes), ClientInput::Bytes(8));
        assert_eq!(read(&socket, &mut bytes), ClientInput::End);
        output.write(b"to nobody");
        assert!(output.flush(LONG));
        socket.disconnect();
        assert_eq!(socket.client(), None);
        assert_eq!(socket.accept().unwrap(), socket.client());
        output.write(b"two");
        second.read_exact(&mut bytes[..3]).unwrap();
        assert_eq!(&bytes[..3], b"two");
        second.write_all(b"from two").unwrap();
        assert_eq!(read(&socket, &mut bytes), ClientInput::Bytes(8));
        drop(socket);
        assert_eq!(second.read(&mut bytes).unwrap(), 0);
        assert!(!path.exists());
        assert!(output.close(LONG));
    }

    #[test]
    fn a_client_that_stops_sending_may_listen() {
        let (_directory, path, socket) = socket();
        let output = socket.output("test").unwrap();
        let mut client = connect(&path);
        socket.accept().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(read(&socket, &mut bytes), ClientInput::End);
        output.write(b"still here");
        client.read_exact(&mut bytes[..10]).unwrap();
    }

    /// A client that leaves with output unread resets the connection: that is its end as well.
    #[test]
    fn a_client_that_resets_the_connection_is_gone() {
        let (_directory, path, socket) = socket();
        let output = socket.output("test").unwrap();
        let client = connect(&path);
        socket.accept().unwrap();
        output.write(b"unread");
        assert!(output.flush(LONG));
        drop(client);
        // Told once: what is read then is an end like any other.
        assert_eq!(socket.read(&mut [0; 16]), ClientInput::End);
        assert_eq!(socket.read(&mut [0; 16]), ClientInput::End);
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
    fn a_signal_is_no_end_of_a_clients_input_and_an_error_is() {
        let error = |number| Err(io::Error::from_raw_os_error(number));
        for (results, expected) in [
            (vec![error(libc::EINTR), Ok(7)], ClientInput::Bytes(7)),
            (
                vec![error(libc::EINTR), error(libc::EAGAIN)],
                ClientInput::Nothing,
            ),
            (vec![error(libc::ECONNRESET)], ClientInput::End),
            (vec![Ok(0)], ClientInput::End),
        ] {
            let mut results = results.into_iter();
            assert_eq!(read_available(|| results.next().unwrap()), expected);
            assert_eq!(results.len(), 0);
        }
    }

    #[test]
    fn who_leaves_frees_the_output() {
        let (_directory, path, socket) = socket();
        let output = socket.output("test").unwrap();
        for leave in [true, false] {
            let client = connect(&path);
            socket.accept().unwrap();
            // Until the client's buffer is full.
            until(|| {
                output.try_write(&[b'x'; 16384]);
                !output.flush(Duration::from_millis(100))
            });
            if leave {
                drop(client);
                assert!(output.flush(LONG));
                socket.disconnect();
            } else {
                socket.disconnect();
                assert!(output.flush(LONG));
            }
        }
    }

    #[test]
    fn only_a_socket_that_nobody_has_is_replaced() {
        let ((directory, _watch), path, socket) = socket();
        assert!(matches!(
            Socket::bind(&path),
            Err(OpenError::SocketInUse(_))
        ));
        drop(socket);
        // As a killed program leaves it.
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        // Somebody else's file stays.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        drop(socket);
        assert!(matches!(Socket::bind(&path), Err(OpenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let missing = directory.path().join("missing").join("socket");
        let long = directory.path().join("x".repeat(200));
        for (path, reason) in [(missing, libc::ENOENT), (long, libc::ENAMETOOLONG)] {
            let Err(OpenError::Socket { error, .. }) = Socket::bind(&path) else {
                panic!("{}", path.display());
            };
            assert_eq!(error.raw_os_error(), Some(reason));
        }
    }

    /// Whatever the umask. It is the process's own, so that this test leaves it alone and sees the mode come from elsewhere.
    #[test]
    fn only_its_owner_can_connect() {
        let (_directory, path, socket) = socket();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        drop(UnixListener::bind(&path).unwrap());
        let _socket = Socket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "replaced");
    }

    #[test]
    fn who_wants_a_socket_that_is_in_use_takes_no_clients_place() {
        let (_directory, path, socket) = socket();
        for _ in 0..3 {
            assert!(matches!(
                Socket::bind(&path),
                Err(OpenError::SocketInUse(_))
            ));
        }
        assert_eq!(socket.accept().unwrap(), None);
        let mut client = connect(&path);
        client.write_all(b"me").unwrap();
        assert!(socket.accept().unwrap().is_some());
        let mut bytes = [0; 16];
        assert_eq!(read(&socket, &mut bytes), ClientInput::Bytes(2));
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
                    Socket::bind(&path)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let mut bound = Vec::new();
            for result in sockets {
                match result {
                    Ok(socket) => bound.push(socket),
                    Err(OpenError::SocketInUse(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            assert_eq!(bound.len(), 1);
            let _client = connect(&path);
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
