//! What the threads of hvrun have given up when a guest runs. What becomes of a thread that makes a forbidden call is a unit test.

use std::collections::BTreeMap;

use hv_lab::host::{Console, Host, HostChip};
use hv_lab::provision::GUEST_PROMPT;

use crate::fixture::{
    BOOT, Disk, Kernel, STEP, command, guest, host, newest_host, power_off, reboot, run,
};

/// All kinds of devices but a network interface.
const DEVICES: &[&str] = &[
    "--cpus",
    "2",
    "--rng",
    "--console",
    "serial",
    "--console",
    "virtio,to=pty",
];

/// It is gone when the guest ends.
const NETWORK: &[&str] = &["--net", "tap=confined"];

/// What there is with these devices, beside the thread of a network interface.
const THREADS: [&str; 8] = [
    "hvrun",
    "messages",
    "vcpu0",
    "vcpu1",
    "virtio-blk-0",
    "virtio-rng",
    "virtio-console",
    "console-out",
];

/// The lines of /proc/PID/task/TID/status that matter here, of each thread.
fn threads(host: &Host, console: &Console) -> Vec<BTreeMap<String, String>> {
    let pid = console.process().pid();
    let look = format!("cat /proc/{pid}/task/*/status");
    let status = host.exec(["sh", "-c", &look]).check(STEP).unwrap();
    let mut threads = Vec::new();
    for line in status.stdout_text().lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        if key == "Name" {
            threads.push(BTreeMap::new());
        }
        if let Some(thread) = threads.last_mut() {
            thread.insert(key.to_owned(), value.trim().to_owned());
        }
    }
    threads
}

fn work(console: &mut Console) {
    run(
        console,
        "dd if=/dev/zero of=/root/file bs=64k count=4 conv=fsync 2>/dev/null; ip link set eth0 up 2>/dev/null; \
         head -c 100 /dev/hwrng | wc -c; echo to hvc0 > /dev/hvc0",
    );
}

fn every_thread_is_confined(host: &Host, network: &[&str]) {
    let disk = Disk::new();
    let devices = [DEVICES, network].concat();
    let mut console = guest(host, Kernel::Small, &disk, &devices);
    let networks = network.iter().skip(1).map(|_| "virtio-net-0");
    for boot in 0..2 {
        work(&mut console);
        let threads = threads(host, &console);
        for name in THREADS.into_iter().chain(networks.clone()) {
            let known = threads.iter().any(|thread| thread["Name"] == name);
            assert!(known, "boot {boot}: {name} is not among {threads:?}");
        }
        for thread in &threads {
            let name = &thread["Name"];
            assert_eq!(thread["Seccomp"], "2", "boot {boot}, {name}: a filter");
            assert_eq!(thread["NoNewPrivs"], "1", "boot {boot}, {name}");
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                assert_eq!(
                    thread[set], "0000000000000000",
                    "boot {boot}, {name}: {set}"
                );
            }
        }
        if boot == 0 {
            reboot(&mut console);
        }
    }
    power_off(console);
    disk.assert_clean();
}

#[test]
fn every_thread_is_confined_on_a_plic_host() {
    every_thread_is_confined(host(HostChip::Plic), NETWORK);
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn every_thread_is_confined_on_a_host_with_the_newest_kernel() {
    // Its module for tap interfaces is not there.
    every_thread_is_confined(newest_host(HostChip::Aia), &[]);
}

#[test]
fn what_would_be_refused_is_logged_and_a_guest_needs_nothing_of_it() {
    let disk = Disk::new();
    let mut console = command(host(HostChip::Aia), Kernel::Small.arguments())
        .args(disk.argument())
        .args(DEVICES.iter().chain(NETWORK).copied())
        .args(["--sandbox", "log", "--log-level", "info"])
        .console()
        .unwrap();
    let in_force = "sandbox: off; each system call that it would refuse is logged";
    console.wait_for(in_force, BOOT).unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    work(&mut console);
    reboot(&mut console);
    work(&mut console);
    console.send_line("poweroff").unwrap();
    let (status, _) = console.wait_for_end(STEP).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    let printed = console.transcript();
    assert!(!printed.contains("sandbox: the thread"), "{printed}");
}

#[test]
fn without_a_sandbox_threads_keep_the_rights_of_the_process() {
    let host = host(HostChip::Plic);
    let disk = Disk::new();
    let console = guest(host, Kernel::Small, &disk, &["--sandbox", "off"]);
    for thread in threads(host, &console) {
        assert_eq!(thread["Seccomp"], "0", "{thread:?}");
        assert_ne!(thread["CapEff"], "0000000000000000", "{thread:?}");
    }
    power_off(console);
}
