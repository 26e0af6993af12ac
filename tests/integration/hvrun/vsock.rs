//! Connections between programs of the guest and of its host.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use hv_lab::host::{Console, Exec, Host, HostChip, Process, Stream};
use hv_lab::provision;

use crate::fixture::{Disk, Kernel, STEP, chips, guest, host, power_off, reboot, run, text};

/// The ports of the two servers.
const GUEST_PORT: u32 = 1234;
const HOST_PORT: u32 = 80;

/// How many connections there are at once, and bytes in each of them: more than all buffers on the way hold.
const COUNT: u32 = 8;
const BYTES: u32 = 3 << 18;

/// The program at either side.
fn peer_binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| provision::cross_build("hv-lab-agent", "vsock-peer").unwrap())
}

/// The same for the guest, as a disk.
fn peer_disk(disk: &Disk) -> String {
    let mut program = fs::read(peer_binary()).unwrap();
    program.resize(program.len().next_multiple_of(512), 0);
    let image = disk.beside("vsock-peer.img");
    fs::write(&image, program).unwrap();
    text(&image) + ",readonly=on"
}

fn peer<'a>(host: &Host, words: impl IntoIterator<Item = &'a str>) -> Exec {
    host.local(peer_binary()).unwrap().args(words)
}

/// The guest has the program, and it serves.
fn start_in_guest(console: &mut Console) {
    run(
        console,
        &format!(
            "cat /dev/vdb > /tmp/peer; chmod +x /tmp/peer; /tmp/peer serve vsock:{GUEST_PORT} >/tmp/served & \
             until grep -q serving /tmp/served; do sleep 0.1; done"
        ),
    );
}

/// Connects to the guest and says so.
fn hold(host: &Host, address: &str) -> Process {
    let client = peer(host, ["hold", address]).spawn().unwrap();
    let said = client.read(Stream::Stdout, STEP).unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), "connected\n");
    client
}

fn carries(chip: HostChip) {
    let host = host(chip);
    let disk = Disk::new();
    // The developer's file system has no sockets for the nested host.
    let path = format!("/dev/shm/{chip}-vsock");
    let vsock = format!("cid=3,path={path}");
    let program = peer_disk(&disk);
    let arguments = ["--cpus", "2", "--disk", &program, "--vsock", &vsock];
    let mut console = guest(host, Kernel::Stable, &disk, &arguments);
    start_in_guest(&mut console);

    let (count, bytes) = (COUNT.to_string(), BYTES.to_string());
    let to_guest = format!("guest:{GUEST_PORT}:{path}");
    let exchange = || peer(host, ["exchange", &to_guest, &count, &bytes]);
    exchange().check(STEP).unwrap();

    // From the guest, to nobody and to somebody.
    let refused = format!("! /tmp/peer hold vsock:{HOST_PORT} 2>&1");
    let refused = run(&mut console, &refused);
    assert!(refused.contains("reset by peer"), "{refused}");
    let server_path = format!("{path}_{HOST_PORT}");
    let server = peer(host, ["serve", &format!("unix:{server_path}")]);
    let server = server.spawn().unwrap();
    let wait = format!("until grep -q ' {server_path}$' /proc/net/unix; do sleep 0.1; done");
    host.exec(["sh", "-c", &wait]).check(STEP).unwrap();
    let from_guest = format!("/tmp/peer exchange vsock:{HOST_PORT} {count} {bytes}");
    run(&mut console, &from_guest);

    // Pauses in the middle of both.
    run(&mut console, &format!("{from_guest} >/tmp/done 2>&1 &"));
    let running = exchange().spawn().unwrap();
    for _ in 0..3 {
        console.send("\x01p").unwrap();
        console.wait_for("the guest is paused", STEP).unwrap();
        console.send("\x01p").unwrap();
        console.wait_for("the guest goes on", STEP).unwrap();
    }
    let finished = running.finish(STEP).unwrap();
    assert!(finished.status.success(), "{finished}");
    run(&mut console, "wait $!; grep connections /tmp/done");

    // A reboot in the middle: connections end, and the socket serves the next boot.
    let held = hold(host, &to_guest);
    reboot(&mut console);
    assert!(held.finish(STEP).unwrap().status.success());
    start_in_guest(&mut console);
    exchange().check(STEP).unwrap();
    run(&mut console, &from_guest);

    let held = hold(host, &to_guest);
    power_off(console);
    assert!(held.finish(STEP).unwrap().status.success());
    server.signal(libc::SIGKILL).unwrap();
    let gone = format!("[ ! -e /host{path} ] && rm /host{server_path}");
    host.exec(["sh", "-c", &gone]).check(STEP).unwrap();
    disk.assert_clean();
}

#[test]
fn a_vsock_carries_data_both_ways() {
    for chip in chips() {
        carries(chip);
    }
}
