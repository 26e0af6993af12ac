//! A process that the server runs: its streams with their credits, and its end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;
use nix::unistd::Pid;

use super::{retry, spawn};
use crate::protocol::{Event, MAX_DATA, Request, Spawn, Stream, WINDOW};

pub(super) struct Process {
    pid: Pid,
    /// Until the end was reported.
    pidfd: Option<OwnedFd>,
    terminal: Option<File>,
    input: Option<Input>,
    outputs: Vec<Output>,
    released: bool,
}

/// What the process is still to read.
struct Input {
    file: File,
    /// Bounded by the credit that the controller has: [`WINDOW`].
    pending: VecDeque<u8>,
    /// Close the file once everything is written.
    ending: bool,
}

/// What the process writes.
struct Output {
    stream: Stream,
    file: File,
    credit: u32,
}

impl Process {
    /// Starts a process.
    pub(super) fn start(wanted: &Spawn) -> Result<Self, String> {
        let started = spawn::start(wanted)?;
        Ok(Self {
            pid: started.pid,
            pidfd: Some(started.pidfd),
            terminal: started.terminal,
            input: started.input.map(|file| Input {
                file,
                pending: VecDeque::new(),
                ending: false,
            }),
            outputs: (started.outputs.into_iter())
                .map(|(stream, file)| Output {
                    stream,
                    file,
                    credit: WINDOW,
                })
                .collect(),
            released: false,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// The descriptor that tells the end of the process, unless it ended.
    pub(super) fn exit_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The input and what to wait for. With nothing to write that is only the process closing its end, which poll
    /// reports unasked.
    pub(super) fn input_fd(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let input = self.input.as_ref()?;
        match input.pending.is_empty() {
            false => Some((input.file.as_fd(), PollFlags::POLLOUT)),
            // A terminal without processes reports a hang-up without end, and its output tells that, too.
            true if self.terminal.is_some() => None,
            true => Some((input.file.as_fd(), PollFlags::empty())),
        }
    }

    /// The outputs that may be read. One without credit is left out altogether: poll would report its hang-up, which
    /// is not to be taken before the data ahead of it, again and again.
    pub(super) fn output_fds(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        (self.outputs.iter())
            .filter(|output| output.credit > 0)
            .map(|output| (output.stream, output.file.as_fd()))
    }

    /// Notes that the process ended and was waited for.
    pub(super) fn ended(&mut self) {
        self.pidfd = None;
    }

    pub(super) fn is_released(&self) -> bool {
        self.released
    }

    /// Whether there is nothing more to say about the process.
    pub(super) fn is_over(&self) -> bool {
        self.pidfd.is_none() && self.outputs.is_empty()
    }

    /// Kills the process and its group, unless it ended.
    pub(super) fn kill_group(&self) {
        if self.pidfd.is_some() {
            // It may have ended by now, and its group with it; then there is nobody to kill.
            let _ = nix::sys::signal::killpg(self.pid, nix::sys::signal::SIGKILL);
        }
    }

    /// Carries out a request that is about a process.
    pub(super) fn request(&mut self, request: Request) -> Option<Event> {
        match request {
            Request::Input(data) => match &mut self.input {
                Some(input) => {
                    input.pending.extend(data);
                    self.write_input(PollFlags::POLLOUT)
                }
                // The controller hears of it when the input is closed; this crossed that news.
                None => None,
            },
            Request::EndInput => {
                if let Some(input) = &mut self.input {
                    input.ending = true;
                }
                self.write_input(PollFlags::POLLOUT)
            }
            Request::Credit(stream, bytes) => {
                if let Some(output) = self
                    .outputs
                    .iter_mut()
                    .find(|output| output.stream == stream)
                {
                    output.credit = output.credit.saturating_add(bytes);
                }
                None
            }
            Request::CloseOutput(stream) => {
                let before = self.outputs.len();
                self.outputs.retain(|output| output.stream != stream);
                (self.outputs.len() < before).then_some(Event::EndOutput(stream))
            }
            Request::Signal(signal) => {
                if self.pidfd.is_some() {
                    // SAFETY: the call takes two integers. The process was not waited for, so the id is its own.
                    let result = unsafe { libc::kill(self.pid.as_raw(), signal) };
                    if result == -1 {
                        eprintln!(
                            "agent: signal {signal} not sent: {}",
                            io::Error::last_os_error()
                        );
                    }
                }
                None
            }
            Request::Resize(size) => {
                if let Some(terminal) = &self.terminal
                    && let Err(error) = spawn::resize(terminal, size)
                {
                    eprintln!("agent: window size not set: {error}");
                }
                None
            }
            Request::Release => {
                self.kill_group();
                self.released = true;
                self.terminal = None;
                self.input = None;
                self.outputs.clear();
                None
            }
            Request::Spawn(_) | Request::Mount(_) | Request::PowerOff => None,
        }
    }

    /// Writes input as far as the process takes it, and gives the credit for that back.
    pub(super) fn write_input(&mut self, ready: PollFlags) -> Option<Event> {
        let input = self.input.as_mut()?;
        let mut written = 0_u32;
        let mut closed = ready.contains(PollFlags::POLLERR);
        while !closed && !input.pending.is_empty() {
            let (bytes, _) = input.pending.as_slices();
            match input.file.write(bytes) {
                Ok(count) => {
                    input.pending.drain(..count);
                    written = written.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                }
                Err(error) if retry(&error) => break,
                Err(_) => closed = true,
            }
        }
        if closed {
            self.input = None;
            return Some(Event::InputClosed);
        }
        if input.ending && input.pending.is_empty() {
            self.input = None;
        }
        (written > 0).then_some(Event::InputCredit(written))
    }

    /// Reads output as far as there is credit for it.
    pub(super) fn read_output(&mut self, stream: Stream) -> Option<Event> {
        let index = self
            .outputs
            .iter()
            .position(|output| output.stream == stream)?;
        let output = self.outputs.get_mut(index)?;
        let room = usize::try_from(output.credit)
            .unwrap_or(MAX_DATA)
            .min(MAX_DATA);
        let mut data = vec![0; room];
        match output.file.read(&mut data) {
            Ok(count) if count > 0 => {
                data.truncate(count);
                output.credit = output
                    .credit
                    .saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
                Some(Event::Output(stream, data))
            }
            Err(error) if retry(&error) => None,
            // The end of a pipe is 0 bytes, that of a terminal EIO.
            _ => {
                self.outputs.swap_remove(index);
                Some(Event::EndOutput(stream))
            }
        }
    }
}
