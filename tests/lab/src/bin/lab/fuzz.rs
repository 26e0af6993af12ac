//! `cargo lab fuzz`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hv_fuzz::{TARGETS, Target};
use hv_lab::cache;
use hv_lab::provision;

use super::{EXIT_LAB, Failure};

/// Exit code where an input made a target fail.
const EXIT_FOUND: u8 = 1;

/// Stands for all targets.
const ALL: &str = "all";

/// An input that takes longer is reported, seconds.
const SLOW: u32 = 10;

/// The most memory of the fuzzer, MiB.
const MEMORY: u32 = 2048;

/// What to fuzz.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The target, or "all".
    name: Option<String>,
    /// How long, in seconds, for each target.
    #[arg(default_value_t = 60)]
    seconds: u32,
    /// Run the target on this input alone: to repeat what was found.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Builds the fuzzer and runs it on the chosen targets.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let Some(name) = &options.name else {
        for target in TARGETS {
            println!("{:15} {}", target.name, target.about);
        }
        return Ok(0);
    };
    let is_chosen = |target: &&Target| name == ALL || *name == target.name;
    let chosen: Vec<_> = TARGETS.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        return Err(failure(format!(
            "there is nothing to fuzz called {name}; cargo lab fuzz lists the names"
        )));
    }
    let fuzzer = provision::fuzzer()?;
    let mut code = 0;
    for target in chosen {
        let found = match &options.input {
            Some(input) => !fuzzer_for(&fuzzer, target).arg(input).status()?.success(),
            None => fuzz(&fuzzer, target, options.seconds)?,
        };
        if found {
            code = EXIT_FOUND;
        }
    }
    Ok(code)
}

fn failure(message: String) -> Failure {
    Failure {
        message: format!("lab: {message}"),
        code: EXIT_LAB,
    }
}

fn fuzzer_for(fuzzer: &Path, target: &Target) -> Command {
    let mut command = Command::new(fuzzer);
    command.env("HV_FUZZ_TARGET", target.name);
    command.arg(format!("-timeout={SLOW}"));
    command.arg(format!("-rss_limit_mb={MEMORY}"));
    command
}

/// Runs one target, and says what was found. Whether anything was.
fn fuzz(fuzzer: &Path, target: &Target, seconds: u32) -> Result<bool, Failure> {
    let place = cache::root()?.join("fuzz").join(target.name);
    let [corpus, seeds, found] = ["corpus", "seeds", "found"].map(|name| place.join(name));
    for directory in [&corpus, &seeds, &found] {
        fs::create_dir_all(directory)?;
    }
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(seeds.join(number.to_string()), seed)?;
    }
    let before = files(&found)?;
    eprintln!("lab: fuzzing {} for {seconds} s", target.name);
    let status = fuzzer_for(fuzzer, target)
        .arg(format!("-max_len={}", target.longest))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg("-print_final_stats=1")
        .args([&corpus, &seeds])
        .status()?;
    for file in files(&found)?.difference(&before) {
        eprintln!(
            "lab: {name} failed; cargo lab fuzz {name} --input {file} repeats it, and this line of tests/fuzz/tests/failed.txt has the tests \
             do so:\n{name} {digits}",
            name = target.name,
            file = file.display(),
            digits = hex(&fs::read(file)?),
        );
    }
    Ok(!status.success())
}

fn files(directory: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
