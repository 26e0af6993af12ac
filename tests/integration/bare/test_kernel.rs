//! The project's own test kernel, with the results that it has to have on any machine of this board.
//!
//! What it finds wrong, and is the host's, is listed here with the reason.

use crate::fixture::{CHIPS, Chip, MAX_CPU, Setup, scratch_disk, testing};
use hv_lab::test_kernel::Report;

/// Tests of what these guests do not have: an interrupt chip other than a PLIC, system suspend, a virtio console, machines
/// without the legacy extensions.
const ABSENT: [&str; 5] = [
    "imsic-",
    "aplic-",
    "susp-",
    "console-",
    "legacy-absent-is-not-supported",
];

/// Judges what the kernel printed, and the code with which the machine ended.
fn judge(what: &str, harts: u32, legacy: bool, printed: &str, code: Option<i32>) {
    let report = Report::parse(printed);
    assert!(
        report.failed.is_empty(),
        "{what}: {:?}\n{printed}",
        report.failed
    );
    for (test, why) in &report.skipped {
        let expected = match *why {
            "there is one hart" => harts == 1,
            "the disk is not a legacy one" => !legacy,
            "there is no Sstc" => what.contains("sstc=off"),
            "nobody types" => *test == "legacy-getchar-of-what-is-typed",
            _ => ABSENT.iter().any(|prefix| test.starts_with(prefix)),
        };
        assert!(expected, "{what}: {test} is skipped: {why}");
    }
    let counts = format!(
        "{} ok, 0 not ok, {} skipped,",
        report.passed,
        report.skipped.len()
    );
    assert!(report.done.starts_with(&counts), "{what}: {printed}");
    assert!(report.passed > 100, "{what}: {printed}");
    assert_eq!(code, Some(0), "{what}: {printed}");
}

fn passes(chip: Chip, harts: u32, legacy: bool, cpu: Option<&'static str>) {
    let directory = tempfile::tempdir().unwrap();
    let disk = scratch_disk(directory.path());
    let setup = Setup {
        legacy_virtio: legacy,
        cpu,
        ..Setup::new(chip, [testing("test", harts, "")]).passed_disk(&disk, 0, None)
    };
    let (code, printed) = setup.boot().finish();
    let what = format!("{chip:?}, {harts} harts, legacy {legacy}, {cpu:?}");
    judge(&what, harts, legacy, &printed, code);
}

#[test]
fn on_one_hart() {
    for (chip, legacy) in CHIPS.into_iter().zip([false, true, true]) {
        passes(chip, 1, legacy, None);
    }
}

#[test]
fn on_two_harts() {
    for (chip, legacy) in CHIPS.into_iter().zip([true, false, false]) {
        passes(chip, 2, legacy, None);
    }
}

#[test]
fn on_four_harts() {
    for (chip, legacy) in CHIPS.into_iter().zip([false, true, false]) {
        passes(chip, 4, legacy, None);
    }
}

/// Five levels of second-stage tables, vector registers, state enable bits.
#[test]
fn on_harts_with_everything() {
    for chip in CHIPS {
        passes(chip, 2, false, Some(MAX_CPU));
    }
}

/// Harts whose guests have their timer by SBI alone.
#[test]
fn on_harts_without_a_timer_of_the_guests() {
    passes(Chip::Plic, 2, false, Some("rv64,h=true,sstc=off"));
}

/// A guest with no device of the host's is wherever the host has room.
#[test]
fn on_memory_somewhere_else() {
    let setup = Setup::new(Chip::Plic, [testing("test", 2, "without=x")]);
    let (code, printed) = setup.boot().finish();
    let report = Report::parse(&printed);
    assert!(report.failed.is_empty(), "{printed}");
    let skipped = |test: &str| report.skipped.get(test).copied();
    assert_eq!(skipped("block-capacity"), Some("there is no disk"));
    assert!(report.passed > 100, "{printed}");
    assert_eq!(code, Some(0), "{printed}");
}
