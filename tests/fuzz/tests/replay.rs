//! Each target on its seeds, on the inputs that once failed, and on random changes of the seeds: the same ones in every run.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hv_fuzz::mutation::{Random, mutate};
use hv_fuzz::{TARGETS, Target};

/// Inputs that failed once, by target, in hexadecimal digits.
const FAILED: &str = include_str!("failed.txt");

/// An input of a target is small, and takes milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

/// What each running target is at, so that a panic says by which input it came: also one on a device's thread, which has to end
/// the test.
static INPUTS: Mutex<Vec<(&str, Vec<u8>)>> = Mutex::new(Vec::new());

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(digits).collect()
}

fn run(target: &Target, input: &[u8]) {
    let begin = Instant::now();
    done(target).push((target.name, input.to_vec()));
    (target.run)(input);
    assert!(begin.elapsed() < LIMIT, "an input takes too long");
}

/// The inputs that others than the target are at.
fn done(target: &Target) -> MutexGuard<'static, Vec<(&'static str, Vec<u8>)>> {
    let mut inputs = INPUTS.lock().unwrap_or_else(PoisonError::into_inner);
    inputs.retain(|(name, _)| *name != target.name);
    inputs
}

/// Says which inputs the targets were at, and ends the process.
fn report(default: &dyn Fn(&PanicHookInfo<'_>), panic: &PanicHookInfo<'_>) {
    default(panic);
    let inputs = INPUTS.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, input) in inputs.iter() {
        eprintln!(
            "failed, or was running beside it; a line for failed.txt: {name} {}",
            hex(input)
        );
    }
    std::process::abort();
}

#[test]
fn seeds_and_random_changes_of_them() {
    let default = take_hook();
    set_hook(Box::new(move |panic| report(&default, panic)));
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for target in TARGETS.iter().skip(half).step_by(2) {
                    all_of(target);
                }
            });
        }
    });
}

fn all_of(target: &Target) {
    let begin = Instant::now();
    let seeds = (target.seeds)();
    for seed in &seeds {
        assert!(
            seed.len() <= target.longest,
            "a seed of {} is too long",
            target.name
        );
        run(target, seed);
    }
    let failed = FAILED.lines().filter_map(|line| line.split_once(' '));
    for (name, input) in failed {
        assert!(
            TARGETS.iter().any(|target| target.name == name),
            "{name} is no target"
        );
        if name == target.name {
            run(target, &from_hex(input.trim()));
        }
    }
    let mut random = Random::new(1);
    for _ in 0..target.rounds {
        run(target, &mutate(&seeds, target.longest, &mut random));
    }
    drop(done(target));
    println!(
        "{}: {} inputs in {:?}",
        target.name,
        target.rounds + seeds.len(),
        begin.elapsed()
    );
}
