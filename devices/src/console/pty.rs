//! A pseudo-terminal behind a console: terminal programs open its slave, as they would a serial port's device.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::output::Outlet;
use super::{OpenError, OutputThread};

/// The master of a pseudo-terminal, whose slave has a path. It stays the same whether nobody, somebody or one after
/// the other has the slave open.
#[derive(Clone, Debug)]
pub struct Pty {
    master: Arc<File>,
    slave: PathBuf,
}

impl Pty {
    /// Makes one, whose slave is raw: what the guest prints is not echoed back to it as input.
    ///
    /// # Errors
    /// The host has none left.
    pub fn open() -> Result<Self, OpenError> {
        Self::make().map_err(|error| OpenError::Pty(error.into()))
    }

    fn make() -> nix::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = PathBuf::from(ptsname_r(&master)?);
        // From the first time that it is closed on, the master reports a hang-up while nobody has it open.
        drop(nix::fcntl::open(
            &slave,
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?);
        // The settings are the slave's, and stay when everybody has closed it.
        let mut settings = tcgetattr(&master)?;
        cfmakeraw(&mut settings);
        tcsetattr(&master, SetArg::TCSANOW, &settings)?;
        let master = Arc::new(File::from(OwnedFd::from(master)));
        Ok(Self { master, slave })
    }

    /// The slave's path, such as `/dev/pts/3`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.slave
    }

    /// Starts a thread for output to it. Without anybody who has the slave open, output is dropped.
    ///
    /// # Errors
    /// The host cannot start a thread.
    pub fn output(&self) -> io::Result<OutputThread> {
        OutputThread::spawn(Master(Arc::clone(&self.master)))
    }

    /// Reads what was typed, without waiting: 0 bytes if there is nothing, or nobody. The descriptor is then to be
    /// waited for by its edges (EPOLLET): without anybody it reports a hang-up all the time.
    ///
    /// # Errors
    /// The host's, which are not expected.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.master).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_alone(&error) => {
                    return Ok(0);
                }
                result => return result,
            }
        }
    }
}

impl AsRawFd for Pty {
    fn as_raw_fd(&self) -> RawFd {
        self.master.as_raw_fd()
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

/// The master's answer while nobody has the slave open.
fn is_alone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

/// The master as an outlet.
struct Master(Arc<File>);

impl Outlet for Master {
    /// Looks before each write who is there: what is written for nobody stays in the terminal's buffer, and fills it.
    fn pass_on(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [master] = fds;
            if master
                .revents()
                .is_some_and(|events| events.contains(PollFlags::POLLHUP))
            {
                return Ok(());
            }
            match (&*self.0).write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_alone(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::console::ConsoleOutput;

    const LONG: Duration = Duration::from_secs(60);

    fn slave(pty: &Pty) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(pty.path())
            .unwrap()
    }

    /// Waits for input and reads it.
    fn read(pty: &Pty) -> Vec<u8> {
        let mut fds = [PollFd::new(pty.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(60_000_u16)), Ok(1));
        let mut bytes = [0; 64];
        let count = pty.read(&mut bytes).unwrap();
        bytes[..count].to_vec()
    }

    #[test]
    fn people_come_and_go() {
        let pty = Pty::open().unwrap();
        let output = pty.output().unwrap();
        let mut bytes = [0; 16];
        // Nobody was there yet.
        assert_eq!(pty.read(&mut bytes).unwrap(), 0);
        output.write(&vec![b'x'; 1 << 20]);
        assert!(output.flush(LONG));
        for _ in 0..2 {
            let mut person = slave(&pty);
            // Unchanged in both directions, and not echoed.
            output.write(b"hello\n\x03");
            person.read_exact(&mut bytes[..7]).unwrap();
            assert_eq!(&bytes[..7], b"hello\n\x03");
            person.write_all(b"a\r\x04").unwrap();
            assert_eq!(read(&pty), b"a\r\x04");
            drop(person);
            // Nobody is there any more.
            assert_eq!(pty.read(&mut bytes).unwrap(), 0);
            output.write(&vec![b'x'; 1 << 20]);
            assert!(output.flush(LONG));
        }
        assert!(output.close(LONG));
    }

    #[test]
    fn who_leaves_frees_the_output() {
        let pty = Pty::open().unwrap();
        let output = pty.output().unwrap();
        let person = slave(&pty);
        // Until the terminal's buffer is full.
        while output.flush(Duration::from_millis(100)) {
            output.try_write(&[b'x'; 16384]);
        }
        drop(person);
        assert!(output.flush(LONG));
    }
}
