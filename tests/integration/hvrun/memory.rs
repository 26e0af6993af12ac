//! A guest whose memory is made of the host's reserved huge pages.

use hv_lab::host::{Host, HostChip, HostConfig};

use crate::fixture::{Disk, Kernel, STEP, command, guest, hvrun, power_off, reboot, run};

/// What the guest has, in all tests here: MiB, and huge pages of 2 MiB.
const MEMORY: &str = "128M";
const PAGES: u64 = 64;

/// The number that a command of the host prints.
fn number(host: &Host, script: &str) -> u64 {
    let said = host.exec(["sh", "-c", script]).check(STEP).unwrap();
    let said = said.stdout_text();
    said.trim()
        .parse()
        .unwrap_or_else(|_| panic!("{script}: {said}"))
}

fn free(host: &Host) -> u64 {
    // Pages that a mapping has been promised, and has not touched, are among the free ones (proc_meminfo(5)).
    number(
        host,
        "awk '/^HugePages_Free/ { free = $2 } /^HugePages_Rsvd/ { promised = $2 } END { print free - promised }' /proc/meminfo",
    )
}

fn reserve(host: &Host, pages: u64) {
    let script = format!("echo {pages} > /proc/sys/vm/nr_hugepages; cat /proc/sys/vm/nr_hugepages");
    assert_eq!(number(host, &script), pages, "the host has the memory");
}

/// hvrun ends with 1 and one line, which has all of these in it.
fn fails(host: &Host, memory: &str, expected: &[&str]) {
    let finished = command(host, Kernel::Small.arguments())
        .args(["--hugepages", "--memory", memory])
        .output(STEP)
        .unwrap();
    let error = finished.stderr_text();
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for part in expected {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn boots_from_huge_pages(chip: HostChip) {
    hvrun();
    let host = Host::boot(HostConfig::new(chip)).unwrap();
    fails(&host, MEMORY, &["64 huge pages", "vm.nr_hugepages=64"]);
    fails(&host, "127M", &["--hugepages", "multiple of 2M"]);
    reserve(&host, PAGES + 2);

    let disk = Disk::new();
    let mut console = guest(
        &host,
        Kernel::Small,
        &disk,
        &["--hugepages", "--memory", MEMORY],
    );
    assert_eq!(free(&host), 2, "the rest is the guest's");
    // proc_pid_smaps(5): what of a mapping is huge pages, KiB. hvrun alone has such.
    let of_hvrun = number(
        &host,
        "cat /proc/$(pidof hvrun)/smaps | awk '/^Private_Hugetlb/ { sum += $2 } END { print sum }'",
    );
    assert!(
        of_hvrun >= 16 << 10 && of_hvrun.is_multiple_of(2048),
        "{of_hvrun} KiB of a guest that has booted"
    );
    fails(&host, MEMORY, &["64 huge pages", "vm.nr_hugepages=128"]);

    // Devices reach it: what is written arrives on the disk.
    run(
        &mut console,
        "seq 20000 > /root/file; sync; md5sum /root/file",
    );
    // Another boot of the guest has them anew.
    reboot(&mut console);
    assert_eq!(free(&host), 2);
    assert_eq!(run(&mut console, "tail -n 1 /root/file"), "20000");
    power_off(console);
    assert_eq!(free(&host), PAGES + 2, "the host has all of them back");
}

#[test]
fn huge_pages_plic() {
    boots_from_huge_pages(HostChip::Plic);
}

#[test]
fn huge_pages_aia() {
    boots_from_huge_pages(HostChip::Aia);
}
