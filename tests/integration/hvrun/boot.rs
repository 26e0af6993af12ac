//! Linux boots from a disk: every kernel, on the usual kinds of host, with one and with four harts, and once on the third.

use hv_lab::host::HostChip;

use crate::fixture::{Disk, Kernel, guest, host, power_off, run};

fn boots(chip: HostChip, kernel: Kernel, cpus: u32) {
    let disk = Disk::new();
    let mut console = guest(host(chip), kernel, &disk, &["--cpus", &cpus.to_string()]);
    assert_eq!(run(&mut console, "nproc"), cpus.to_string());
    let driver = match chip {
        HostChip::Plic => "SiFive PLIC",
        HostChip::Aia | HostChip::AiaFiles => "APLIC-MSI",
    };
    let interrupts = run(&mut console, "cat /proc/interrupts");
    for device in ["ttyS0", "virtio0"] {
        let line = interrupts
            .lines()
            .find(|line| line.contains(device))
            .unwrap();
        assert!(line.contains(driver), "{interrupts}");
    }
    // The guest has what KVM gives a vCPU of this host, H excepted.
    let isa = run(&mut console, "grep -m1 ^isa /proc/cpuinfo");
    let isa = isa.split_once(": ").unwrap().1;
    assert!(isa.starts_with("rv64imafdc"), "{isa}");
    assert!(isa.contains("_sstc"), "{isa}");
    assert_eq!(isa.contains("_ssaia"), chip.has_aia(), "{isa}");
    // All harts do work, and what they write arrives on the disk.
    run(
        &mut console,
        "for n in $(seq 8); do seq 5000 | md5sum > /root/sum.$n & done; wait; sync",
    );
    assert_eq!(run(&mut console, "sort -u /root/sum.* | wc -l"), "1");
    run(&mut console, "echo written by the guest > /root/file; sync");
    power_off(console);
    disk.assert_clean();
    assert_eq!(disk.read_file("/root/file"), "written by the guest\n");
}

macro_rules! boots {
    ($($(#[$attribute:meta])? $name:ident: $chip:ident $kernel:ident $cpus:literal;)*) => {
        $(#[test]
        $(#[$attribute])?
        fn $name() {
            boots(HostChip::$chip, Kernel::$kernel, $cpus);
        })*
    };
}

boots! {
    plic_stable_1: Plic Stable 1;
    #[ignore = "in a complete run: cargo test -- --include-ignored"]
    plic_stable_4: Plic Stable 4;
    #[ignore = "in a complete run: cargo test -- --include-ignored"]
    plic_backports_1: Plic Backports 1;
    plic_backports_4: Plic Backports 4;
    plic_small_1: Plic Small 1;
    #[ignore = "in a complete run: cargo test -- --include-ignored"]
    plic_small_4: Plic Small 4;
    #[ignore = "in a complete run: cargo test -- --include-ignored"]
    aia_stable_1: Aia Stable 1;
    aia_stable_4: Aia Stable 4;
    aia_backports_1: Aia Backports 1;
    #[ignore = "in a complete run: cargo test -- --include-ignored"]
    aia_backports_4: Aia Backports 4;
    aia_small_1: Aia Small 1;
    #[ignore = "in a complete run: cargo test -- --include-ignored"]
    aia_small_4: Aia Small 4;
    #[ignore = "in a complete run: cargo test -- --include-ignored"]
    aia_files_stable_2: AiaFiles Stable 2;
}

/// A user can ask for the PLIC where the host has both.
#[test]
fn an_aia_host_can_give_a_plic() {
    let disk = Disk::new();
    let mut console = guest(
        host(HostChip::Aia),
        Kernel::Small,
        &disk,
        &["--irqchip", "plic", "--cpus", "2"],
    );
    assert!(run(&mut console, "cat /proc/interrupts").contains("SiFive PLIC"));
    assert!(!run(&mut console, "grep -m1 ^isa /proc/cpuinfo").contains("ssaia"));
    power_off(console);
}

/// The SBI debug console carries a console of its own, both ways.
#[test]
fn the_debug_console_is_a_console() {
    let disk = Disk::new();
    let line = "console=hvc0 root=/dev/vda rw";
    let mut console = guest(
        host(HostChip::Plic),
        Kernel::Small,
        &disk,
        &["--cmdline", line],
    );
    assert_eq!(run(&mut console, "tty"), "/dev/hvc0");
    power_off(console);
}
