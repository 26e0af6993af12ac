//! Processes in the nested host.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hv_lab_agent::protocol::{
    ExitStatus, MAX_DATA, Request, Spawn, Stdio, Stream, WINDOW, WindowSize,
};

use super::channel::{Channel, Output, Task, TaskState};
use super::console::Console;
use super::error::{Error, ErrorKind, Result};
use super::logs::Logs;

/// How long the nested host may take to answer a request.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How much output of a process waits to be taken before the process itself has to wait, unless set otherwise.
const OUTPUT_LIMIT: usize = 64 * 1024 * 1024;

/// A process to run in the nested host, from [`Host::exec`](super::Host::exec).
///
/// Unless set otherwise it has `/dev/null` as standard input, its two outputs are pipes, it runs as root in `/`, and its
/// environment holds nothing but `PATH`, `HOME` and `TERM`.
#[derive(Debug, Clone)]
pub struct Exec {
    channel: Channel,
    spawn: Spawn,
    output_limit: usize,
}

impl Exec {
    pub(super) fn new(channel: Channel, argv: Vec<String>) -> Self {
        let env = [
            ("PATH", "/bin:/sbin:/usr/bin:/usr/sbin"),
            ("HOME", "/"),
            ("TERM", "vt100"),
        ];
        Self {
            channel,
            spawn: Spawn {
                argv,
                env: env.map(|(name, value)| (name.into(), value.into())).into(),
                cwd: "/".into(),
                stdio: [Stdio::Null, Stdio::Pipe, Stdio::Pipe],
                ..Spawn::default()
            },
            output_limit: OUTPUT_LIMIT,
        }
    }

    /// Adds a further argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.spawn.argv.push(argument.into());
        self
    }

    /// Adds further arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.spawn
            .argv
            .extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.spawn.env.retain(|(there, _)| there != name);
        self.spawn.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, path: &str) -> Self {
        self.spawn.cwd = path.into();
        self
    }

    /// Changes the root directory, before the working directory is looked up.
    #[must_use]
    pub fn root(mut self, path: &str) -> Self {
        self.spawn.root = Some(path.into());
        self
    }

    /// Runs as this user and group, without supplementary groups.
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.spawn.user = Some((user, group));
        self
    }

    /// Has the kernel refuse the process and its children this request of ioctl(2), with this error number. They gain no
    /// privileges by exec then.
    #[must_use]
    pub fn refuse_ioctl(mut self, request: u32, errno: i32) -> Self {
        let errno = u16::try_from(errno).unwrap_or(0);
        self.spawn.refused_ioctls.push((request, errno));
        self
    }

    /// Gives the process a terminal of this size for all three streams. What it writes arrives on
    /// [`Stream::Terminal`].
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.spawn.terminal = Some(WindowSize { rows, columns });
        self.spawn.stdio = [Stdio::Terminal, Stdio::Terminal, Stdio::Terminal];
        self
    }

    /// Sets standard input.
    #[must_use]
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.spawn.stdio[0] = stdio;
        self
    }

    /// Sets standard output.
    #[must_use]
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.spawn.stdio[1] = stdio;
        self
    }

    /// Sets standard error.
    #[must_use]
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.spawn.stdio[2] = stdio;
        self
    }

    /// How many bytes of each output may wait here to be taken. Beyond that the process has to wait when it writes, as
    /// with any pipe that nobody reads.
    #[must_use]
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Starts the process.
    ///
    /// # Errors
    /// The program cannot be run, or the nested host is gone.
    pub fn spawn(self) -> Result<Process> {
        self.spawn_logged(None)
    }

    /// Starts the process for a dialogue by text, on a terminal of 24 lines of 80 characters if it was not given any
    /// other standard input. See [`Console`].
    ///
    /// # Errors
    /// The program cannot be run, or the nested host is gone.
    pub fn console(self) -> Result<Console> {
        let exec = match self.spawn.stdio[0] {
            Stdio::Null => self.terminal(24, 80),
            _ => self,
        };
        let path = exec.channel.logs().console();
        let log = File::create(&path).map_err(|error| {
            Error::new(ErrorKind::Setup, format!("{}: {error}", path.display()))
        })?;
        Ok(Console::new(exec.spawn_logged(Some(log))?, path))
    }

    /// Runs the process to its end with nothing (more) to read, and gives all its output.
    ///
    /// # Errors
    /// The program cannot be run, it takes longer than `timeout` (then it is killed), or the nested host is gone.
    pub fn output(self, timeout: Duration) -> Result<FinishedProcess> {
        self.spawn()?.finish(timeout)
    }

    /// Like [`Exec::output`], for a process that is to end with exit code 0.
    ///
    /// # Errors
    /// As [`Exec::output`]; and if it ends in any other way, with what it printed.
    pub fn check(self, timeout: Duration) -> Result<FinishedProcess> {
        let command = self.spawn.argv.join(" ");
        let finished = self.output(timeout)?;
        match finished.status.success() {
            true => Ok(finished),
            false => {
                let message = format!("`{command}` ended with {}", finished.status);
                Err(Error::new(ErrorKind::Refused, message)
                    .with_details("its output", &finished.to_string()))
            }
        }
    }

    fn spawn_logged(self, mut log: Option<File>) -> Result<Process> {
        let mut state = TaskState {
            input_credit: WINDOW,
            input_closed: !matches!(self.spawn.stdio[0], Stdio::Pipe | Stdio::Terminal),
            ..TaskState::default()
        };
        if self.spawn.terminal.is_some() {
            let output = Output::new(self.output_limit, log.take());
            state.outputs.insert(Stream::Terminal, output);
        }
        for (stream, stdio) in [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .zip(&self.spawn.stdio[1..])
        {
            if *stdio == Stdio::Pipe {
                state
                    .outputs
                    .insert(stream, Output::new(self.output_limit, log.take()));
            }
        }
        let command = self.spawn.argv.join(" ");
        let streams = state.outputs.keys().copied().collect();
        let task = self
            .channel
            .begin(&Request::Spawn(Box::new(self.spawn)), state)?;
        let mut process = Process {
            channel: self.channel,
            task,
            command,
            streams,
            pid: 0,
        };
        let what = format!("the start of `{}`", process.command);
        process.pid = process
            .channel
            .wait_answer(&process.task, &what, ANSWER_TIMEOUT)?;
        Ok(process)
    }
}

/// A process of the nested host. Dropping it kills the process, and its process group with it.
#[derive(Debug)]
pub struct Process {
    channel: Channel,
    task: Arc<Task>,
    command: String,
    streams: Vec<Stream>,
    pid: u32,
}

/// How a process ended and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedProcess {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output, if a pipe.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, if a pipe.
    pub stderr: Vec<u8>,
    /// What came from its terminal, if it had one.
    pub terminal: Vec<u8>,
}

impl FinishedProcess {
    /// Standard output as text, without white space at its end.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without white space at its end.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }
}

impl std::fmt::Display for FinishedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, data) in [
            ("stdout", &self.stdout),
            ("stderr", &self.stderr),
            ("terminal", &self.terminal),
        ] {
            if !data.is_empty() {
                writeln!(f, "[{name}]\n{}", super::logs::printable(data).trim_end())?;
            }
        }
        Ok(())
    }
}

impl Process {
    /// The process id within the nested host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The logs of the host that it runs in.
    pub(super) fn logs(&self) -> &Logs {
        self.channel.logs()
    }

    /// Whether the process has this output: a pipe of its own for it, or a terminal.
    #[must_use]
    pub fn has(&self, stream: Stream) -> bool {
        self.streams.contains(&stream)
    }

    /// Writes to standard input, or rather hands over the bytes for it: the process takes them when it likes.
    ///
    /// # Errors
    /// The process does not take input, stopped taking it ([`ErrorKind::Ended`]), or did not take enough of it in
    /// `timeout`.
    pub fn write_stdin(&self, mut bytes: &[u8], timeout: Duration) -> Result<()> {
        let what = format!("input for `{}`", self.command);
        let started = Instant::now();
        while !bytes.is_empty() {
            let rest = timeout.saturating_sub(started.elapsed());
            let wanted = bytes.len().min(MAX_DATA);
            let room = self.channel.wait(&self.task, &what, rest, |state| {
                if state.input_closed || state.status.is_some() {
                    return Some(0);
                }
                let room = u32::try_from(wanted)
                    .unwrap_or(u32::MAX)
                    .min(state.input_credit);
                state.input_credit -= room;
                (room > 0).then_some(room)
            })?;
            if room == 0 {
                let message = format!("`{}` takes no input", self.command);
                return Err(Error::new(ErrorKind::Ended, message));
            }
            let (now, later) = bytes.split_at(wanted.min(usize::try_from(room).unwrap_or(wanted)));
            self.channel
                .send(self.task.id(), &Request::Input(now.to_vec()))?;
            bytes = later;
        }
        Ok(())
    }

    /// Ends standard input, behind what was written. Has no effect on a terminal.
    ///
    /// # Errors
    /// The nested host is gone.
    pub fn close_stdin(&self) -> Result<()> {
        self.channel.send(self.task.id(), &Request::EndInput)
    }

    /// Closes an output, as when the reader of a pipe goes away: the process finds that when it writes.
    ///
    /// # Errors
    /// The nested host is gone.
    pub fn close_output(&self, stream: Stream) -> Result<()> {
        self.channel
            .send(self.task.id(), &Request::CloseOutput(stream))
    }

    /// Sends a signal to the process, by its number (for example [`libc::SIGTERM`]). Nothing happens if it has ended.
    ///
    /// # Errors
    /// The nested host is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.channel.send(self.task.id(), &Request::Signal(signal))
    }

    /// Changes the size of the process's terminal; the process is told by SIGWINCH.
    ///
    /// # Errors
    /// The nested host is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = WindowSize { rows, columns };
        self.channel.send(self.task.id(), &Request::Resize(size))
    }

    /// How the process ended, if it has.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.wait(Duration::ZERO).ok()
    }

    /// Waits for the process's end. Its output need not be taken meanwhile, as long as it is not more than
    /// [`Exec::output_limit`].
    ///
    /// # Errors
    /// It did not end within `timeout`, or the nested host is gone. The process is left as it is.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("the end of `{}`", self.command);
        self.channel
            .wait(&self.task, &what, timeout, |state| state.status)
    }

    /// Waits for output and takes what is there; an empty piece is the end.
    ///
    /// # Errors
    /// No output came within `timeout`, or the nested host is gone.
    pub fn read(&self, stream: Stream, timeout: Duration) -> Result<Vec<u8>> {
        let what = format!("output of `{}`", self.command);
        self.channel.wait(&self.task, &what, timeout, |state| {
            // A stream that the process does not have has ended.
            let Some(output) = state.outputs.get_mut(&stream) else {
                return Some(Vec::new());
            };
            (output.ended || !output.data.is_empty()).then(|| output.data.drain(..).collect())
        })
    }

    /// Takes all output up to its end, which comes when nobody can write to it any more: if the process left children
    /// behind, with the last of those.
    ///
    /// # Errors
    /// The end did not come within `timeout`, or the nested host is gone.
    pub fn read_to_end(&self, stream: Stream, timeout: Duration) -> Result<Vec<u8>> {
        let started = Instant::now();
        let mut all = Vec::new();
        loop {
            let piece = self.read(stream, timeout.saturating_sub(started.elapsed()))?;
            if piece.is_empty() {
                return Ok(all);
            }
            all.extend(piece);
        }
    }

    /// Ends standard input, waits for the process and gives all output that was not taken yet.
    ///
    /// # Errors
    /// It did not end within `timeout` (the error shows what it printed until then, and it is killed), or the nested
    /// host is gone.
    pub fn finish(self, timeout: Duration) -> Result<FinishedProcess> {
        let started = Instant::now();
        let rest = || timeout.saturating_sub(started.elapsed());
        self.close_stdin()?;
        // The outputs come in turn, but each only has to be there at the end.
        let mut take = |stream| -> (Vec<u8>, Option<Error>) {
            let mut all = Vec::new();
            loop {
                match self.read(stream, rest()) {
                    Ok(piece) if piece.is_empty() => return (all, None),
                    Ok(piece) => all.extend(piece),
                    Err(error) => return (all, Some(error)),
                }
            }
        };
        let outputs = [Stream::Stdout, Stream::Stderr, Stream::Terminal].map(&mut take);
        let [(stdout, first), (stderr, second), (terminal, third)] = outputs;
        let finished = |status| FinishedProcess {
            status,
            stdout,
            stderr,
            terminal,
        };
        match (first.or(second).or(third), self.wait(rest())) {
            (None, Ok(status)) => Ok(finished(status)),
            (Some(error), _) | (None, Err(error)) => {
                let printed = finished(ExitStatus::Signal(libc::SIGKILL)).to_string();
                Err(error.with_details("its output until then", &printed))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without a host there is nothing to release.
        let _ = self.channel.send(self.task.id(), &Request::Release);
        self.channel.forget(&self.task);
    }
}

/// A path as the text that goes into an argument.
///
/// # Errors
/// The path is not UTF-8.
pub(super) fn path_text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("the path {} is not UTF-8", path.display());
        Error::new(ErrorKind::Setup, message)
    })
}
