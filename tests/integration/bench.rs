//! The benchmarks measure something, and the project's promise on its start holds.

use std::time::Duration;

use hv_lab::bench::{self, Subject, Vmm};
use hv_lab::host::HostChip;
use hv_lab::provision::cross_build;

/// From hvrun's start to its end, with a guest that prints one character.
const START: Duration = Duration::from_millis(7);

#[test]
fn starts_and_stops_in_time() {
    let vmm = Vmm::hvrun(cross_build("hvrun", "hvrun").unwrap());
    let chips = HostChip::ALL;
    let report = bench::run(&[Subject::Start], &chips, &[vmm], &|_| {}).unwrap();
    let figures = report.json();
    for chip in chips {
        let figure = &figures[0];
        assert_eq!(figure["name"], "start and stop");
        assert_eq!(figure["unit"], "nanoseconds");
        let time = figure["hosts"][chip.name()]["hvrun"].as_f64().unwrap();
        // Less than a millisecond would be no machine.
        assert!(time > 1e6, "{report}");
        assert!(time < START.as_nanos() as f64, "{report}");
    }
}
