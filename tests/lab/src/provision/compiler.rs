//! A C compiler for riscv64, which links hvrun and builds kernels.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::run::{run, which};
use super::tools::native_tools;

/// The prefix of the compiler's programs.
pub(super) const PREFIX: &str = "riscv64-linux-gnu-";

/// The directory to put on `PATH` for the compiler and its binutils; `None` if they are there already.
///
/// # Errors
/// When there is none on `PATH` and Debian's packages cannot be had.
pub(super) fn cross_compiler() -> Result<Option<PathBuf>> {
    if which("riscv64-linux-gnu-gcc").is_some_and(|gcc| links_statically(&gcc)) {
        return Ok(None);
    }
    let packages = ["gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"];
    native_tools("gcc", "C compiler for riscv64", &packages).map(Some)
}

/// Whether the compiler has a static C library: it is a package of its own, which an installed compiler can lack. gcc
/// answers with the bare name for what it does not find.
fn links_statically(gcc: &Path) -> bool {
    run(Command::new(gcc).arg("-print-file-name=libc.a"))
        .is_ok_and(|path| Path::new(path.trim()).is_absolute())
}
