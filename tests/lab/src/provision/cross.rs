//! The workspace's own programs, built for riscv64.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::compiler::{PREFIX, cross_compiler};
use super::run::{self, finish, run};
use super::rust_library::{RustLibrary, rust_library};
use super::{Error, Result, progress};

/// What programs are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// Linux: hvrun and the lab's own programs.
    Linux,
    /// No system: guests.
    Guest,
    /// No system: the bare-metal hypervisor. Without floating point, as those registers are its guests'.
    Hypervisor,
}

/// How the bare-metal hypervisor is compiled: it moves itself to where its guests want no memory.
const HYPERVISOR_FLAGS: &str = "-Crelocation-model=pie";

impl Target {
    /// Its name in Rust.
    pub(super) const fn triple(self) -> &'static str {
        match self {
            Self::Linux => "riscv64gc-unknown-linux-gnu",
            Self::Guest => "riscv64gc-unknown-none-elf",
            Self::Hypervisor => "riscv64imac-unknown-none-elf",
        }
    }

    /// The libraries that are compiled along where the toolchain does not bring them.
    const fn libraries(self) -> &'static str {
        match self {
            Self::Linux => "-Zbuild-std=std,panic_abort",
            Self::Guest | Self::Hypervisor => "-Zbuild-std=core,alloc",
        }
    }

    /// How it is compiled.
    const fn flags(self) -> &'static str {
        match self {
            Self::Linux => "-Ctarget-feature=+crt-static",
            Self::Guest => "",
            Self::Hypervisor => HYPERVISOR_FLAGS,
        }
    }
}

/// Builds `bin` of the workspace's `package` for riscv64 Linux as a static release binary, and returns its path.
///
/// It is built anew whenever its sources changed, as cargo does; within one process only once. The target directory is
/// `lab` in the workspace's own, so that a surrounding cargo does not hold its lock.
///
/// # Errors
/// When the C compiler or Rust's standard library for the target cannot be had, or when the build fails.
pub fn cross_build(package: &str, bin: &str) -> Result<PathBuf> {
    build_once(Target::Linux, package, Program::Bin(bin))
}

/// As [`cross_build`], of one of the package's examples.
///
/// # Errors
/// As [`cross_build`].
pub fn cross_build_example(package: &str, example: &str) -> Result<PathBuf> {
    build_once(Target::Linux, package, Program::Example(example))
}

/// As [`cross_build`], with the names of functions in it, at a path of its own.
///
/// # Errors
/// As [`cross_build`], or it cannot be copied there.
pub fn cross_build_with_names(package: &str, bin: &str) -> Result<PathBuf> {
    let config = format!("profile.release.package.{package}.strip=false");
    let more = ["--config", &config];
    let built = build(Target::Linux, package, Program::Bin(bin), &more)?;
    let named = built.with_file_name(format!("{bin}-with-names"));
    std::fs::copy(&built, &named).map_err(|error| Error::io("write", &named, error))?;
    Ok(named)
}

/// Builds the lab's plugin for QEMU, for this machine, and returns its path.
///
/// # Errors
/// When the build fails.
pub fn profile_plugin() -> Result<PathBuf> {
    let target_dir = target_directory()?.join("lab");
    let mut cargo = cargo();
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "hv-lab-profile",
    ]);
    cargo.arg("--target-dir").arg(&target_dir);
    run(&mut cargo)?;
    Ok(target_dir.join("release/libhv_lab_profile.so"))
}

/// How code is compiled that tells libFuzzer what it reaches: what LLVM's `-fsanitize=fuzzer-no-link` does, without a sanitizer, which
/// only nightly toolchains have.
const FUZZER_FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Builds the fuzzer, for this machine, and returns its path. It contains libFuzzer, which the system's C++ compiler compiles.
///
/// # Errors
/// When the build fails.
pub fn fuzzer() -> Result<PathBuf> {
    let version = run(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let unexpected = || Error::malformed(Path::new("rustc -vV"), "does not name the host");
    let host = host.ok_or_else(unexpected)?;
    let target_dir = target_directory()?.join("lab/fuzz");
    let mut cargo = cargo();
    cargo.args(["build", "--locked", "--profile", "fuzz"]);
    cargo.args(["--package", "hv-fuzz", "--features", "libfuzzer"]);
    cargo.args(["--bin", "fuzz"]);
    // With a target, build scripts and macros are compiled without these flags.
    cargo.args(["--target", host]).arg("--target-dir");
    cargo.arg(&target_dir);
    cargo
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FUZZER_FLAGS);
    finish_cargo(&mut cargo, "fuzzer", "building", "Compiling", "built")?;
    Ok(target_dir.join(host).join("fuzz/fuzz"))
}

/// Builds the test kernel, an ELF file for S-mode of the board, and returns its path.
///
/// # Errors
/// As [`cross_build`].
pub fn test_kernel() -> Result<PathBuf> {
    let program = Program::Bin("testkernel");
    build_once(Target::Guest, "hv-testkernel", program)
}

/// Builds the bare-metal hypervisor, an ELF file that firmware enters in HS-mode, and returns its path.
///
/// # Errors
/// As [`cross_build`].
pub fn bare_hypervisor() -> Result<PathBuf> {
    build_once(Target::Hypervisor, "hv-bare", Program::Bin("hv-bare"))
}

/// Which program of a package.
#[derive(Debug, Clone, Copy)]
enum Program<'a> {
    Bin(&'a str),
    Example(&'a str),
}

impl<'a> Program<'a> {
    fn name(self) -> &'a str {
        let (Self::Bin(name) | Self::Example(name)) = self;
        name
    }

    /// How cargo is told of it.
    fn flag(self) -> &'static str {
        match self {
            Self::Bin(_) => "--bin",
            Self::Example(_) => "--example",
        }
    }
}

fn build_once(target: Target, package: &str, program: Program<'_>) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<(Target, String, String), PathBuf>> = Mutex::new(BTreeMap::new());
    // One build at a time: cargo would have the others wait anyway.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (target, package.to_owned(), program.name().to_owned());
    if let Some(path) = built.get(&key) {
        return Ok(path.clone());
    }
    let path = build(target, package, program, &[])?;
    built.insert(key, path.clone());
    Ok(path)
}

/// Has clippy look through the programs that no other target compiles, the bare-metal hypervisor and the test kernel. Warnings are
/// errors.
///
/// # Errors
/// [`Error::Build`] with what clippy said; otherwise as [`cross_build`].
pub fn clippy() -> Result<()> {
    let target_dir = target_directory()?.join("lab");
    for (target, package, bin) in [
        (Target::Hypervisor, "hv-bare", "hv-bare"),
        (Target::Guest, "hv-testkernel", "testkernel"),
    ] {
        let mut cargo = cargo_for(target, "clippy", package, Program::Bin(bin), &target_dir)?;
        cargo.args(["--", "--deny", "warnings"]);
        finish_cargo(
            &mut cargo,
            &format!("{bin} by clippy"),
            "checking",
            "Checking",
            "checked",
        )?;
    }
    Ok(())
}

fn build(target: Target, package: &str, program: Program<'_>, more: &[&str]) -> Result<PathBuf> {
    let target_dir = target_directory()?.join("lab");
    let mut cargo = cargo_for(target, "build", package, program, &target_dir)?;
    let name = program.name();
    finish_cargo(
        cargo.arg("--release").args(more),
        &format!("{name} for riscv64"),
        "building",
        "Compiling",
        "built",
    )?;
    let release = target_dir.join(target.triple()).join("release");
    Ok(match program {
        Program::Bin(name) => release.join(name),
        Program::Example(name) => release.join("examples").join(name),
    })
}

/// cargo with this command for a program, and with everything that the target needs.
fn cargo_for(
    target: Target,
    command: &str,
    package: &str,
    program: Program<'_>,
    target_dir: &Path,
) -> Result<Command> {
    let mut cargo = cargo();
    cargo.args([command, "--locked", "--package", package]);
    cargo.args([program.flag(), program.name()]);
    cargo.args(["--target", target.triple()]);
    cargo.arg("--target-dir").arg(target_dir);
    // Flags of the user's for this machine's own processor must not reach the other one.
    cargo
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", target.flags());
    // A surrounding cargo's.
    for variable in [
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(variable);
    }
    if target != Target::Linux {
        // Rust's own linker links it.
        use_library(&mut cargo, target, rust_library(target)?);
    } else if !cfg!(target_arch = "riscv64") {
        let (compiler, library) = thread::scope(|scope| {
            let compiler = scope.spawn(cross_compiler);
            let library = rust_library(target);
            (
                compiler.join().unwrap_or_else(|panic| resume_unwind(panic)),
                library,
            )
        });
        if let Some(directory) = compiler? {
            cargo.env("PATH", path_with(&[directory])?);
        }
        cargo.env(
            "CARGO_TARGET_RISCV64GC_UNKNOWN_LINUX_GNU_LINKER",
            format!("{PREFIX}gcc"),
        );
        use_library(&mut cargo, target, library?);
    }
    Ok(cargo)
}

/// Runs cargo. `sign` is what it prints when there was something to do.
fn finish_cargo(
    cargo: &mut Command,
    what: &str,
    doing: &'static str,
    sign: &str,
    done: &'static str,
) -> Result<()> {
    let step = progress::step(what, doing);
    let finished = finish(cargo, run::LIMIT, || step.update(doing))?;
    if !finished.status.success() {
        return Err(Error::Build {
            what: what.to_owned(),
            log: errors(&finished.stderr),
        });
    }
    if finished.stderr.contains(sign) {
        step.done(done);
    }
    Ok(())
}

/// Has cargo compile the standard library along, if the toolchain does not bring it.
fn use_library(cargo: &mut Command, target: Target, library: RustLibrary) {
    if let RustLibrary::Source(source) = library {
        // Compiling the standard library is a feature of nightly toolchains, which this variable lends to any.
        cargo.arg(target.libraries()).env("RUSTC_BOOTSTRAP", "1");
        if let Some(directory) = source {
            // cargo offers no other way to name a source outside of the toolchain.
            cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", directory);
        }
    }
}

/// Of what cargo printed, everything from the first error on.
fn errors(log: &str) -> String {
    let start = if log.starts_with("error") {
        Some(0)
    } else {
        log.find("\nerror").map(|newline| newline + 1)
    };
    log.get(start.unwrap_or(0)..)
        .unwrap_or(log)
        .trim_end()
        .to_owned()
}

/// The root of the workspace that the lab belongs to: two folders above this package, `tests/lab`.
pub(super) fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// Where cargo builds the workspace, as the user set it.
fn target_directory() -> Result<PathBuf> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let answer = run(&mut metadata)?;
    let unexpected = || {
        Error::malformed(
            Path::new("cargo metadata"),
            "does not name the target directory",
        )
    };
    let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|_| unexpected())?;
    answer
        .get("target_directory")
        .and_then(|path| path.as_str())
        .map(PathBuf::from)
        .ok_or_else(unexpected)
}

/// `PATH` with `directories` before all others.
pub(super) fn path_with(directories: &[PathBuf]) -> Result<OsString> {
    let present = std::env::var_os("PATH").unwrap_or_default();
    let all = directories
        .iter()
        .cloned()
        .chain(std::env::split_paths(&present));
    std::env::join_paths(all)
        .map_err(|_| Error::malformed(Path::new("PATH"), "a directory has a colon in its name"))
}
