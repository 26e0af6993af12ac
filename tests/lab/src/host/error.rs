//! What goes wrong around a nested host.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::logs::Logs;

/// What kind of thing went wrong, for tests that expect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something that the lab needs could not be had: a program, a kernel, the cross build.
    Setup,
    /// The nested host did not come up, or ended.
    Host,
    /// The nested host refused a request, such as to start a program that is not there.
    Refused,
    /// What was waited for did not happen in time.
    Timeout,
    /// A stream ended before what was waited for came.
    Ended,
}

/// An error of the lab, with everything a person needs to find the cause: what was waited for, the last output, and
/// where the logs lie.
///
/// Its `Debug` is the same text as its `Display`, because that is what a test which ends with an error prints.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    summary: String,
    details: String,
    logs: Option<PathBuf>,
}

/// The result of what the lab does.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn new(kind: ErrorKind, summary: impl Into<String>) -> Self {
        Self {
            kind,
            summary: summary.into(),
            details: String::new(),
            logs: None,
        }
    }

    /// Something did not happen within `after`.
    pub(super) fn timeout(what: &str, after: Duration) -> Self {
        let seconds = after.as_secs_f64();
        Self::new(
            ErrorKind::Timeout,
            format!("{what}: not within {seconds} s"),
        )
    }

    /// Adds what the host's logs say at their ends, once.
    pub(super) fn with_logs(mut self, logs: &Logs) -> Self {
        if self.logs.is_none() {
            self.details += &logs.ends();
            self.logs = Some(logs.directory().to_owned());
        }
        self
    }

    /// Adds a part below the summary.
    pub(super) fn with_details(mut self, title: &str, text: &str) -> Self {
        self.details += &format!("\n--- {title}:\n{}", text.trim_end());
        self
    }

    /// Says what the error means to whoever called.
    pub(super) fn in_context(mut self, context: &str) -> Self {
        self.summary = format!("{context}: {}", self.summary);
        self
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether something did not happen in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind == ErrorKind::Timeout
    }

    /// What went wrong, without the details.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// The directory with the logs of the host that this is about.
    #[must_use]
    pub fn logs(&self) -> Option<&Path> {
        self.logs.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.summary, self.details)?;
        match &self.logs {
            Some(logs) => write!(f, "\n--- logs: {}", logs.display()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}
