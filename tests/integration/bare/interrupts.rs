//! Interrupts in numbers: none may be lost.

use crate::fixture::{CHIPS, Chip, Setup, scratch_disk, testing};
use hv_lab::test_kernel::Report;

/// Timer, a device that the hypervisor makes and one of the host's, 10,000 interrupts each.
fn counts(chip: Chip, harts: u32, legacy: bool, cpu: Option<&'static str>) {
    let directory = tempfile::tempdir().unwrap();
    let disk = scratch_disk(directory.path());
    let setup = Setup {
        legacy_virtio: legacy,
        cpu,
        ..Setup::new(chip, [testing("counts", harts, "count=10000")]).passed_disk(&disk, 3, Some(5))
    };
    let (code, printed) = setup.boot().finish();
    let report = Report::parse(&printed);
    let done = (report.passed, report.failed.len(), report.skipped.len());
    assert_eq!((done, code), ((5, 0, 0), Some(0)), "{chip:?}: {printed}");
}

#[test]
fn none_is_lost() {
    for (chip, legacy) in CHIPS.into_iter().zip([false, true, false]) {
        counts(chip, 1, legacy, None);
    }
}

/// The timer by the hypervisor's own, on several harts at once.
#[test]
fn none_is_lost_without_a_timer_of_the_guests() {
    counts(Chip::Plic, 2, false, Some("rv64,h=true,sstc=off"));
}
