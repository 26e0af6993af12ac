//! Hosts of other kernels than Debian stable's: the newest that there is, and the oldest that hvrun runs on. What differs
//! there in KVM is tested here; the test kernel runs on them as well.

use hv_lab::host::HostChip;

use crate::fixture::{
    Disk, Kernel, STEP, chips, guest, newest_host, oldest_host, power_off, reboot, run,
};

/// Programs read the time by the vDSO, which reads the `time` register. The small kernel relies on firmware to allow that, and
/// KVM does not allow it any more at the start of a hart.
#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn programs_of_an_older_linux_read_the_time_on_the_newest_host() {
    for chip in chips() {
        let disk = Disk::new();
        let arguments = ["--cpus", "3"];
        let mut console = guest(newest_host(chip), Kernel::Small, &disk, &arguments);
        let everywhere = "for cpu in 0 1 2; do taskset -c $cpu date +%s || break; done";
        assert_eq!(run(&mut console, everywhere).lines().count(), 3);
        run(&mut console, "taskset -c 2 ping -c 1 127.0.0.1");
        // A hart that is switched off for a while and comes back.
        run(
            &mut console,
            "cd /sys/devices/system/cpu/cpu1; echo 0 > online; sleep 5; echo 1 > online; sleep 1; cd",
        );
        assert_eq!(run(&mut console, everywhere).lines().count(), 3);
        power_off(console);
    }
}

/// A guest boots on the oldest host, and reboots. The host's harts have Smstateen, which that KVM does not know: a guest must not
/// be told of what needs `senvcfg`.
fn boots_twice_on_the_oldest_host(kernel: Kernel) {
    let disk = Disk::new();
    let mut console = guest(oldest_host(), kernel, &disk, &["--cpus", "2"]);
    assert_eq!(run(&mut console, "nproc"), "2");
    let isa = run(&mut console, "grep -m1 ^isa /proc/cpuinfo");
    assert!(!isa.contains("zicbo"), "{isa}");
    run(&mut console, "echo kept > /root/file; sync");
    reboot(&mut console);
    assert_eq!(run(&mut console, "cat /root/file"), "kept");
    power_off(console);
    disk.assert_clean();
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn a_small_linux_boots_twice_on_the_oldest_host() {
    boots_twice_on_the_oldest_host(Kernel::Small);
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn the_newest_linux_boots_twice_on_the_oldest_host() {
    boots_twice_on_the_oldest_host(Kernel::Backports);
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn the_oldest_host_is_one_with_smstateen() {
    assert_eq!(oldest_host().chip(), HostChip::Plic);
    let isa = "cat /sys/firmware/devicetree/base/cpus/cpu@0/riscv,isa";
    let isa = oldest_host().exec(["sh", "-c", isa]).check(STEP).unwrap();
    assert!(isa.stdout_text().contains("_smstateen"), "{isa}");
    let release = oldest_host().exec(["uname", "-r"]).check(STEP).unwrap();
    assert!(release.stdout_text().starts_with("6.1."), "{release}");
}
