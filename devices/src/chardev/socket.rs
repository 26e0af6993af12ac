//! A Unix socket behind a console, to which one client at a time connects.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::output::{Outlet, write_some};
use super::{OpenError, OutputThread};
use crate::lock;
use crate::unix_socket::{ListenError, Listener};

/// A listening socket and the client that is connected to it. Another client waits until this one has gone. The
/// socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Listener,
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
        let listener = Listener::bind(path).map_err(|error| match error {
            ListenError::InUse => OpenError::SocketInUse(path.to_owned()),
            ListenError::NotASocket => OpenError::NotASocket(path.to_owned()),
            ListenError::Host(error) => OpenError::Socket {
                path: path.to_owned(),
                error,
            },
        })?;
        Ok(Self {
            listener,
            client: Arc::default(),
        })
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
        let Some(stream) = self.listener.accept()? else {
            return Ok(None);
        };
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
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::time::Duration;

    use hv_test_limit::{LIMIT as LONG, Watch, until, wait_for, watch};

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
}
