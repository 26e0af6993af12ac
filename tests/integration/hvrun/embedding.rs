//! Programs that embed the library: the examples.

use hv_lab::host::{Exec, Host, HostChip, Stdio};
use hv_lab::provision::{self, GUEST_GREETING, GUEST_PROMPT};

use crate::fixture::{BOOT, Disk, Kernel, STEP, chips, host, run, text};

/// An example, without a terminal: it would have to be made raw.
fn example(host: &Host, name: &str) -> Exec {
    let binary = provision::cross_build_example("hv-vmm", name).unwrap();
    host.local(&binary).unwrap().stdin(Stdio::Pipe)
}

#[test]
fn the_shortest_boot() {
    let disk = Disk::new();
    let kernel = provision::small_kernel().unwrap().image;
    let [_, path] = disk.argument();
    let mut console = example(host(HostChip::Plic), "boot")
        .args([text(&kernel), path])
        .console()
        .unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    assert_eq!(run(&mut console, "tty"), "/dev/ttyS0");
    console.send_line("poweroff").unwrap();
    let (status, rest) = console.wait_for_end(BOOT).unwrap();
    assert_eq!(status.code(), Some(0), "{status}: {rest}");
    disk.assert_clean();
}

/// The guest sees the example's own devices, in the device tree and behind their registers; a reboot creates them anew.
#[test]
fn devices_of_the_program_s_own() {
    for chip in chips() {
        let disk = Disk::new();
        let mut console = example(host(chip), "own_device")
            .args(Kernel::Stable.arguments())
            .args(disk.argument())
            .args(["--serial", "/dev/null"])
            .console()
            .unwrap();
        console.wait_for(GUEST_PROMPT, BOOT).unwrap();
        for boot in 0..2 {
            let node = "/proc/device-tree/soc/counter@4000000";
            let compatible = format!("tr -d '\\0' < {node}/compatible");
            assert_eq!(run(&mut console, &compatible), "example,counter");
            let source = format!("head -c 4 {node}/interrupts | od -An -tx1");
            assert_eq!(run(&mut console, &source).trim(), "00 00 00 24");
            assert_eq!(run(&mut console, "busybox devmem 0x4000000"), "0x00000000");
            run(&mut console, "busybox devmem 0x4000000 32 3");
            run(&mut console, "busybox devmem 0x4000000 32 4");
            assert_eq!(run(&mut console, "busybox devmem 0x4000000"), "0x00000007");
            // Another width than the register's.
            assert_eq!(run(&mut console, "busybox devmem 0x4000000 8"), "0x00");
            let found = "grep -l 0xffff /sys/bus/virtio/devices/*/device | wc -l";
            assert_eq!(run(&mut console, found), "1");
            if boot == 0 {
                console.send_line("reboot").unwrap();
                console.wait_for(GUEST_GREETING, BOOT).unwrap();
                console.wait_for(GUEST_PROMPT, BOOT).unwrap();
            }
        }
        console.send_line("poweroff").unwrap();
        let (status, rest) = console.wait_for_end(STEP).unwrap();
        assert_eq!(status.code(), Some(0), "{status}: {rest}");
        disk.assert_clean();
    }
}
