//! The device tree that hvrun gives a guest, as dtc reads it.

use std::process::Output;

use hv_lab::host::HostChip;
use hv_lab::provision;

use crate::fixture::Kernel;
use crate::fixture::{STEP, chips, command, host, text};

/// The tree's source, after dtc has had nothing to say about it.
fn dumped(chip: HostChip, more: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let blob = directory.path().join("guest.dtb");
    let finished = command(host(chip), Kernel::Stable.arguments())
        .args(["--dump-dtb", &text(&blob)])
        .args(more.iter().copied())
        .output(STEP)
        .unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished}");
    let Output {
        status,
        stdout,
        stderr,
    } = provision::dtc()
        .unwrap()
        .args(["-I", "dtb", "-O", "dts"])
        .arg(&blob)
        .output()
        .unwrap();
    assert!(
        status.success() && stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&stderr)
    );
    // Before version 1.7, dtc shows a list of strings as one.
    String::from_utf8(stdout).unwrap().replace("\\0", "\", \"")
}

/// What comes out of stdout is what a file gets, but for the seed.
#[test]
fn a_tree_on_stdout() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("guest.dtb");
    let dump = |to: &str| {
        let exec = command(host(HostChip::Plic), Kernel::Stable.arguments());
        exec.args(["--dump-dtb", to]).check(STEP).unwrap().stdout
    };
    let stdout = dump("-");
    assert!(dump(&text(&file)).is_empty());
    let written = std::fs::read(&file).unwrap();
    assert_eq!(stdout.get(..8), written.get(..8));
    assert_eq!(stdout.len(), written.len());
}

#[test]
fn dtc_accepts_every_tree_without_a_warning() {
    for chip in chips() {
        for more in [
            &["--cpus", "1"][..],
            &["--cpus", "4", "--memory", "3G"],
            &["--irqchip", "plic", "--cpus", "3"],
        ] {
            let tree = dumped(chip, more);
            let cpus = tree
                .matches("riscv,isa-extensions = \"i\", \"m\", \"a\"")
                .count();
            assert_eq!(
                cpus,
                if more.contains(&"4") {
                    4
                } else if more.contains(&"3") {
                    3
                } else {
                    1
                },
                "{tree}"
            );
            let plic = chip == HostChip::Plic || more.contains(&"plic");
            assert_eq!(tree.contains("riscv,plic0"), plic, "{tree}");
            assert_eq!(tree.contains("riscv,imsics"), !plic, "{tree}");
            assert_eq!(tree.contains("ssaia"), !plic, "{tree}");
            for expected in [
                "riscv,isa-base = \"rv64i\"",
                "timebase-frequency = <",
                "mmu-type = \"riscv,sv",
                "linux,initrd-end",
            ] {
                assert!(tree.contains(expected), "{expected}: {tree}");
            }
            assert_eq!(
                tree.matches("compatible = \"virtio,mmio\"").count(),
                8,
                "{tree}"
            );
        }
    }
}

#[test]
fn the_command_line_is_the_user_s_or_what_the_disks_imply() {
    assert!(dumped(HostChip::Plic, &[]).contains("bootargs = \"console=ttyS0\";"));
    assert!(
        dumped(HostChip::Plic, &["--cmdline", "quiet x=1"]).contains("bootargs = \"quiet x=1\";")
    );
    let disk = crate::fixture::Disk::new();
    let argument = text(&disk.image);
    assert!(
        dumped(HostChip::Plic, &["--disk", &argument])
            .contains("bootargs = \"console=ttyS0 root=/dev/vda rw\";")
    );
    let argument = argument + ",readonly=on";
    assert!(
        dumped(HostChip::Plic, &["--disk", &argument])
            .contains("bootargs = \"console=ttyS0 root=/dev/vda ro\";")
    );
}
