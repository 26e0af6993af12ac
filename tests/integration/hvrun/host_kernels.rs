//! Hosts of other kernels than Debian stable's. What differs there in KVM is tested here; the test kernel runs on them as well.

use crate::fixture::{CHIPS, Disk, Kernel, guest, newest_host, power_off, run};

/// Programs read the time by the vDSO, which reads the `time` register. The small kernel relies on firmware to allow that, and
/// KVM does not allow it any more at the start of a hart.
#[test]
fn programs_of_an_older_linux_read_the_time_on_the_newest_host() {
    for chip in CHIPS {
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
