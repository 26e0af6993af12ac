//! A machine that is paused and resumed all the time, while its guest has everything to do at once.

use std::path::PathBuf;
use std::sync::OnceLock;

use hv_lab::host::{Host, HostChip, Stdio};
use hv_lab::provision::{self, GUEST_PROMPT};

use crate::fixture::{BOOT, Disk, Kernel, STEP, host, run};

/// How many pauses there are at least.
const PAUSES: u64 = 200;

/// How many lines are printed on each console in a round.
const LINES: u32 = 300;

fn example() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| provision::cross_build_example("hv-vmm", "pause").unwrap())
}

fn on_host(host: &Host, line: &str) -> String {
    let finished = host.exec(["sh", "-c", line]).check(STEP).unwrap();
    finished.stdout_text()
}

/// Nothing of it is lost, and nothing comes twice: bytes of both consoles, packets, requests, and timers.
fn nothing_is_lost(chip: HostChip, number: u32) {
    let host = host(chip);
    let disk = Disk::new();
    let tap = format!("tap{number}");
    let serial = format!("/dev/shm/{chip}-paused");
    let report = format!("{serial}-report");
    let serial_in_root = format!("/host{serial}");
    let mut console = host
        .local(example())
        .unwrap()
        .args(Kernel::Stable.arguments())
        .args(disk.argument())
        .args(["--tap", &tap, "--serial", &serial])
        // No terminal, which would have to be made raw.
        .stdin(Stdio::Pipe)
        .stderr(Stdio::File(report.clone()))
        .console()
        .unwrap()
        .reject("Kernel panic")
        .reject("Oops")
        .reject("rcu: INFO");
    if let Err(error) = console.wait_for(GUEST_PROMPT, BOOT) {
        let log = on_host(host, &format!("tail -c 4000 {serial}"));
        panic!("{error}\n--- serial port:\n{log}");
    }
    on_host(
        host,
        &format!("ip addr add 10.{number}.0.1/24 dev {tap}; ip link set {tap} up"),
    );
    run(
        &mut console,
        &format!("ip addr add 10.{number}.0.2/24 dev eth0; ip link set eth0 up"),
    );
    assert_eq!(run(&mut console, "nproc"), "4");
    // A hart is always busy, and timers end all the time.
    run(
        &mut console,
        "(while :; do :; done) & (while :; do sleep 0.05; done) & true",
    );
    run(
        &mut console,
        "head -c 1000000 /dev/urandom > /root/file; sync",
    );
    let sum = run(&mut console, "md5sum < /root/file");
    run(&mut console, "echo 3 > /proc/sys/vm/drop_caches");
    assert_eq!(run(&mut console, "md5sum < /root/file"), sum);
    let numbers: Vec<String> = (1..=LINES).map(|n| n.to_string()).collect();
    assert_eq!(
        run(&mut console, &format!("seq {LINES}")),
        numbers.join("\n")
    );
    run(&mut console, &format!("seq {LINES} > /dev/ttyS0"));
    let pings = format!("ping -c 20 -i 0.1 -W 60 10.{number}.0.1");
    let received = run(&mut console, &pings);
    assert!(received.contains("20 packets received"), "{received}");
    assert!(!received.contains("DUP"), "{received}");
    // Ends only if a timer of each hart does.
    run(
        &mut console,
        "for cpu in 0 1 2 3; do taskset -c $cpu sleep 0.1 || exit 1; done",
    );
    console.send_line("poweroff").unwrap();
    let (status, rest) = console.wait_for_end(BOOT).unwrap();
    assert_eq!(status.code(), Some(0), "{status}: {rest}");
    let report = on_host(host, &format!("cat {report}"));
    let count = report
        .split_once("PowerOff after ")
        .and_then(|(_, rest)| rest.split_once(' '))
        .and_then(|(count, _)| count.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count >= PAUSES), "{report}");
    disk.assert_clean();
    let log = String::from_utf8(host.read_file(&serial_in_root).unwrap()).unwrap();
    let numbers: String = (1..=LINES).map(|n| format!("{n}\r\n")).collect();
    assert_eq!(log.matches(&numbers).count(), 1, "{log}");
}

#[test]
fn a_guest_that_is_paused_loses_nothing_on_a_plic() {
    nothing_is_lost(HostChip::Plic, 91);
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn a_guest_that_is_paused_loses_nothing_on_an_aia() {
    nothing_is_lost(HostChip::Aia, 92);
}
