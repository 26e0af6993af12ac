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

    /// Starts a thread for `console`'s output to it. Without anybody who has the slave open, output is dropped.
    ///
    /// # Errors
    /// The host cannot start a thread.
    pub fn output(&self, console: impl Into<String>) -> io::Result<OutputThread> {
        OutputThread::spawn(Master(Arc::clone(&self.master)), console)
    }

    /// Reads what was typed, without waiting: 0 bytes if there is nothing, or nobody. The descriptor is then to be
    /// waited for by its edges (EPOLLET): without anybody it reports a hang-up all the time.
    ///
    /// # Errors
    /// The host's, which are not expected.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read_available(|| (&*self.master).read(buffer))
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

/// Reads what there is; nothing if there is nothing, or nobody.
fn read_available(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_alone(&error) => {
                return Ok(0);
            }
            result => return result,
        }
    }
}

/// What a write of `length` bytes to the master came to: `None` if it is to be tried again.
fn written(result: io::Result<usize>, length: usize) -> Option<io::Result<usize>> {
    match result {
        Ok(0) => None,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
            ) =>
        {
            None
        }
        // Who had it open has closed it since it was looked at.
        Err(error) if is_alone(&error) => Some(Ok(length)),
        result => Some(result),
    }
}

/// The master as an outlet.
struct Master(Arc<File>);

impl Outlet for Master {
    /// Looks before each write who is there: what is written for nobody stays in the terminal's buffer, and fills it.
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
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
                return Ok(bytes.len());
            }
            if let Some(result) = written((&*self.0).write(bytes), bytes.len()) {
                return result;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hv_test_limit::{LIMIT as LONG, until, watch};

    use super::*;
    use crate::chardev::OutputSink;
    use crate::virtio::testing::descriptor_flags;

    fn slave(pty: &Pty) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(pty.path())
            .unwrap()
    }

    fn wait_readable(file: &impl AsFd) {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(LONG).unwrap();
        assert_eq!(poll(&mut fds, limit), Ok(1), "nothing came");
    }

    /// Reads so many bytes, which come.
    fn read_exactly(person: &mut File, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        for byte in &mut bytes {
            wait_readable(person);
            person.read_exact(std::slice::from_mut(byte)).unwrap();
        }
        bytes
    }

    #[test]
    fn its_descriptor_neither_blocks_nor_is_inherited() {
        let pty = Pty::open().unwrap();
        assert_eq!(descriptor_flags(&pty), (true, true));
    }

    /// Waits for input and reads it.
    fn read(pty: &Pty) -> Vec<u8> {
        wait_readable(pty);
        let mut bytes = [0; 64];
        let count = pty.read(&mut bytes).unwrap();
        bytes[..count].to_vec()
    }

    #[test]
    fn people_come_and_go() {
        let _watch = watch();
        let pty = Pty::open().unwrap();
        let output = pty.output("test").unwrap();
        let mut bytes = [0; 16];
        assert_eq!(pty.as_raw_fd(), pty.as_fd().as_raw_fd());
        // Nobody was there yet.
        assert_eq!(pty.read(&mut bytes).unwrap(), 0);
        output.write(&vec![b'x'; 1 << 20]);
        assert!(output.flush(LONG));
        for _ in 0..2 {
            let mut person = slave(&pty);
            // Unchanged in both directions, and not echoed.
            output.write(b"hello\n\x03");
            assert_eq!(read_exactly(&mut person, 7), b"hello\n\x03");
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
        let _watch = watch();
        let pty = Pty::open().unwrap();
        let output = pty.output("test").unwrap();
        let person = slave(&pty);
        // Until the terminal's buffer is full.
        until(|| {
            output.try_write(&[b'x'; 16384]);
            !output.flush(Duration::from_millis(100))
        });
        drop(person);
        assert!(output.flush(LONG));
    }

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn nothing_and_nobody_are_no_errors_of_reading_and_others_are() {
        let read = |results: Vec<io::Result<usize>>| {
            let mut results = results.into_iter();
            let read = read_available(|| results.next().unwrap());
            assert_eq!(results.len(), 0, "not read again");
            read
        };
        assert_eq!(read(vec![Err(error(libc::EINTR)), Ok(7)]).unwrap(), 7);
        for nothing in [libc::EAGAIN, libc::EIO] {
            assert_eq!(read(vec![Err(error(nothing))]).unwrap(), 0);
        }
        assert!(read(vec![Err(error(libc::EBADF))]).is_err());
    }

    #[test]
    fn what_is_written_for_nobody_is_done() {
        assert_eq!(written(Ok(3), 5).unwrap().unwrap(), 3);
        assert_eq!(written(Err(error(libc::EIO)), 5).unwrap().unwrap(), 5);
        assert!(written(Err(error(libc::EBADF)), 5).unwrap().is_err());
        for again in [Err(error(libc::EINTR)), Err(error(libc::EAGAIN)), Ok(0)] {
            assert!(written(again, 5).is_none());
        }
    }

    /// Run by the test below, in a process that leads a session and has no terminal.
    #[test]
    fn leader_of_a_session() {
        if std::env::var_os("HVRUN_TEST_SESSION").is_none() {
            return;
        }
        let _pty = Pty::open().unwrap();
        let terminal = File::open("/dev/tty").unwrap_err();
        assert_eq!(terminal.raw_os_error(), Some(libc::ENXIO));
    }

    /// It would have the process killed when the pseudo-terminal goes.
    #[test]
    fn it_becomes_nobodys_controlling_terminal() {
        use std::os::unix::process::CommandExt;
        use std::process::{Command, Stdio};
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "chardev::pty::tests::leader_of_a_session"])
            .env("HVRUN_TEST_SESSION", "1")
            .stdin(Stdio::null());
        // SAFETY: setsid may be called between fork and exec, and has no pointers.
        let command = unsafe {
            command.pre_exec(|| match libc::setsid() {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            })
        };
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}", output.status);
        assert!(text.contains("1 passed"), "{text}");
    }
}
