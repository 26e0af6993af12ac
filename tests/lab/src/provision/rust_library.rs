//! Rust's standard library for a riscv64 target, in the first of several ways that works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::apt::{self, Package, Suite};
use super::cross::{Target, workspace};
use super::run::{finish, run, which};
use super::tools::Recipe;
use super::{Error, Result, STABLE, progress};
use crate::cache::{self, create_dir};

/// How the standard library for a [`Target`] is had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RustLibrary {
    /// Compiled, in the toolchain.
    Installed,
    /// As source, to be compiled along: the toolchain's own, or the directory `library` of a tree of the same version.
    Source(Option<PathBuf>),
}

/// A download by rustup takes seconds; a longer silence means that it has no way out.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// Finds the standard library, or gets it: by `rustup target add`, else as source from the toolchain or from Debian.
pub(super) fn rust_library(target: Target) -> Result<RustLibrary> {
    let sysroot = PathBuf::from(run(rustc().args(["--print", "sysroot"]))?.trim());
    if is_installed(&sysroot, target) {
        return Ok(RustLibrary::Installed);
    }
    let version = version()?;
    let remedy = format!("run: rustup target add {}", target.triple());
    let packaged = |suite| packaged(suite, &remedy);
    let cached = |suite: &&&'static str| packaged(suite).is_cached(&[&version]).unwrap_or(false);
    if let Some(suite) = SUITES.iter().find(cached) {
        // rustup failed before, and would now only cost time.
        return source(&packaged(suite), &version);
    }
    if add_target(&sysroot, target)? {
        return Ok(RustLibrary::Installed);
    }
    if sysroot
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .is_file()
    {
        return Ok(RustLibrary::Source(None));
    }
    let mut last = None;
    for suite in SUITES {
        match source(&packaged(suite), &version) {
            Ok(library) => return Ok(library),
            Err(error) => {
                let offline = apt::is_unreachable(&error);
                last = Some(error);
                if offline {
                    break;
                }
            }
        }
    }
    let why = last.map_or_else(String::new, |error| format!(" ({error})"));
    let why = format!(
        "rustup did not add it, and none of Debian's suites has the source of Rust {version}{why}"
    );
    Err(Error::unavailable(
        "Rust's standard library for riscv64",
        why,
        &remedy,
    ))
}

fn packaged<'a>(suite: &'static str, remedy: &'a str) -> Recipe<'a> {
    Recipe {
        entry: "rust-src",
        title: "Rust's library source",
        remedy,
        suite: Some(suite),
        arch: None,
    }
}

/// Where Debian's `rust-src` of one particular version may be, likeliest first.
const SUITES: [&str; 6] = [
    "trixie-backports",
    "sid",
    "testing",
    STABLE,
    "bookworm-backports",
    "bookworm",
];

/// The compiler that cargo takes in the workspace: rustup's `rustc` and `rustup` choose a toolchain by the directory.
fn rustc() -> Command {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(workspace());
    rustc
}

/// The version in "rustc 1.95.0 (59807616e 2026-04-14)".
fn version() -> Result<String> {
    let answer = run(rustc().arg("--version"))?;
    let version = answer.split_whitespace().nth(1).map(str::to_owned);
    version.ok_or_else(|| {
        Error::malformed(
            Path::new("rustc"),
            "does not answer --version as rustc does",
        )
    })
}

fn is_installed(sysroot: &Path, target: Target) -> bool {
    let library = sysroot.join("lib/rustlib").join(target.triple());
    let entries = fs::read_dir(library.join("lib"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Has rustup add the target to the toolchain in use, and returns whether it is there then. That rustup fails is an
/// expected answer: not every toolchain is rustup's, and not every machine reaches its server.
fn add_target(sysroot: &Path, target: Target) -> Result<bool> {
    if which("rustup").is_none() || offline() {
        return Ok(false);
    }
    let root = cache::root()?;
    create_dir(&root)?;
    let _lock = cache::lock(&root.join(".rustup.lock"), "Rust for riscv64")?;
    if is_installed(sysroot, target) {
        return Ok(true);
    }
    let step = progress::step("Rust for riscv64", "rustup target add");
    let mut add = Command::new("rustup");
    add.args(["target", "add", target.triple()])
        .current_dir(workspace());
    let finished = finish(&mut add, RUSTUP_LIMIT, || step.update("rustup target add"));
    let failure = finished.and_then(|finished| finished.check(&add)).err();
    let added = is_installed(sysroot, target);
    match failure {
        _ if added => step.done("added to the toolchain by rustup"),
        Some(error) => step.done(format_args!("{error}; trying another way")),
        None => step.done("rustup did not add it; trying another way"),
    }
    Ok(added)
}

/// Whether cargo is told to keep off the network, by the variable for its setting `net.offline`.
fn offline() -> bool {
    std::env::var("CARGO_NET_OFFLINE").is_ok_and(|value| value == "true")
}

fn source(recipe: &Recipe, version: &str) -> Result<RustLibrary> {
    let select = |suite: &Suite| -> Result<Vec<Package>> {
        let versions = suite.versions("rust-src")?;
        match versions
            .iter()
            .find(|candidate| is_version(candidate, version))
        {
            Some(candidate) => suite.packages(&[format!("rust-src={candidate}")]),
            None => Ok(Vec::new()),
        }
    };
    let tree = recipe.tree(&[version], select, keep_library)?;
    Ok(RustLibrary::Source(Some(tree.join("library"))))
}

/// Whether `packaged`, such as `1.95.0+dfsg1-2~bpo13+1`, is Debian's packaging of `version`.
fn is_version(packaged: &str, version: &str) -> bool {
    packaged
        .strip_prefix(version)
        .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
}

/// Leaves of a tree of `rust-src` only the library, which is a tenth of it.
fn keep_library(tree: &Path) -> Result<()> {
    let sources = tree.join("usr/src");
    let library = fs::read_dir(&sources)
        .map_err(|error| Error::io("read", &sources, error))?
        .flatten()
        .map(|entry| entry.path().join("library"))
        .find(|library| library.join("Cargo.lock").is_file())
        .ok_or_else(|| Error::malformed(&sources, "has no library of Rust"))?;
    let kept = tree.join("library");
    fs::rename(&library, &kept).map_err(|error| Error::io("move", &library, error))?;
    cache::remove_tree(&tree.join("usr"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_version_will_do() {
        assert!(is_version("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(is_version("1.95.0-1", "1.95.0"));
        assert!(!is_version("1.95.01-1", "1.95.0"));
        assert!(!is_version("1.96.1+dfsg1-2", "1.95.0"));
        assert!(!is_version("1.97.0~beta.1-1", "1.97.0-nightly"));
    }
}
