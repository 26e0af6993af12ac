//! The nested host's side of the protocol.
//!
//! One thread polls everything: the control stream, the processes' pipes and terminals, and their ends (by pidfd).
//! Nothing in it blocks, so that a process which neither reads nor writes delays no other.

mod ioctl_filter;
mod process;
mod spawn;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::protocol::{self, Event, ExitStatus, Frames, Mount, Request, Stream};
use process::Process;

/// Which processes the server waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaping {
    /// Those that it started.
    Own,
    /// All: also the orphans that an init inherits.
    All,
}

/// Why the server came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The controller asked for it.
    PowerOff,
    /// The controller is gone.
    Disconnected,
}

/// Serves the protocol over `control`, a stream that does not block, until the controller has enough of it.
///
/// # Errors
/// The stream failed, or the controller broke the protocol.
pub fn serve(control: File, reaping: Reaping) -> io::Result<End> {
    let release = nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |names| names.release().to_string_lossy().into_owned(),
    );
    let mut server = Server {
        control,
        reaping,
        incoming: Frames::new(),
        outgoing: VecDeque::new(),
        processes: BTreeMap::new(),
    };
    server.send(
        0,
        &Event::Ready {
            version: protocol::VERSION,
            release,
        },
    );
    let end = server.run();
    for process in server.processes.values() {
        process.kill_group();
    }
    end
}

/// What a ready file descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Token {
    Control,
    Exit,
    Input(u32),
    Output(u32, Stream),
}

struct Server {
    control: File,
    reaping: Reaping,
    incoming: Frames,
    /// Frames that the control stream did not take yet. The credits bound it: output is only read as far as the
    /// controller granted, and everything else is an answer to a request.
    outgoing: VecDeque<u8>,
    processes: BTreeMap<u32, Process>,
}

impl Server {
    fn run(&mut self) -> io::Result<End> {
        loop {
            for (token, ready) in self.wait()? {
                let end = match token {
                    Token::Control => self.control_ready(ready)?,
                    Token::Exit => {
                        self.reap();
                        None
                    }
                    Token::Input(id) => {
                        self.input_ready(id, ready);
                        None
                    }
                    Token::Output(id, stream) => {
                        self.output_ready(id, stream);
                        None
                    }
                };
                if let Some(end) = end {
                    return Ok(end);
                }
            }
            self.processes.retain(|_, process| !process.is_over());
        }
    }

    /// Waits until something is ready, and says what.
    fn wait(&self) -> io::Result<Vec<(Token, PollFlags)>> {
        let mut control = PollFlags::POLLIN;
        control.set(PollFlags::POLLOUT, !self.outgoing.is_empty());
        let mut tokens = vec![Token::Control];
        let mut fds = vec![PollFd::new(self.control.as_fd(), control)];
        for (&id, process) in &self.processes {
            if let Some(exit) = process.exit_fd() {
                tokens.push(Token::Exit);
                fds.push(PollFd::new(exit, PollFlags::POLLIN));
            }
            if let Some((input, events)) = process.input_fd() {
                tokens.push(Token::Input(id));
                fds.push(PollFd::new(input, events));
            }
            for (stream, output) in process.output_fds() {
                tokens.push(Token::Output(id, stream));
                fds.push(PollFd::new(output, PollFlags::POLLIN));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(tokens
            .into_iter()
            .zip(ready)
            .filter(|(_, ready)| !ready.is_empty())
            .collect())
    }

    fn send(&mut self, id: u32, event: &Event) {
        match event.encode(id) {
            Ok(frame) => self.outgoing.extend(frame),
            // Only a message text could be so long, and those are this program's own.
            Err(error) => eprintln!("agent: event for {id} not sent: {error}"),
        }
    }

    fn control_ready(&mut self, ready: PollFlags) -> io::Result<Option<End>> {
        if ready.contains(PollFlags::POLLOUT) {
            while !self.outgoing.is_empty() {
                let (bytes, _) = self.outgoing.as_slices();
                match self.control.write(bytes) {
                    Ok(count) => drop(self.outgoing.drain(..count)),
                    Err(error) if retry(&error) => break,
                    Err(error) if gone(&error) => return Ok(Some(End::Disconnected)),
                    Err(error) => return Err(error),
                }
            }
        }
        if !ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Ok(None);
        }
        let mut bytes = vec![0; 64 * 1024];
        let count = match self.control.read(&mut bytes) {
            Ok(0) => return Ok(Some(End::Disconnected)),
            Ok(count) => count,
            Err(error) if retry(&error) => return Ok(None),
            Err(error) if gone(&error) => return Ok(Some(End::Disconnected)),
            Err(error) => return Err(error),
        };
        self.incoming.push(bytes.get(..count).unwrap_or_default());
        while let Some((id, request)) = self.incoming.next_request().map_err(io::Error::other)? {
            if self.request(id, request) {
                return Ok(Some(End::PowerOff));
            }
        }
        Ok(None)
    }

    /// Carries out a request. True: it was the last.
    fn request(&mut self, id: u32, request: Request) -> bool {
        match request {
            Request::Spawn(spawn) => {
                let event = match Process::start(&spawn) {
                    Ok(process) => {
                        let pid = process.pid();
                        self.processes.insert(id, process);
                        Event::Started(pid.as_raw().unsigned_abs())
                    }
                    Err(why) => Event::Failed(why),
                };
                self.send(id, &event);
            }
            Request::Mount(wanted) => {
                let event = mount(&wanted).map_or_else(Event::Failed, |()| Event::Done);
                self.send(id, &event);
            }
            Request::PowerOff => return true,
            request => {
                // A request for a process that is over already crossed the news of its end.
                if let Some(process) = self.processes.get_mut(&id)
                    && let Some(event) = process.request(request)
                {
                    self.send(id, &event);
                }
            }
        }
        false
    }

    /// Collects the processes that ended.
    fn reap(&mut self) {
        let mut ended = Vec::new();
        match self.reaping {
            Reaping::All => {
                while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    match status {
                        WaitStatus::StillAlive => break,
                        status => ended.push(status),
                    }
                }
            }
            Reaping::Own => {
                for process in self.processes.values() {
                    if process.exit_fd().is_some()
                        && let Ok(status) = waitpid(process.pid(), Some(WaitPidFlag::WNOHANG))
                    {
                        ended.push(status);
                    }
                }
            }
        }
        for status in ended {
            let (pid, status) = match status {
                WaitStatus::Exited(pid, code) => (pid, ExitStatus::Code(code)),
                WaitStatus::Signaled(pid, signal, _) => (pid, ExitStatus::Signal(signal as i32)),
                _ => continue,
            };
            self.ended(pid, status);
        }
    }

    fn ended(&mut self, pid: Pid, status: ExitStatus) {
        let found = (self.processes.iter_mut())
            .find(|(_, process)| process.exit_fd().is_some() && process.pid() == pid);
        // Others are orphans that an init inherited.
        if let Some((&id, process)) = found {
            process.ended();
            if !process.is_released() {
                self.send(id, &Event::Exited(status));
            }
        }
    }

    fn input_ready(&mut self, id: u32, ready: PollFlags) {
        if let Some(process) = self.processes.get_mut(&id)
            && let Some(event) = process.write_input(ready)
        {
            self.send(id, &event);
        }
    }

    fn output_ready(&mut self, id: u32, stream: Stream) {
        if let Some(process) = self.processes.get_mut(&id)
            && let Some(event) = process.read_output(stream)
        {
            self.send(id, &event);
        }
    }
}

/// Whether to try again later.
fn retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Whether the stream's other end was closed.
fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Mounts a file system, and makes its mount point first.
///
/// # Errors
/// Says in words what could not be done.
pub fn mount(wanted: &Mount) -> Result<(), String> {
    let Mount {
        source,
        target,
        kind,
        flags,
        options,
    } = wanted;
    if std::fs::symlink_metadata(target).is_err() {
        std::fs::create_dir_all(target)
            .map_err(|error| format!("cannot create {target}: {error}"))?;
    }
    let flags = nix::libc::c_ulong::try_from(*flags)
        .map(MsFlags::from_bits_retain)
        .map_err(|_| format!("mount flags {flags:#x} do not exist here"))?;
    nix::mount::mount(
        Some(source.as_str()),
        target.as_str(),
        Some(kind.as_str()),
        flags,
        Some(options.as_str()),
    )
    .map_err(|error| {
        format!(
            "cannot mount {source} ({kind}) on {target}: {}",
            error.desc()
        )
    })
}
