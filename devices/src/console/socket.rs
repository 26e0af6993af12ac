//! A Unix socket behind a console, to which one client at a time connects.

use std::fs;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::output::{Outlet, write_to};
use super::{OpenError, OutputThread};
use crate::lock;

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
    /// Listens at `path`. A socket of that name that nobody listens on, as a killed program leaves it, is replaced.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the host refuses.
    pub fn bind(path: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Socket {
            path: path.to_owned(),
            error,
        };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let there = fs::symlink_metadata(path).map_err(failed)?;
                if !there.file_type().is_socket() {
                    return Err(OpenError::NotASocket(path.to_owned()));
                }
                match UnixStream::connect(path) {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(error) => return Err(failed(error)),
                    Ok(_) => return Err(OpenError::SocketInUse(path.to_owned())),
                }
                fs::remove_file(path).map_err(failed)?;
                UnixListener::bind(path)
            }
            result => result,
        }
        .map_err(failed)?;
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
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    let fd = stream.as_raw_fd();
                    *client = Some(Arc::new(stream));
                    return Ok(Some(fd));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
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
        loop {
            return match (&*client).read(buffer) {
                Ok(0) => ClientInput::End,
                Ok(count) => ClientInput::Bytes(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ClientInput::Nothing,
                Err(_) => ClientInput::End,
            };
        }
    }

    /// Lets the client go.
    pub fn disconnect(&self) {
        if let Some(client) = lock(&self.client).take() {
            // The output may be waiting for it.
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Starts a thread for output to the client. Without one, output is dropped.
    ///
    /// # Errors
    /// The host cannot start a thread.
    pub fn output(&self) -> io::Result<OutputThread> {
        OutputThread::spawn(ToClient(Arc::clone(&self.client)))
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

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The client as an outlet.
struct ToClient(Arc<Client>);

impl Outlet for ToClient {
    /// A client that goes away is no end of the output: another may come.
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<()> {
        let client = lock(&self.0).clone();
        if let Some(client) = client
            && let Err(error) = write_to(&*client, bytes)
        {
            log::debug!("the console's client takes no more: {error}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::console::ConsoleOutput;

    const LONG: Duration = Duration::from_secs(60);

    /// A socket, in a directory of its own.
    fn socket() -> (tempfile::TempDir, PathBuf, Socket) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = Socket::bind(&path).unwrap();
        (directory, path, socket)
    }

    /// Reads once there is something.
    fn read(socket: &Socket, buffer: &mut [u8]) -> ClientInput {
        loop {
            match socket.read(buffer) {
                ClientInput::Nothing => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    #[test]
    fn clients_come_one_after_the_other() {
        let (_directory, path, socket) = socket();
        let output = socket.output().unwrap();
        let mut bytes = [0; 16];
        assert_eq!(socket.accept().unwrap(), None);
        assert_eq!(socket.read(&mut bytes), ClientInput::End);
        output.write(&vec![b'x'; 1 << 20]);
        assert!(output.flush(LONG), "dropped");
        let mut first = UnixStream::connect(&path).unwrap();
        let mut second = UnixStream::connect(&path).unwrap();
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
        let output = socket.output().unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        socket.accept().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(read(&socket, &mut bytes), ClientInput::End);
        output.write(b"still here");
        client.read_exact(&mut bytes[..10]).unwrap();
    }

    #[test]
    fn who_leaves_frees_the_output() {
        let (_directory, path, socket) = socket();
        let output = socket.output().unwrap();
        for leave in [true, false] {
            let client = UnixStream::connect(&path).unwrap();
            socket.accept().unwrap();
            // Until the client's buffer is full.
            while output.flush(Duration::from_millis(100)) {
                output.try_write(&[b'x'; 16384]);
            }
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
        let (directory, path, socket) = socket();
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
        for path in [missing, long] {
            assert!(matches!(Socket::bind(&path), Err(OpenError::Socket { .. })));
        }
    }
}
