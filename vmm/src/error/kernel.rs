//! Why a kernel cannot be booted.

use std::io;

use super::file_problem;

/// What is wrong with a kernel file.
#[derive(Debug, thiserror::Error)]
pub enum KernelProblem {
    /// It cannot be opened, or is no file.
    #[error("{0}")]
    Open(String),
    /// It cannot be read.
    #[error("{}", file_problem(.0))]
    Io(io::Error),
    /// It is no kernel for this guest.
    #[error(transparent)]
    File(#[from] hv_core::kernel::Problem),
}

impl From<io::Error> for KernelProblem {
    fn from(error: io::Error) -> KernelProblem {
        KernelProblem::Io(error)
    }
}
