//! A dialogue with a process by text.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hv_lab_agent::protocol::{ExitStatus, Stream};

use super::error::{Error, ErrorKind, Result};
use super::logs::printable;
use super::process::Process;

/// How long a process may take to accept input.
const INPUT_TIMEOUT: Duration = Duration::from_secs(60);

/// How many of the last characters an error shows.
const SHOWN: usize = 4000;

/// A process with which a test speaks as a person at a terminal would: wait for a prompt, type a line, look at the
/// answer. All that the process prints is kept in a log file as well.
///
/// Line ends arrive as LF: a terminal's CR LF is made one. What a `wait_…` returned is used up, and the next one looks
/// behind it.
#[derive(Debug)]
pub struct Console {
    process: Process,
    stream: Stream,
    log: PathBuf,
    /// What arrived, from the start.
    transcript: String,
    /// How much of `transcript` was waited for already.
    seen: usize,
    /// Bytes that are not a whole character, or are a CR that may belong to an LF.
    partial: Vec<u8>,
    ended: bool,
    rejected: Vec<String>,
    commands: u32,
}

/// What a command in a guest's shell did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellOutput {
    /// Its exit code.
    pub code: i32,
    /// What it printed, both streams, without white space at the end.
    pub text: String,
}

impl Console {
    pub(super) fn new(process: Process, log: PathBuf) -> Self {
        let stream = match process.has(Stream::Terminal) {
            true => Stream::Terminal,
            false => Stream::Stdout,
        };
        Self {
            process,
            stream,
            log,
            transcript: String::new(),
            seen: 0,
            partial: Vec::new(),
            ended: false,
            rejected: Vec::new(),
            commands: 0,
        }
    }

    /// Lets every later wait fail as soon as this text appears, instead of at its timeout: `Kernel panic`, say.
    #[must_use]
    pub fn reject(mut self, text: &str) -> Self {
        self.rejected.push(text.to_owned());
        self
    }

    /// The process itself, for signals and the like.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Everything that arrived so far.
    #[must_use]
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    /// The file that keeps what the process prints.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits for a text, and returns all up to and with it.
    ///
    /// # Errors
    /// It did not come within `timeout`, or the output ended before, or a rejected text came. The error shows the last
    /// of the output.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<String> {
        self.wait_for_any(&[text], timeout)
            .map(|(_, before)| before)
    }

    /// Waits for the first of several texts to appear; returns which, and all up to and with it.
    ///
    /// # Errors
    /// As [`Console::wait_for`].
    pub fn wait_for_any(&mut self, texts: &[&str], timeout: Duration) -> Result<(usize, String)> {
        let started = Instant::now();
        loop {
            let unseen = self.transcript.get(self.seen..).unwrap_or_default();
            let found = texts.iter().enumerate().filter_map(|(index, text)| {
                let at = unseen.find(text)?;
                Some((at + text.len(), index))
            });
            if let Some((length, index)) = found.min() {
                let before = unseen[..length].to_owned();
                self.seen += length;
                return Ok((index, before));
            }
            let what = || format!("waiting for {}", quoted(texts));
            if let Some(text) = self.rejected.iter().find(|text| unseen.contains(*text)) {
                let message = format!("{}: {text:?} came", what());
                return Err(self.failure(Error::new(ErrorKind::Ended, message)));
            }
            if self.ended {
                let end = match self.process.wait(Duration::from_secs(1)) {
                    Ok(status) => format!("the process ended with {status}"),
                    Err(_) => "the output ended".to_owned(),
                };
                let message = format!("{}: {end}", what());
                return Err(self.failure(Error::new(ErrorKind::Ended, message)));
            }
            let rest = timeout.saturating_sub(started.elapsed());
            match self.process.read(self.stream, rest) {
                Ok(piece) => self.add(&piece),
                Err(error) if error.is_timeout() => {
                    return Err(self.failure(Error::timeout(&what(), timeout)));
                }
                Err(error) => return Err(self.failure(error.in_context(&what()))),
            }
        }
    }

    /// Waits until the process ended and all its output is here; returns what was not seen yet, and how it ended.
    ///
    /// # Errors
    /// It did not end within `timeout`. The error shows the last of the output.
    pub fn wait_for_end(&mut self, timeout: Duration) -> Result<(ExitStatus, String)> {
        let started = Instant::now();
        let rest = || timeout.saturating_sub(started.elapsed());
        while !self.ended {
            match self.process.read(self.stream, rest()) {
                Ok(piece) => self.add(&piece),
                Err(error) => return Err(self.failure(error.in_context("waiting for the end"))),
            }
        }
        let status = (self.process.wait(rest())).map_err(|error| self.failure(error))?;
        let unseen = self.transcript.split_off(self.seen);
        self.transcript += &unseen;
        self.seen = self.transcript.len();
        Ok((status, unseen))
    }

    /// Types a text as it is.
    ///
    /// # Errors
    /// The process takes no input.
    pub fn send(&self, text: &str) -> Result<()> {
        (self.process.write_stdin(text.as_bytes(), INPUT_TIMEOUT))
            .map_err(|error| self.failure(error))
    }

    /// Types a line.
    ///
    /// # Errors
    /// The process takes no input.
    pub fn send_line(&self, line: &str) -> Result<()> {
        self.send(&format!("{line}\n"))
    }

    /// Runs a command in the Bourne shell that waits at the other end, and returns what it printed and its exit code.
    ///
    /// # Errors
    /// It did not end within `timeout`, or the console ended.
    pub fn run(&mut self, command: &str, timeout: Duration) -> Result<ShellOutput> {
        // The shell echoes what is typed. The marks are written so that the echo does not look like
        // what they print; and by `eval` all of it is one line, whatever the command is, so that
        // none of the echo comes in between.
        self.commands += 1;
        let number = self.commands;
        let quoted = command.replace('\'', r"'\''");
        self.send_line(&format!(
            "echo '#'start-{number}'#'; eval '{quoted}'; echo '#'end-{number}-$?'#'"
        ))?;
        self.wait_for(&format!("#start-{number}#\n"), timeout)?;
        let mark = format!("#end-{number}-");
        let mut text = self.wait_for(&mark, timeout)?;
        let code = self.wait_for("#", timeout)?;
        text.truncate(text.len() - mark.len());
        let code = code.trim_end_matches('#').parse().map_err(|_| {
            let message = format!("`{command}`: the shell says {code:?} for its exit code");
            self.failure(Error::new(ErrorKind::Ended, message))
        })?;
        Ok(ShellOutput {
            code,
            text: text.trim_end().to_owned(),
        })
    }

    fn add(&mut self, piece: &[u8]) {
        self.ended = piece.is_empty();
        self.partial.extend_from_slice(piece);
        let mut whole = self.partial.len();
        if !self.ended {
            whole = match std::str::from_utf8(&self.partial) {
                // Wrong bytes inside are replaced; only a character that is cut off at the end has to wait.
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => whole,
            };
            if self
                .partial
                .get(..whole)
                .is_some_and(|bytes| bytes.ends_with(b"\r"))
            {
                whole -= 1;
            }
        }
        let bytes: Vec<u8> = self.partial.drain(..whole).collect();
        self.transcript += &String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
    }

    fn failure(&self, error: Error) -> Error {
        let start = self.transcript.len().saturating_sub(SHOWN);
        let shown = self.transcript.ceil_char_boundary(start);
        let shown = printable(self.transcript.get(shown..).unwrap_or_default().as_bytes());
        let error = error.with_details(&format!("end of {}", self.log.display()), &shown);
        error.with_logs(self.process.logs())
    }
}

fn quoted(texts: &[&str]) -> String {
    texts
        .iter()
        .map(|text| format!("{text:?}"))
        .collect::<Vec<_>>()
        .join(" or ")
}
