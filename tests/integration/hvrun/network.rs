//! A guest on a tap interface of its host.

use std::fs;
use std::io::Read;

use hv_lab::host::{Host, LOCAL_ROOT};
use hv_lab::provision::GUEST_PROMPT;

use crate::fixture::{BOOT, CHIPS, Disk, Kernel, STEP, command, guest, host, power_off, run, text};
use crate::virtio::version;

const MAC: &str = "52:54:00:c0:ff:ee";

/// A program of the host, which has to succeed.
fn on_host(host: &Host, line: &str) -> String {
    let finished = host.exec(["sh", "-c", line]).check(STEP).unwrap();
    finished.stdout_text()
}

/// What is sent: far more than all queues and buffers on the way hold.
const SIZE: usize = 4 << 20;

/// Sends a file or a disk to whoever connects.
fn send(path: &str) -> String {
    format!("dd if={path} bs=64k | nc -l -p 5000")
}

/// Fetches what the other side sends, once it listens, and gives its checksum. busybox's nc ends when the other side has
/// nothing more to say, so the one that receives has an input that does not end: a FIFO that it has open for writing too.
fn fetch(address: &str) -> String {
    format!(
        "[ -p /tmp/open ] || mkfifo /tmp/open; until nc {address} 5000 <>/tmp/open >/tmp/got; do sleep 0.1; done; \
         md5sum </tmp/got; rm /tmp/got"
    )
}

fn carries(host: &Host) {
    let disk = Disk::new();
    let data = disk.beside("data.img");
    let mut bytes = vec![0; SIZE];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    fs::write(&data, bytes).unwrap();
    let net = format!("tap=tap7,mac={MAC}");
    let arguments = [
        "--disk",
        &text(&data),
        "--net",
        &net,
        "--virtio",
        version(host.chip()),
        "--cpus",
        "2",
    ];
    let mut console = guest(host, Kernel::Stable, &disk, &arguments);
    // hvrun has made the interface.
    on_host(
        host,
        "ip addr add 10.7.0.1/24 dev tap7; ip link set tap7 up",
    );
    // A reboot leaves the interface and the address as they are.
    console.send_line("reboot").unwrap();
    console.wait_for("reboot: Restarting system", STEP).unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    assert_eq!(run(&mut console, "cat /sys/class/net/eth0/address"), MAC);
    run(
        &mut console,
        "ip addr add 10.7.0.2/24 dev eth0; ip link set eth0 up",
    );
    run(&mut console, "ping -c 3 10.7.0.1");
    on_host(host, "ping -c 3 -s 1400 10.7.0.2");

    let nested = format!("{LOCAL_ROOT}{}", text(&data));
    let expected = on_host(host, &format!("md5sum <{nested}"));
    let sender = host.exec(["sh", "-c", &send(&nested)]).spawn().unwrap();
    assert_eq!(run(&mut console, &fetch("10.7.0.1")), expected);
    assert!(sender.finish(STEP).unwrap().status.success());
    run(&mut console, &format!("{} 2>/dev/null &", send("/dev/vdb")));
    assert_eq!(on_host(host, &fetch("10.7.0.2")), expected);

    let second = command(host, Kernel::Stable.arguments())
        .args(["--net", &net])
        .output(STEP)
        .unwrap();
    assert_eq!(second.status.code(), Some(1), "{second}");
    assert!(second.stderr_text().contains("in use"), "{second}");
    power_off(console);
    // Made for this guest, and gone with it.
    on_host(host, "! ip link show tap7");
}

#[test]
fn a_tap_interface_carries_data_both_ways() {
    for chip in CHIPS {
        carries(host(chip));
    }
}
