//! `cargo lab coverage`: how much of the code the unit tests of its own package run.

mod report;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::report::Report;
use self::tools::Tools;
use super::{EXIT_LAB, Failure};

/// Exit code where a test failed.
const EXIT_FAILED: u8 = 1;

/// The packages whose unit tests run on any machine, each with the folders that are counted: of hv-vmm the loaders, as the rest
/// needs KVM and has integration tests.
const PACKAGES: [(&str, &[&str]); 4] = [
    ("hv-core", &["core/src/"]),
    ("hv-bare", &["core/baremetal/src/"]),
    ("hv-devices", &["devices/src/"]),
    ("hv-vmm", &["vmm/src/boot/"]),
];

/// What is left out: tests, and what they alone use.
const EXCLUDED: [&str; 8] = [
    "/tests/",
    "/tests.rs",
    "/testing.rs",
    "/properties.rs",
    "/test_platform.rs",
    "core/src/plic/exhaustive.rs",
    "core/baremetal/src/console/terminal.rs",
    "core/baremetal/src/bin/",
];

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// List the lines that no test runs.
    #[arg(long)]
    lines: bool,
    /// Only files whose path has this in it.
    filter: Option<String>,
}

/// Runs the unit tests and prints the table.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let tools = Tools::find()?;
    let target = workspace().join("target/coverage");
    let profiles = target.join("profiles");
    if profiles.exists() {
        fs::remove_dir_all(&profiles)?;
    }
    fs::create_dir_all(&profiles)?;
    let mut report = Report::default();
    for (package, folders) in PACKAGES {
        let program = build(package, &target)?;
        if !test(package, &program, &profiles)? {
            eprintln!("lab: a unit test of {package} failed, as it says above");
            return Ok(EXIT_FAILED);
        }
        let merged = merge(&tools, package, &profiles)?;
        let lcov = output(
            Command::new(&tools.cov)
                .args(["export", "-format=lcov", "-instr-profile"])
                .args([&merged, &program]),
        )?;
        let is_counted = |path: &str| {
            folders.iter().any(|folder| path.starts_with(folder))
                && !EXCLUDED.iter().any(|name| path.contains(name))
        };
        report.add(package, &lcov, workspace(), is_counted)?;
    }
    print!("{}", report.table(options.filter.as_deref(), options.lines));
    Ok(0)
}

/// Builds the unit tests of a package with counters in them, and returns the program.
fn build(package: &str, target: &Path) -> Result<PathBuf, Failure> {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" -C instrument-coverage");
    if tools::rustc_counts_branches() {
        flags.push_str(" -Z coverage-options=branch");
    }
    let messages = output(
        cargo()
            .args(["test", "--lib", "--no-run", "--locked", "--package"])
            .args([package, "--message-format=json-render-diagnostics"])
            // Of its own, so that this tree's builds stay as they are.
            .env("CARGO_TARGET_DIR", target)
            .env("RUSTFLAGS", flags)
            // Build scripts are instrumented as well, and write where they are told to.
            .env("LLVM_PROFILE_FILE", target.join("build-%p.profraw")),
    )?;
    let program = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"] == true;
        message["executable"]
            .as_str()
            .filter(|_| is_test)
            .map(PathBuf::from)
    });
    program.ok_or_else(|| failed(format!("cargo built no unit tests of {package}")))
}

/// Runs the unit tests. Returns whether all passed.
fn test(package: &str, program: &Path, profiles: &Path) -> Result<bool, Failure> {
    eprintln!("lab: the unit tests of {package}");
    let folder = PACKAGES
        .iter()
        .find(|(name, _)| *name == package)
        .and_then(|(_, folders)| folders[0].split_once("/src/"))
        .map_or("", |(folder, _)| folder);
    let status = Command::new(program)
        .arg("--quiet")
        // As cargo does.
        .current_dir(workspace().join(folder))
        .env("CARGO_MANIFEST_DIR", workspace().join(folder))
        .env(
            "LLVM_PROFILE_FILE",
            profiles.join(format!("{package}-%p.profraw")),
        )
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()?;
    Ok(status.success())
}

/// One profile of those that the processes of a package's tests have written.
fn merge(tools: &Tools, package: &str, profiles: &Path) -> Result<PathBuf, Failure> {
    let merged = profiles.join(format!("{package}.profdata"));
    let start = format!("{package}-");
    let mut raw = Vec::new();
    for entry in fs::read_dir(profiles)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A process that a test ends has written nothing.
        if name.starts_with(&start) && path.metadata()?.len() > 0 {
            raw.push(path);
        }
    }
    output(
        Command::new(&tools.profdata)
            .args(["merge", "-sparse", "-failure-mode=all", "-o"])
            .arg(&merged)
            .args(raw),
    )?;
    Ok(merged)
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace());
    command
}

/// What a program prints, whose messages the user sees.
fn output(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(format!("cannot start {program}: {error}")))?;
    if !output.status.success() {
        return Err(failed(format!("{program} failed, as it says above")));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| failed(format!("{program} printed something else than text")))
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

fn failed(message: String) -> Failure {
    Failure {
        message: format!("lab: {message}"),
        code: EXIT_LAB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_there() {
        for (package, folders) in PACKAGES {
            for folder in folders {
                assert!(workspace().join(folder).is_dir(), "{package}: {folder}");
            }
        }
    }
}
