//! A guest on a tap interface of its host.

use std::fs;
use std::io::Read;

use hv_lab::host::{Host, LOCAL_ROOT};

use crate::fixture::{
    Disk, Kernel, STEP, chips, command, guest, host, power_off, reboot, run, text,
};
use crate::virtio::version;

const MAC: &str = "52:54:00:c0:ff:ee";

/// A program of the host, which has to succeed.
fn on_host(host: &Host, line: &str) -> String {
    let finished = host.exec(["sh", "-c", line]).check(STEP).unwrap();
    finished.stdout_text()
}

/// What is sent: far more than all queues and buffers on the way hold.
const SIZE: usize = 4 << 20;

/// Sends a file or a disk to whoever connects to this port.
fn send(path: &str, port: u32) -> String {
    format!("dd if={path} bs=64k | nc -l -p {port}")
}

/// Fetches what the other side sends, once it listens, and gives its checksum. busybox's nc ends when the other side has
/// nothing more to say, so the one that receives has an input that does not end: a FIFO that it has open for writing too.
fn fetch(address: &str, port: u32) -> String {
    format!(
        "mkfifo /tmp/open{port}; until nc {address} {port} <>/tmp/open{port} >/tmp/got{port}; do sleep 0.1; done; \
         md5sum </tmp/got{port}; rm /tmp/*{port}"
    )
}

/// On the interface `tapN` in the network 10.N.0.0, with vhost on or off.
fn carries(host: &Host, number: u32, vhost: &str) {
    let tap = format!("tap{number}");
    let (host_address, guest_address) = (format!("10.{number}.0.1"), format!("10.{number}.0.2"));
    let port = 5000 + number;
    let disk = Disk::new();
    let data = disk.beside("data.img");
    let mut bytes = vec![0; SIZE];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    fs::write(&data, bytes).unwrap();
    let net = format!("tap={tap},mac={MAC},vhost={vhost}");
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
        &format!("ip addr add {host_address}/24 dev {tap}; ip link set {tap} up"),
    );
    // A reboot leaves the interface and the address as they are.
    reboot(&mut console);
    assert_eq!(run(&mut console, "cat /sys/class/net/eth0/address"), MAC);
    run(
        &mut console,
        &format!("ip addr add {guest_address}/24 dev eth0; ip link set eth0 up"),
    );
    run(&mut console, &format!("ping -c 3 {host_address}"));
    on_host(host, &format!("ping -c 3 -s 1400 {guest_address}"));

    if vhost == "on" {
        // The kernel's threads bear the name of what they serve.
        on_host(host, "cat /proc/[0-9]*/task/*/comm | grep ^vhost-");
    }

    let nested = format!("{LOCAL_ROOT}{}", text(&data));
    let expected = on_host(host, &format!("md5sum <{nested}"));
    let sender = host
        .exec(["sh", "-c", &send(&nested, port)])
        .spawn()
        .unwrap();
    assert_eq!(run(&mut console, &fetch(&host_address, port)), expected);
    assert!(sender.finish(STEP).unwrap().status.success());
    run(
        &mut console,
        &format!("{} 2>/dev/null &", send("/dev/vdb", port)),
    );
    assert_eq!(on_host(host, &fetch(&guest_address, port)), expected);

    let second = command(host, Kernel::Stable.arguments())
        .args(["--net", &net])
        .output(STEP)
        .unwrap();
    assert_eq!(second.status.code(), Some(1), "{second}");
    assert!(second.stderr_text().contains("in use"), "{second}");
    power_off(console);
    // Made for this guest, and gone with it.
    on_host(host, &format!("! ip link show {tap}"));
}

#[test]
fn a_tap_interface_carries_data_both_ways() {
    for chip in chips() {
        carries(host(chip), 7, "off");
    }
}

#[test]
fn the_host_s_kernel_carries_data_both_ways() {
    for chip in chips() {
        carries(host(chip), 8, "on");
    }
}

/// The guest's interface begins with what the tap carries, or what the user says, whoever serves it.
#[test]
fn the_guest_has_the_mtu_of_the_tap() {
    for chip in chips() {
        let host = host(chip);
        let disk = Disk::new();
        on_host(host, "tunctl -t mtu0 && ip link set mtu0 mtu 1400 up");
        for (options, expected) in [
            ("vhost=off", "1400"),
            ("vhost=on", "1400"),
            ("vhost=off,mtu=1300", "1300"),
            ("vhost=on,mtu=1300", "1300"),
        ] {
            let net = format!("tap=mtu0,{options}");
            let arguments = ["--net", &net, "--virtio", version(chip)];
            let mut console = guest(host, Kernel::Small, &disk, &arguments);
            let mtu = run(&mut console, "cat /sys/class/net/eth0/mtu");
            assert_eq!(mtu, expected, "{options} on {chip:?}");
            power_off(console);
        }
        on_host(host, "tunctl -d mtu0");
    }
}

/// Two guests on a bridge of the host reach each other.
#[test]
fn two_guests_meet_on_a_bridge() {
    for chip in chips() {
        let host = host(chip);
        on_host(host, "ip link add br0 type bridge; ip link set br0 up");
        let disks = [Disk::new(), Disk::new()];
        let mut guests = [1, 2].map(|number| {
            let net = format!("tap=bridged{number}");
            let index = number - 1;
            let mut console = guest(host, Kernel::Small, &disks[index], &["--net", &net]);
            on_host(
                host,
                &format!("ip link set bridged{number} master br0; ip link set bridged{number} up"),
            );
            run(
                &mut console,
                &format!("ip addr add 10.9.0.{number}/24 dev eth0; ip link set eth0 up"),
            );
            console
        });
        run(&mut guests[0], "ping -c 3 -s 1400 10.9.0.2");
        // Some 2 MB: the program that everything in the guest is.
        const FILE: &str = "/proc/1/exe";
        run(
            &mut guests[0],
            &format!("{} 2>/dev/null &", send(FILE, 5009)),
        );
        let sent = run(&mut guests[0], &format!("md5sum <{FILE}"));
        assert_eq!(run(&mut guests[1], &fetch("10.9.0.1", 5009)), sent);
        for console in guests {
            power_off(console);
        }
        on_host(host, "ip link del br0");
    }
}
