//! What KVM or vhost-net refuses though the host has it: guests get what there is instead, and their user one line that says
//! why.

use hv_lab::host::{Exec, FinishedProcess, Host, HostChip};
use hv_lab::provision::GUEST_PROMPT;
use hv_lab::test_kernel::{Machine, Virtio};
use serde_json::Value;

use crate::fixture::{BOOT, Disk, Kernel, STEP, command, host, power_off, run};
use crate::test_kernel::{judge_on_hvrun_with, kernel};

/// Requests of ioctl(2) (linux/kvm.h, linux/vhost.h).
const KVM_CREATE_DEVICE: u32 = 0xc00c_aee0;
const KVM_SET_DEVICE_ATTR: u32 = 0x4018_aee1;
const KVM_GET_DEVICE_ATTR: u32 = 0x4018_aee2;
const KVM_IRQFD: u32 = 0x4020_ae76;
const KVM_IOEVENTFD: u32 = 0x4040_ae79;
const VHOST_NET_SET_BACKEND: u32 = 0x4008_af30;

/// The steps of making an AIA that the kernel can be told to refuse, and what the message calls them. That of an irqfd comes
/// last, when the chip is ready.
const AIA_STEPS: [(u32, &str); 4] = [
    (KVM_CREATE_DEVICE, "create the device"),
    (KVM_GET_DEVICE_ATTR, "number of interrupt identities"),
    (KVM_SET_DEVICE_ATTR, "number of interrupt identities"),
    (KVM_IRQFD, "connect an eventfd"),
];

fn refusing(exec: Exec, request: u32) -> Exec {
    exec.refuse_ioctl(request, libc::EINVAL)
}

/// The test kernel, which ends at once with this code.
fn guest(host: &Host, code: i32) -> Exec {
    let line = format!("fail={code}");
    command(host, ["--kernel", &kernel(), "--cmdline", &line, "--rng"])
}

/// It said one line, with all of these in it.
fn said(finished: &FinishedProcess, expected: &[&str]) {
    let text = finished.stderr_text();
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_guest_gets_a_plic_where_kvm_refuses_any_step_of_its_aia() {
    let host = host(HostChip::Aia);
    for (request, step) in AIA_STEPS {
        let finished = refusing(guest(host, 42), request).output(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(42), "{step}: {finished}");
        said(
            &finished,
            &["hvrun: warning: ", "PLIC", step, "Invalid argument"],
        );

        let insisting = guest(host, 42).args(["--irqchip", "aia"]);
        let finished = refusing(insisting, request).output(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(1), "{step}: {finished}");
        said(
            &finished,
            &["AIA", step, "Invalid argument", "--irqchip plic"],
        );

        let without = guest(host, 42).args(["--irqchip", "plic"]);
        let finished = refusing(without, request).output(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(42), "{step}: {finished}");
        assert_eq!(finished.stderr_text(), "");
    }
}

/// It is the chip of a machine that never had an AIA, which a machine that was given one cannot have.
#[test]
fn that_plic_is_as_good_as_any() {
    let host = host(HostChip::Aia);
    let machine = Machine::hvrun(HostChip::Aia, HostChip::Plic, 2, Virtio::Modern);
    judge_on_hvrun_with(host, machine, |exec| {
        refusing(exec, KVM_IRQFD).args(["--irqchip", "auto"])
    });
}

#[test]
fn the_doctor_says_that_guests_do_without_the_aia() {
    let host = host(HostChip::Aia);
    for (request, step) in AIA_STEPS {
        let doctor = command(host, ["doctor", "--json"]);
        let finished = refusing(doctor, request).output(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(0), "{step}: {finished}");
        let report: Value = serde_json::from_str(&finished.stdout_text()).unwrap();
        assert_eq!(report["can_boot"], true, "{report:#}");
        let kvm = &report["kvm"];
        assert_eq!(kvm["irqchips"], serde_json::json!(["plic"]), "{report:#}");
        assert!(kvm["aia"].is_null(), "{report:#}");
        let problem = kvm["aia_problem"].as_str().unwrap();
        assert!(problem.contains(step), "{problem}");
    }
}

/// Notifications of virtqueues then leave the guest, which its driver does not notice.
#[test]
fn a_device_works_without_ioeventfds() {
    let host = host(HostChip::Plic);
    let machine = Machine::hvrun(HostChip::Plic, HostChip::Plic, 2, Virtio::Modern);
    judge_on_hvrun_with(host, machine, |exec| refusing(exec, KVM_IOEVENTFD));
    let finished = refusing(guest(host, 42), KVM_IOEVENTFD)
        .output(STEP)
        .unwrap();
    assert_eq!(finished.status.code(), Some(42), "{finished}");
    said(&finished, &["warning: ", "ioeventfd", "Invalid argument"]);
}

/// The last step of vhost-net's set-up, when the queues and their events are the kernel's already: hvrun takes them back.
#[test]
fn a_network_works_where_vhost_net_refuses_its_last_step() {
    let host = host(HostChip::Plic);
    let disk = Disk::new();
    let exec = command(host, Kernel::Stable.arguments()).args(disk.argument());
    let exec = exec.args(["--net", "tap=refused0,vhost=auto"]);
    let mut console = refusing(exec, VHOST_NET_SET_BACKEND).console().unwrap();
    // When the guest's driver sets the device up.
    let warning = "the host's kernel does not serve the guest's queues";
    console.wait_for(warning, BOOT).unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    let up = "ip addr add 10.33.0.1/24 dev refused0; ip link set refused0 up";
    host.exec(["sh", "-c", up]).check(STEP).unwrap();
    let up = "ip addr add 10.33.0.2/24 dev eth0; ip link set eth0 up";
    run(&mut console, up);
    run(&mut console, "ping -c 3 -s 1400 10.33.0.1");
    power_off(console);
}
