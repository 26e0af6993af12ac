//! `cargo lab mutants`: which changes to the changed code no test would notice, by cargo-mutants.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{EXIT_LAB, Failure};

/// Exit code where a mutant was missed.
const EXIT_MISSED: u8 = 1;

/// The packages whose unit tests take seconds.
const PACKAGES: [&str; 4] = ["hv-core", "hv-bare", "hv-devices", "hv-vmm"];

/// What unit tests cannot reach, with what only they use: programs for bare hardware, KVM's system calls, and back ends that need
/// a tap interface or vhost-net.
const EXCLUDED: [&str; 6] = [
    "core/baremetal/src/bin/**",
    "vmm/src/kvm/host.rs",
    "devices/src/virtio/net/tap.rs",
    "devices/src/virtio/net/vhost.rs",
    "**/testing.rs",
    "**/tests/**",
];

/// Seconds for the tests of a mutant. The limits of the tests themselves (`tests/limit/`) are shorter.
const TIMEOUT: u32 = 180;

/// Seconds that a test waits for one thing. Of a mutant that keeps something from coming, each test that waits for it takes as long.
const LIMIT: u32 = 20;

/// Since when the code has changed.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The commit to compare the working tree with [default: where it left main].
    base: Option<String>,
    /// List the mutants and test none.
    #[arg(long)]
    list: bool,
}

/// Tests the mutants of what the working tree changes.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let root = workspace();
    check_installed("cargo-mutants")?;
    let base = match &options.base {
        Some(base) => base.clone(),
        None => default_base(&root)?,
    };
    let diff = git(&root, &["diff", "--no-ext-diff", &base, "--", "*.rs"])?;
    if diff.is_empty() {
        eprintln!("lab: no code has changed since {base}");
        return Ok(0);
    }
    let target = root.join("target");
    let file = target.join("mutants.diff");
    fs::create_dir_all(&target)
        .and_then(|()| fs::write(&file, diff))
        .map_err(|error| failed(&format!("cannot write {}: {error}", file.display())))?;
    let mut command = Command::new("cargo");
    command
        .current_dir(&root)
        .args(arguments(&file, &target, options.list))
        // Of its own, so that the libraries are built once and this tree's builds stay as they are.
        .env("CARGO_TARGET_DIR", target.join("mutants"))
        .env("PROPTEST_CASES", "32")
        .env("HV_TEST_LIMIT", LIMIT.to_string())
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .stdin(Stdio::null());
    let status = command
        .status()
        .map_err(|error| failed(&format!("cannot start cargo: {error}")))?;
    match status.code() {
        Some(0) => Ok(0),
        // cargo-mutants: a mutant was missed, or the tests of one did not end.
        Some(2 | 3) => {
            let report = target.join("mutants.out");
            let _ = writeln!(
                io::stderr(),
                "lab: each mutant above needs a test, or changes nothing that matters; {} has the details",
                report.display()
            );
            Ok(EXIT_MISSED)
        }
        _ => Err(failed(
            "cargo-mutants failed, as it says above; do the tests pass without mutants?",
        )),
    }
}

/// The arguments of cargo for the mutants of `diff`, with the report below `target`.
fn arguments(diff: &Path, target: &Path, list: bool) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["mutants".into(), "--in-diff".into(), diff.into()];
    let mut add = |option: &str, value: &str| {
        arguments.extend([option.into(), value.into()]);
    };
    for package in PACKAGES {
        add("--package", package);
    }
    for files in EXCLUDED {
        add("--exclude", files);
    }
    if list {
        arguments.push("--list".into());
        return arguments;
    }
    // One at a time: a test that waits has a limit that is not meant for a machine with several suites on it.
    add("--jobs", "1");
    add("--timeout", &TIMEOUT.to_string());
    add("--cargo-arg", "--locked");
    arguments.extend(["--output".into(), target.into()]);
    arguments
}

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_owned()
}

fn check_installed(program: &str) -> Result<(), Failure> {
    let found = Command::new(program)
        .args(["mutants", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match found {
        Ok(status) if status.success() => Ok(()),
        _ => Err(failed(&format!(
            "{program} is not installed: cargo install --locked cargo-mutants"
        ))),
    }
}

/// Where the working tree left main; on main itself, the commit before the last one.
fn default_base(root: &Path) -> Result<String, Failure> {
    let head = git(root, &["rev-parse", "HEAD"])?;
    for main in ["origin/main", "main"] {
        if let Ok(base) = git(root, &["merge-base", "HEAD", main])
            && base != head
        {
            return Ok(base);
        }
    }
    Ok("HEAD~1".into())
}

/// What git prints, without the end of the last line.
fn git(root: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&format!("cannot start git: {error}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().next().unwrap_or("it does not say why");
        return Err(failed(&format!("git {}: {reason}", arguments[0])));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // A diff keeps its last line's end, which it needs.
    Ok(match arguments[0] {
        "diff" => text.into_owned(),
        _ => text.trim_end().to_owned(),
    })
}

fn failed(message: &str) -> Failure {
    Failure {
        message: format!("lab: {message}"),
        code: EXIT_LAB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_cargo_mutants_is_told_how_to_get_it() {
        let failure = check_installed("cargo-mutants-that-nobody-has").unwrap_err();
        assert_eq!(failure.message.lines().count(), 1);
        assert!(failure.message.contains("cargo install"), "{failure:?}");
    }

    #[test]
    fn what_is_excluded_is_there() {
        let root = workspace();
        for files in EXCLUDED {
            let path = files.trim_end_matches("/**");
            assert!(
                path.starts_with("**") || root.join(path).exists(),
                "{files}"
            );
        }
    }

    #[test]
    fn a_list_tests_nothing() {
        let list = arguments(Path::new("diff"), Path::new("target"), true);
        assert!(list.contains(&"--list".into()) && !list.contains(&"--timeout".into()));
        let test = arguments(Path::new("diff"), Path::new("target"), false);
        assert!(test.contains(&"180".into()) && test.contains(&"hv-vmm".into()));
    }
}
