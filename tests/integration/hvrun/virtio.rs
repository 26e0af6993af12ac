//! Where virtio devices are, and in which version.

use std::fs;

use hv_lab::host::{Console, HostChip};
use hv_lab::provision::GUEST_PROMPT;

use crate::fixture::{BOOT, Disk, Kernel, chips, command, guest, host, power_off, run, text};

/// The feature bits that the driver of the device in the slot at this address took, bit 0 first.
fn features(console: &mut Console, address: &str) -> String {
    let file = format!("/sys/bus/platform/devices/{address}.virtio_mmio/virtio*/features");
    run(console, &format!("cat {file}"))
}

/// VIRTIO_F_VERSION_1.
fn is_modern(features: &str) -> bool {
    features.as_bytes()[32] == b'1'
}

/// The version that a test takes on this kind of host, so that both are seen in few boots.
pub fn version(chip: HostChip) -> &'static str {
    match chip {
        HostChip::Plic => "legacy",
        HostChip::Aia | HostChip::AiaFiles => "modern",
    }
}

/// A root disk with legacy registers in the last slot, and a modern one beside it.
#[test]
fn versions_and_slots_are_as_asked_for() {
    for chip in chips() {
        let disk = Disk::new();
        let data = disk.beside("data");
        fs::write(&data, [b'x'; 4096]).unwrap();
        let mut console = command(host(chip), Kernel::Small.arguments())
            .args(["--virtio", "legacy", "--cpus", "2"])
            .args([
                "--disk".into(),
                format!("{},slot=7", text(&disk.image)),
                "--disk".into(),
                format!("{},virtio=modern,readonly=on", text(&data)),
            ])
            .console()
            .unwrap()
            .reject("Kernel panic")
            .reject("Oops");
        console.wait_for(GUEST_PROMPT, BOOT).unwrap();
        assert!(run(&mut console, "cat /proc/cmdline").contains("root=/dev/vdb rw"));
        assert!(!is_modern(&features(&mut console, "10008000")));
        assert!(is_modern(&features(&mut console, "10001000")));
        run(
            &mut console,
            "test -e /sys/bus/platform/devices/10008000.virtio_mmio/virtio*/block/vdb",
        );
        assert_eq!(run(&mut console, "head -c 3 /dev/vda"), "xxx");
        run(
            &mut console,
            "seq 200000 > /root/numbers; sync; echo 3 > /proc/sys/vm/drop_caches",
        );
        assert_eq!(
            run(&mut console, "md5sum < /root/numbers"),
            run(&mut console, "seq 200000 | md5sum")
        );
        power_off(console);
        disk.assert_clean();
        assert_eq!(disk.read_file("/root/numbers").lines().count(), 200_000);
    }
}

/// Random numbers come from the device in the slot after the disk's.
#[test]
fn the_entropy_device_gives_random_numbers() {
    for chip in chips() {
        let disk = Disk::new();
        let arguments = ["--rng", "--virtio", version(chip)];
        let mut console = guest(host(chip), Kernel::Small, &disk, &arguments);
        assert_eq!(
            is_modern(&features(&mut console, "10002000")),
            chip == HostChip::Aia
        );
        let current = run(&mut console, "cat /sys/class/misc/hw_random/rng_current");
        assert!(current.starts_with("virtio_rng"), "{current}");
        assert_eq!(
            run(&mut console, "head -c 100000 /dev/hwrng | wc -c"),
            "100000"
        );
        let mut draw = || run(&mut console, "head -c 16 /dev/hwrng | md5sum");
        assert_ne!(draw(), draw());
        power_off(console);
    }
}
