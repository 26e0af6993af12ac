//! Guests that go wrong, or mean harm: it concerns nobody else.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fixture::{CHIPS, Chip, MAX_CPU, Setup, guest, lines_of, scratch_disk, testing};
use hv_lab::test_kernel::Report;

/// Ctrl-a x, which ends the machine.
const OFF: &str = "\x01x";

/// A kernel that does nothing but trap: `jr zero`, with a trap vector of 0, where nothing is.
fn trapping_kernel(directory: &Path) -> PathBuf {
    let path = directory.join("traps");
    fs::write(&path, 0x0000_0067_u32.to_le_bytes()).unwrap();
    path
}

/// All tests passed, and as many as there should be.
fn assert_passed(output: &str, guest: &str, tests: usize) {
    let lines = lines_of(output, guest);
    let report = Report::parse(&lines);
    let done = (report.passed, report.failed.len(), report.skipped.len());
    assert_eq!(done, (tests, 0, 0), "{guest}: {output}");
}

/// One that hangs with interrupts off, one that traps for ever, one that reaches for everything it was not given, and one that
/// sees nothing of it. What there is of devices is a disk, which is nobody's, or the attacker's own.
fn leaves_the_others_alone(chip: Chip, cpu: Option<&'static str>, attacker_has_disk: bool) {
    let directory = tempfile::tempdir().unwrap();
    let disk = scratch_disk(directory.path());
    let slots = u8::from(attacker_has_disk);
    let attacks = testing("attacks", 2, &format!("attack=yes slots={slots}"));
    let guests = [
        attacks,
        testing("hangs", 1, "hang=yes"),
        guest("traps", &trapping_kernel(directory.path())),
        testing("holds", 1, "pattern=4"),
    ];
    let setup = Setup {
        cpu,
        ..Setup::new(chip, guests)
    };
    let setup = match attacker_has_disk {
        true => setup.passed_disk(&disk, 0, None),
        false => setup.disk(&disk, 0),
    };
    let mut run = setup.boot();
    run.wait_for("hv-bare: guest holds has ended with code 0\n");
    if !run.output().contains("guest attacks has ended") {
        run.wait_for("hv-bare: guest attacks has ended");
    }
    run.send(OFF);
    run.wait_for("hv-bare: switched off\n");
    let (code, output) = run.finish();
    assert_eq!(code, Some(0), "{output}");
    assert_passed(&output, "attacks", 13);
    assert_passed(&output, "holds", 1);
    assert!(
        output.contains("hv-bare: guest attacks has ended with code 0\n"),
        "{output}"
    );
    assert!(lines_of(&output, "hangs").contains("hangs"), "{output}");
}

#[test]
fn a_guest_that_goes_wrong_leaves_the_others_alone() {
    for (chip, attacker_has_disk) in CHIPS.into_iter().zip([true, false, false]) {
        leaves_the_others_alone(chip, None, attacker_has_disk);
    }
}

/// A guest that prints as much as it can, and as if it were the other one, holds up nobody and deceives nobody. The other one is
/// through long before it.
#[test]
fn a_guest_that_prints_much_leaves_the_others_their_turn() {
    for chip in CHIPS {
        let guests = [
            testing("talks", 1, "chatter=talk"),
            testing("asks", 1, "chatter=ask"),
        ];
        let (code, output) = Setup::new(chip, guests).boot().finish();
        let end = output.len().saturating_sub(1000);
        let last = String::from_utf8_lossy(&output.as_bytes()[end..]);
        assert_eq!(code, Some(0), "{last}");
        let ends = ["asks", "talks"].map(|name| {
            let line = format!("hv-bare: guest {name} has ended with code 0\n");
            output.find(&line).unwrap()
        });
        assert!(ends[0] < ends[1], "{ends:?}");
        assert_eq!(lines_of(&output, "asks"), "a word\n".repeat(120));
    }
}

/// Where the harts have more to attack with, and more levels of tables to lead elsewhere.
#[test]
fn so_it_is_on_harts_with_everything() {
    leaves_the_others_alone(Chip::Aia, Some(MAX_CPU), true);
}
