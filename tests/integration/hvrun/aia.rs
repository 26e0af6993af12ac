//! Hosts whose AIA is not what QEMU makes it.

use hv_lab::host::{Host, HostChip, HostConfig, SUPERVISOR_IMSICS};
use hv_lab::test_kernel::{Machine, Virtio};

use crate::doctor::report;
use crate::fixture::{Disk, Kernel, guest, hvrun, power_off, run};
use crate::test_kernel::judge_on_hvrun_with;

/// A cell of the guest's device tree.
fn cell(console: &mut hv_lab::host::Console, node: &str, property: &str) -> u32 {
    let path = format!("/proc/device-tree/soc/{node}/{property}");
    let words = run(console, &format!("hexdump -v -e '4/1 \"%02x\"' '{path}'"));
    u32::from_str_radix(words.trim(), 16).unwrap()
}

/// A host whose harts have guest interrupt files, which KVM gives to guests as their IMSICs, of 63 identities, no more than
/// the AIA specification demands: `property` of its device tree says so. The doctor makes a guest's AIA there.
fn host_with_small_interrupt_files(property: &str) -> Host {
    hvrun();
    let config = HostConfig::new(HostChip::AiaFiles)
        .tree_cell(SUPERVISOR_IMSICS, property, 63)
        // What an AIA takes, and else what is emulated fast.
        .cpu("rv64,h=true,smaia=on,ssaia=on,sv57=off,sv48=off");
    let host = Host::boot(config).unwrap();
    let report = report(&host, 0);
    let aia = &report["kvm"]["aia"];
    assert_eq!(aia["guest_interrupt_files"], true, "{report:#}");
    assert_eq!(aia["identities"], 63, "{report:#}");
    assert!(report["kvm"]["aia_problem"].is_null(), "{report:#}");
    host
}

/// SpacemiT's K3 is such a host. Guests get an AIA there by default, whose device tree says what KVM was told.
#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn guest_interrupt_files_of_63_identities() {
    let host = host_with_small_interrupt_files("riscv,num-guest-ids");
    let machine = Machine::hvrun(HostChip::AiaFiles, HostChip::AiaFiles, 2, Virtio::Modern);
    judge_on_hvrun_with(&host, machine, |exec| exec);

    let disk = Disk::new();
    let mut console = guest(&host, Kernel::Stable, &disk, &["--cpus", "2"]);
    let interrupts = run(&mut console, "cat /proc/interrupts");
    assert!(interrupts.contains("APLIC"), "{interrupts}");
    assert_eq!(run(&mut console, "nproc").trim(), "2");
    let ids = cell(
        &mut console,
        "interrupt-controller@28000000",
        "riscv,num-ids",
    );
    let sources = cell(
        &mut console,
        "interrupt-controller@d000000",
        "riscv,num-sources",
    );
    assert_eq!((ids, sources), (63, 63));
    power_off(console);
}

/// Where the device tree has no number for the guests' files, they have as many identities as the host's own.
#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn interrupt_files_of_63_identities() {
    let host = host_with_small_interrupt_files("riscv,num-ids");
    let machine = Machine::hvrun(HostChip::AiaFiles, HostChip::AiaFiles, 1, Virtio::Modern);
    judge_on_hvrun_with(&host, machine, |exec| exec);
}
