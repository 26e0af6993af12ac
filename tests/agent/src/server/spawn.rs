//! Starting a process: its streams, its terminal, its root and user.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::Winsize;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{Pid, pipe2};

use super::ioctl_filter::IoctlFilter;
use crate::protocol::{Spawn, Stdio, Stream, WindowSize};

/// A process that was started, with this end of its streams. None of them blocks.
pub(super) struct Started {
    pub(super) pid: Pid,
    /// Ready for reading once the process ended.
    pub(super) pidfd: OwnedFd,
    pub(super) input: Option<File>,
    pub(super) outputs: Vec<(Stream, File)>,
    pub(super) terminal: Option<File>,
}

/// Starts a process.
///
/// # Errors
/// Says in words what could not be done.
pub(super) fn start(spawn: &Spawn) -> Result<Started, String> {
    let (program, arguments) = spawn.argv.split_first().ok_or("no program was named")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(spawn.env.iter().map(|(name, value)| (name, value)));

    let mut terminal = None;
    if let Some(size) = spawn.terminal {
        terminal =
            Some(Terminal::open(size).map_err(|error| format!("cannot open a terminal: {error}"))?);
    }
    let streams = connect(&mut command, spawn, terminal.as_ref())?;
    let slave = terminal.as_ref().map(|terminal| terminal.slave.as_raw_fd());
    let surroundings = Surroundings::new(spawn, slave)?;
    // SAFETY: `enter` makes nothing but system calls with arguments that were prepared before, as is right between
    // fork and exec.
    unsafe { command.pre_exec(move || surroundings.enter()) };

    let child = command.spawn().map_err(|error| {
        let place = (spawn.root.as_ref())
            .map_or_else(String::new, |root| format!(" under the root {root}"));
        format!("cannot run {program} in {}{place}: {error}", spawn.cwd)
    })?;
    // Closes this process's copies of the child's ends, without which no stream would ever end.
    drop(command);
    let pid = Pid::from_raw(child.id().cast_signed());
    let pidfd = pidfd_open(pid).map_err(|error| format!("cannot watch the process: {error}"))?;
    Ok(Started {
        pid,
        pidfd,
        input: streams.input,
        outputs: streams.outputs,
        terminal: terminal.map(|terminal| terminal.master),
    })
}

/// This end of a process's streams.
#[derive(Default)]
struct Streams {
    input: Option<File>,
    outputs: Vec<(Stream, File)>,
}

/// Connects the standard streams.
fn connect(
    command: &mut Command,
    spawn: &Spawn,
    terminal: Option<&Terminal>,
) -> Result<Streams, String> {
    let wrong = |error: io::Error| format!("cannot set up the process's streams: {error}");
    let mut streams = Streams::default();
    if let Some(terminal) = terminal {
        streams.outputs.push((
            Stream::Terminal,
            terminal.master.try_clone().map_err(wrong)?,
        ));
    }
    for (number, stdio) in spawn.stdio.iter().enumerate() {
        let end: process::Stdio = match (stdio, number) {
            (Stdio::Null, _) => process::Stdio::null(),
            (Stdio::Terminal, _) => {
                let terminal =
                    terminal.ok_or("a stream is to be a terminal, but the process gets none")?;
                if number == 0 {
                    streams.input = Some(terminal.master.try_clone().map_err(wrong)?);
                }
                terminal.slave.try_clone().map_err(wrong)?.into()
            }
            (Stdio::File(path), _) => {
                let mut options = OpenOptions::new();
                match number {
                    0 => options.read(true),
                    _ => options.write(true).create(true).truncate(true),
                };
                options
                    .open(path)
                    .map_err(|error| format!("cannot open {path}: {error}"))?
                    .into()
            }
            (Stdio::Pipe, 0) => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| wrong(error.into()))?;
                streams.input = Some(nonblocking(write).map_err(wrong)?);
                read.into()
            }
            (Stdio::Pipe, _) => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| wrong(error.into()))?;
                let stream = if number == 1 {
                    Stream::Stdout
                } else {
                    Stream::Stderr
                };
                streams
                    .outputs
                    .push((stream, nonblocking(read).map_err(wrong)?));
                write.into()
            }
        };
        match number {
            0 => command.stdin(end),
            1 => command.stdout(end),
            _ => command.stderr(end),
        };
    }
    Ok(streams)
}

/// A pseudo-terminal. The slave is held open until the process has it: without one, the master reports a hang-up.
struct Terminal {
    master: File,
    slave: File,
}

impl Terminal {
    fn open(size: WindowSize) -> io::Result<Self> {
        let ends = nix::pty::openpty(Some(&winsize(size)), None)?;
        for end in [&ends.master, &ends.slave] {
            fcntl(end, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        Ok(Self {
            master: nonblocking(ends.master)?,
            slave: ends.slave.into(),
        })
    }
}

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, Winsize);

/// Sets the window size of the terminal with this master. The kernel tells the foreground processes by SIGWINCH.
pub(super) fn resize(master: &File, size: WindowSize) -> io::Result<()> {
    let size = winsize(size);
    // SAFETY: the descriptor is open and the pointer is to a winsize, which the kernel reads.
    unsafe { tiocswinsz(master.as_raw_fd(), &raw const size) }?;
    Ok(())
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(fd.into())
}

fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the system call takes two integers and gives a new descriptor or an error.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match RawFd::try_from(result) {
        // SAFETY: the descriptor is new and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the child sets up for itself between fork and exec.
struct Surroundings {
    terminal: Option<RawFd>,
    root: Option<CString>,
    cwd: CString,
    user: Option<(u32, u32)>,
    filter: IoctlFilter,
}

impl Surroundings {
    fn new(spawn: &Spawn, terminal: Option<RawFd>) -> Result<Self, String> {
        let path = |path: &str| {
            CString::new(path).map_err(|_| format!("the path {path:?} holds a zero byte"))
        };
        Ok(Self {
            terminal,
            root: spawn.root.as_deref().map(path).transpose()?,
            cwd: path(&spawn.cwd)?,
            user: spawn.user,
            filter: IoctlFilter::new(&spawn.refused_ioctls),
        })
    }

    /// Enters a session of its own (so that signals can be sent to all that comes of this process, and a terminal can
    /// be its controlling one), the root, the directory, and last the user, who may not be allowed the rest.
    fn enter(&self) -> io::Result<()> {
        nix::unistd::setsid()?;
        // Whoever started this one in the background, as shells do, has the keys of its terminal ignored.
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: the default action is no handler.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
        }
        if let Some(terminal) = self.terminal {
            // SAFETY: the descriptor is open until exec; the argument is an integer.
            check(unsafe { libc::ioctl(terminal, libc::TIOCSCTTY, 0) })?;
        }
        if let Some(root) = &self.root {
            // SAFETY: a string that ends in a zero byte.
            check(unsafe { libc::chroot(root.as_ptr()) })?;
        }
        // SAFETY: as above.
        check(unsafe { libc::chdir(self.cwd.as_ptr()) })?;
        if let Some((user, group)) = self.user {
            // SAFETY: an empty list needs no memory; the others take integers.
            unsafe {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setgid(group))?;
                check(libc::setuid(user))?;
            }
        }
        self.filter.install()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
