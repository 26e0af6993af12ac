//! The legacy SBI console, on hosts whose kernel hands its calls on (CONFIG_RISCV_SBI_V01).

use hv_lab::host::{Host, HostConfig};
use hv_lab::provision;
use hv_lab::test_kernel::{Machine, Virtio};

use crate::doctor::{answered_by, report};
use crate::fixture::{STEP, chips, command, hvrun};
use crate::test_kernel::{judge_on_hvrun, kernel};

/// A guest that prints and reads by nothing else, with both answers to "no character".
fn prints_and_reads(host: &Host) {
    const TYPED: &str = "a.line";
    for (arguments, empty) in [(&[][..], "-1"), (&["--getchar-empty", "0"], "0")] {
        let line = format!("test=legacy getchar-empty={empty} typed={TYPED}");
        let mut guest = command(host, ["--kernel", &kernel(), "--cmdline", &line])
            .args(arguments.iter().copied())
            .console()
            .unwrap();
        guest.wait_for(&format!("# type: {TYPED}\n"), STEP).unwrap();
        guest.send(TYPED).unwrap();
        let (status, printed) = guest.wait_for_end(STEP).unwrap();
        assert_eq!(status.code(), Some(0), "{printed}");
        assert!(
            printed.contains("ok legacy-getchar-of-what-is-typed\n"),
            "{printed}"
        );
    }
    let putchar = command(
        host,
        ["--kernel", &kernel(), "--cmdline", "test=legacy-putchar"],
    );
    let printed = putchar.check(STEP).unwrap().stdout_text();
    assert!(printed.contains("# by the legacy console"), "{printed}");
}

#[test]
fn where_the_host_hands_it_on() {
    hvrun();
    for chip in chips() {
        let config = HostConfig::new(chip).kernel(provision::small_kernel().unwrap());
        let host = Host::boot(config).unwrap();
        assert_eq!(
            answered_by(&report(&host, 0), "legacy console"),
            Some("hvrun")
        );
        let machine = Machine::hvrun(chip, chip, 2, Virtio::Legacy);
        judge_on_hvrun(&host, machine.with_legacy_console());
        prints_and_reads(&host);
    }
}
