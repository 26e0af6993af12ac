//! A Linux guest that suspends itself to RAM.

use std::time::Duration;

use hv_lab::host::{Host, HostChip};

use crate::fixture::{Disk, Kernel, STEP, guest, newest_host, power_off, run};

/// A key wakes it, and nothing else does.
fn is_woken_by_a_key(host: &Host) {
    let disk = Disk::new();
    let arguments = ["--cpus", "2", "--log-level", "debug"];
    let mut console = guest(host, Kernel::Backports, &disk, &arguments);
    run(
        &mut console,
        "echo enabled > /sys/class/tty/ttyS0/power/wakeup",
    );
    console
        .send_line("echo mem > /sys/power/state; echo a''wake")
        .unwrap();
    console.wait_for("the machine is suspended", STEP).unwrap();
    // It does not wake by itself.
    assert!(
        console
            .wait_for("wakes up", Duration::from_secs(5))
            .is_err()
    );
    console.send_line("").unwrap();
    console.wait_for("awake\n", STEP).unwrap();
    assert_eq!(run(&mut console, "nproc"), "2");
    power_off(console);
}

#[test]
fn a_key_wakes_a_suspended_linux_on_a_plic() {
    is_woken_by_a_key(newest_host(HostChip::Plic));
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn a_key_wakes_a_suspended_linux_on_an_aia() {
    is_woken_by_a_key(newest_host(HostChip::Aia));
}
