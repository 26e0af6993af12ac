//! The benchmarks measure something.

use hv_lab::bench::{self, Subject, Vmm};
use hv_lab::host::HostChip;
use hv_lab::provision::cross_build;

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn a_start_and_stop_is_measured() {
    let vmm = Vmm::hvrun(cross_build("hvrun", "hvrun").unwrap());
    let chips = HostChip::USUAL;
    let report = bench::run(&[Subject::Start], &chips, &[vmm], &|_| {}).unwrap();
    let figures = report.json();
    for chip in chips {
        let figure = &figures["figures"][0];
        assert_eq!(figure["name"], "start and stop");
        assert_eq!(figure["unit"], "nanoseconds");
        let time = figure["hosts"][chip.name()]["hvrun"].as_f64().unwrap();
        // Less than a millisecond would be no machine.
        assert!(time > 1e6, "{report}");
    }
}
