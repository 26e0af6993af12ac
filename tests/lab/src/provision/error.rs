//! What the lab could not get, and what the user can do about it.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// The result of everything in [`provision`](super).
pub type Result<T> = std::result::Result<T, Error>;

/// Why a part of the lab could not be provided. Displayed, it is one line: what failed, why, and what to do; only
/// [`Error::Build`] brings the compiler's own output along.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part is neither on this machine nor to be had.
    #[error("cannot get {what}: {why}; {remedy}")]
    Unavailable {
        /// The part.
        what: String,
        /// Why it could not be got.
        why: String,
        /// What the user can do.
        remedy: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}{}", hint(.path, .source))]
    Io {
        /// A verb, as in "cannot create".
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started, failed, or took too long.
    #[error("{program} {outcome}")]
    Command {
        /// The program's name.
        program: String,
        /// How it ended and the last thing it said.
        outcome: String,
    },
    /// A build failed; the compiler's output follows the first line.
    #[error("building {what} failed:\n{log}")]
    Build {
        /// What was to be built.
        what: String,
        /// Everything the build printed.
        log: String,
    },
    /// A file does not hold what it should.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    pub(crate) fn unavailable(what: impl Display, why: impl Display, remedy: impl Display) -> Self {
        let [what, why, remedy] = [what.to_string(), why.to_string(), remedy.to_string()];
        Self::Unavailable { what, why, remedy }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.display().to_string(),
            source,
        }
    }

    pub(crate) fn malformed(path: &Path, problem: impl Display) -> Self {
        Self::Malformed {
            path: path.display().to_string(),
            problem: problem.to_string(),
        }
    }
}

/// What to do about errors in the cache directory that have an answer.
fn hint(path: &str, error: &io::Error) -> &'static str {
    let in_cache = crate::cache::root().is_ok_and(|root| Path::new(path).starts_with(root));
    match error.kind() {
        _ if !in_cache => "",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or set HVRUN_LAB_CACHE to a directory with 3 GB of room"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; set HVRUN_LAB_CACHE to a directory that you may write to"
        }
        _ => "",
    }
}
