//! `hvrun doctor`: what it finds on hosts whose truth is known.

use hv_lab::host::{FinishedProcess, Host, HostChip, HostConfig, LOCAL_ROOT};
use serde_json::Value;

use crate::fixture::{Kernel, STEP, chips, command, host, hvrun, newest_host, text};

/// What it prints, and that it ends with this code.
fn doctor(host: &Host, arguments: &[&str], code: i32) -> FinishedProcess {
    let all = ["doctor"].iter().chain(arguments).copied();
    let finished = command(host, all).output(STEP).unwrap();
    assert_eq!(finished.status.code(), Some(code), "{finished}");
    assert_eq!(finished.stderr_text(), "", "{finished}");
    finished
}

/// The same for programs.
pub fn report(host: &Host, code: i32) -> Value {
    let finished = doctor(host, &["--json"], code);
    serde_json::from_str(&finished.stdout_text()).unwrap()
}

/// The state of a check, and everything that it says.
fn check(report: &Value, subject: &str) -> (String, String) {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["subject"] == subject);
    let found = found.unwrap_or_else(|| panic!("no {subject} in {report:#}"));
    (
        found["state"].as_str().unwrap().to_owned(),
        format!("{}: {}", found["finding"], found["advice"]),
    )
}

/// Who answers a guest's calls of this SBI extension.
pub fn answered_by<'a>(report: &'a Value, name: &str) -> Option<&'a str> {
    let sbi = report["kvm"]["sbi"].as_array().unwrap();
    let found = sbi.iter().find(|extension| extension["name"] == name);
    found.map(|extension| extension["answered_by"].as_str().unwrap())
}

#[test]
fn a_host_that_can_boot_guests() {
    for chip in chips() {
        let host = host(chip);
        let text = doctor(host, &[], 0).stdout_text();
        assert!(text.starts_with("hvrun "), "{text}");
        assert!(
            text.contains("riscv64") && text.contains("\nok       KVM "),
            "{text}"
        );
        assert!(text.ends_with("\nA guest can be booted here."), "{text}");

        let report = report(host, 0);
        assert_eq!(report["can_boot"], true);
        let kernel = host.exec(["uname", "-r"]).check(STEP).unwrap();
        assert_eq!(report["host"]["kernel"], kernel.stdout_text().trim());
        assert_eq!(report["host"]["hypervisor_extension"], true);
        let kvm = &report["kvm"];
        assert!(kvm["max_cpus"].as_u64() >= Some(2));
        assert!(kvm["guest_physical_bits"].as_u64() >= Some(41));
        // QEMU's virt board (hw/riscv/virt.c, its timebase-frequency).
        assert_eq!(kvm["timebase_frequency"], 10_000_000);
        let extensions = kvm["isa_extensions"].as_array().unwrap();
        for extension in ["i", "m", "a", "f", "d", "c", "zicsr"] {
            assert!(extensions.contains(&extension.into()), "{extension}: {kvm}");
        }
        let aia = chip == HostChip::Aia;
        assert_eq!(kvm["aia"].is_object(), aia, "{kvm}");
        let chips = kvm["irqchips"].as_array().unwrap();
        assert_eq!(chips.contains(&"aia".into()), aia);
        assert!(chips.contains(&"plic".into()));
        let (state, _) = check(&report, "interrupt chips");
        assert_eq!(state, if aia { "ok" } else { "note" });
    }
}

/// Debian's kernel is built without CONFIG_RISCV_SBI_V01, and new enough for the debug console.
#[test]
fn sbi_extensions_that_a_guest_finds() {
    let host = host(HostChip::Plic);
    let report = report(host, 0);
    for name in ["TIME", "IPI", "RFENCE", "HSM", "SRST"] {
        assert_eq!(answered_by(&report, name), Some("kernel"), "{name}");
    }
    assert_eq!(answered_by(&report, "DBCN"), Some("hvrun"));
    assert_eq!(answered_by(&report, "legacy console"), None);
    let (state, told) = check(&report, "legacy console");
    assert_eq!(state, "note");
    assert!(told.contains("CONFIG_RISCV_SBI_V01"), "{told}");
}

/// What the harts' AIA can do for guests shows.
#[test]
fn guest_interrupt_files_are_told_of() {
    for (chip, files) in [(HostChip::Aia, false), (HostChip::AiaFiles, true)] {
        let report = report(host(chip), 0);
        assert_eq!(report["kvm"]["aia"]["guest_interrupt_files"], files);
    }
}

/// A newer kernel's KVM also hands on system suspend (Linux 6.14).
#[test]
fn a_newer_host_hands_on_more() {
    let report = report(newest_host(HostChip::Plic), 0);
    assert_eq!(answered_by(&report, "SUSP"), Some("hvrun"));
}

/// Who wants to know is told of it when a guest starts, too.
#[test]
fn calls_that_are_not_handed_on_are_told_of_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let tree = text(&directory.path().join("tree.dtb"));
    let told = |level: &str| {
        let finished = command(host(HostChip::Plic), Kernel::Stable.arguments())
            .args(["--log-level", level, "--dump-dtb", &tree])
            .check(STEP)
            .unwrap();
        finished.stderr_text().contains("CONFIG_RISCV_SBI_V01")
    };
    assert!(told("info"));
    assert!(!told("warn"));
}

#[test]
fn a_user_without_permission() {
    let host = Host::boot(HostConfig::new(HostChip::Plic)).unwrap();
    let program = format!("{LOCAL_ROOT}{}", text(hvrun()));
    let as_user = |group: &str, mode: &str| {
        let command = format!("chgrp {group} /dev/kvm; chmod {mode} /dev/kvm");
        host.exec(["sh", "-c", &command]).check(STEP).unwrap();
        let exec = host.exec([program.clone()]).args(["doctor", "--json"]);
        let finished = exec.user(1000, 1000).output(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        let report: Value = serde_json::from_str(&finished.stdout_text()).unwrap();
        assert_eq!(report["can_boot"], false);
        assert!(report["kvm"].is_null());
        let device = &report["host"]["devices"][0];
        assert_eq!(device["state"], "no permission");
        check(&report, "KVM")
    };
    let (state, told) = as_user("100", "660");
    assert_eq!(state, "missing");
    assert!(told.contains("usermod -aG"), "{told}");
    // A group does not help here.
    let (_, told) = as_user("0", "600");
    assert!(told.contains("chmod 660 /dev/kvm"), "{told}");
}

#[test]
fn no_kvm_module_and_no_hypervisor_extension() {
    let config = HostConfig::new(HostChip::Plic).without_kvm();
    let without_module = Host::boot(config.clone()).unwrap();
    let text = doctor(&without_module, &[], 1).stdout_text();
    let mut lines = text
        .lines()
        .skip_while(|line| !line.starts_with("missing  KVM "));
    assert!(lines.next().unwrap().contains("/dev/kvm"), "{text}");
    let advice = lines.next().unwrap();
    assert!(advice.contains("-> sudo modprobe kvm"), "{text}");
    assert!(text.ends_with("\nNo guest can be booted here."), "{text}");
    let found = report(&without_module, 1);
    assert_eq!(found["host"]["hypervisor_extension"], true);
    drop(without_module);

    let without_h = Host::boot(config.cpu("rv64,h=false")).unwrap();
    let found = report(&without_h, 1);
    assert_eq!(found["host"]["hypervisor_extension"], false);
    let (state, told) = check(&found, "KVM");
    assert_eq!(state, "missing");
    assert!(told.contains("hypervisor extension"), "{told}");
}

/// They are in the one binary, and need nothing of the host.
#[test]
fn the_manual_and_the_completions() {
    let host = host(HostChip::Plic);
    let page = command(host, ["man"]).check(STEP).unwrap().stdout_text();
    assert!(page.contains(".TH HVRUN 1"), "{page}");
    for (shell, expected) in [
        ("bash", "complete "),
        ("zsh", "#compdef hvrun"),
        ("fish", "complete -c hvrun"),
    ] {
        let script = command(host, ["completions", shell]).check(STEP).unwrap();
        let script = script.stdout_text();
        assert!(
            script.contains(expected) && script.contains("kernel"),
            "{shell}: {script}"
        );
    }
}
