//! Faults of the host: nothing hangs, and nothing is left behind.
//!
//! What a back end can be made to do is tested in `devices/`. Here is what only a real kernel shows.

use hv_lab::host::{Host, HostChip, Stream};

use crate::fixture::{STEP, command, host};
use crate::output::in_shell;
use crate::test_kernel::kernel;

fn on_host(host: &Host, line: &str) -> String {
    let finished = host.exec(["sh", "-c", line]).check(STEP).unwrap();
    finished.stdout_text()
}

/// A guest that waits for space is told of each time, can be ended, and holds nothing then.
#[test]
fn a_guest_that_waits_for_space_can_be_ended() {
    let host = host(HostChip::Aia);
    let directory = "/dev/shm/ended";
    on_host(
        host,
        &format!(
            "mkdir {directory} && mount -t tmpfs -o size=32k none {directory} && truncate -s 64K {directory}/data.img && \
             dd if=/dev/zero of={directory}/ballast bs=4k count=7 2>/dev/null"
        ),
    );
    let disk = format!("{directory}/data.img,on-error=enospc");
    let kernel = kernel();
    let arguments = [
        "--kernel",
        &kernel,
        "--cmdline",
        "journal=1",
        "--disk",
        &disk,
    ];
    let hvrun = in_shell(host, "true", &arguments.map(String::from), "")
        .spawn()
        .unwrap();
    let mut said = String::new();
    for time in 1..=6 {
        while said.lines().count() < time {
            let piece = hvrun.read(Stream::Stderr, STEP).unwrap();
            assert!(!piece.is_empty(), "it ends: {said}");
            said += &String::from_utf8(piece).unwrap();
        }
        // Without a terminal there are no keys.
        let how = format!("make space, then run 'kill -CONT {}'\n", hvrun.pid());
        assert!(said.ends_with(&how), "{said}");
        if time < 6 {
            hvrun.signal(libc::SIGCONT).unwrap();
        }
    }
    hvrun.signal(libc::SIGTERM).unwrap();
    assert_eq!(hvrun.wait(STEP).unwrap().code(), Some(143));
    // The image is locked by nobody.
    let arguments = ["--kernel", &kernel, "--cmdline", "fail=42", "--disk", &disk];
    let finished = in_shell(host, "true", &arguments.map(String::from), "")
        .output(STEP)
        .unwrap();
    assert_eq!(finished.status.code(), Some(42), "{finished}");
    on_host(host, &format!("umount {directory}; rmdir {directory}"));
}

/// hvrun is stopped and continued all the time while it starts: system calls that a stop interrupts are made again.
#[test]
fn a_start_bears_being_stopped_all_the_time() {
    let host = host(HostChip::Aia);
    for _ in 0..3 {
        let guest = command(host, ["--kernel", &kernel(), "--cmdline", "fail=42"])
            .args(["--cpus", "2", "--rng"])
            .spawn()
            .unwrap();
        let pid = guest.pid();
        let storm =
            format!("while kill -STOP {pid} && kill -CONT {pid}; do usleep 500; done 2>/dev/null");
        let storm = host.exec(["sh", "-c", &storm]).spawn().unwrap();
        let finished = guest.finish(STEP).unwrap();
        storm.wait(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(42), "{finished}");
        assert_eq!(finished.stderr_text(), "");
    }
}
