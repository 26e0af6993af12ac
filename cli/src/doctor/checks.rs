//! From facts to findings and advice.

use hv_vmm::{
    AiaAbsence, AiaFeatures, AnsweredBy, Capabilities, DeviceFile, DeviceState, Error, Host,
    OpenError,
};
use serde::Serialize;

/// The oldest kernel that hvrun is tried with, major and minor.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// The first kernel whose KVM maps transparent huge pages as such for a guest (its commit ed7ae7a34bea), major and minor.
const MAPS_TRANSPARENT_HUGE_PAGES: (u32, u32) = (7, 0);

/// A guest's memory where the user says nothing, bytes.
const DEFAULT_MEMORY: u64 = 512 << 20;

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing: something is absent that hvrun can do without.
    Note,
    /// Something cannot be done until the advice is followed.
    Missing,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub state: State,
    pub subject: &'static str,
    pub finding: String,
    pub advice: Option<String>,
}

fn ok(subject: &'static str, finding: impl Into<String>) -> Check {
    Check {
        state: State::Ok,
        subject,
        finding: finding.into(),
        advice: None,
    }
}

fn note(subject: &'static str, finding: impl Into<String>) -> Check {
    Check {
        state: State::Note,
        ..ok(subject, finding)
    }
}

fn missing(subject: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        state: State::Missing,
        advice: Some(advice.into()),
        ..ok(subject, finding)
    }
}

impl Check {
    fn advise(mut self, advice: impl Into<String>) -> Check {
        self.advice = Some(advice.into());
        self
    }
}

/// Everything that can be said, the most important first.
pub fn all(host: &Host, kvm: &Result<Capabilities, Error>) -> Vec<Check> {
    let mut checks = Vec::new();
    match kvm {
        Ok(kvm) => {
            checks.push(ok("KVM", kvm_works(host, kvm)));
            checks.extend(old_kernel(host));
            checks.push(ok("ISA", isa(kvm)));
            checks.push(ok("paging", paging(kvm)));
            checks.push(interrupts(&kvm.aia));
            checks.extend(sbi(kvm));
        }
        Err(error) => {
            checks.push(kvm_is_missing(host, error));
            checks.extend(old_kernel(host));
            checks.extend(hypervisor_extension(host));
        }
    }
    checks.push(tap(host));
    checks.push(vhost_net(&host.vhost_net));
    checks.push(huge_pages(host));
    checks.push(sandbox(host));
    checks.extend(memory(host));
    checks
}

fn sandbox(host: &Host) -> Check {
    const SUBJECT: &str = "sandbox";
    match host.seccomp_filters {
        true => ok(
            SUBJECT,
            "the kernel filters the system calls of hvrun's threads",
        ),
        false => missing(
            SUBJECT,
            "the kernel cannot filter system calls (it is built without CONFIG_SECCOMP_FILTER), so hvrun cannot confine itself",
            "use a kernel that can, or run guests that you trust with --sandbox off",
        ),
    }
}

fn kvm_works(host: &Host, kvm: &Capabilities) -> String {
    let harts = match kvm.max_cpus {
        1 => "1 hart".to_owned(),
        many => format!("{many} harts"),
    };
    format!(
        "{} works{}, version 12 of its interface; a guest can have up to {harts}",
        host.kvm.device.path(),
        host.kvm.owner()
    )
}

fn kvm_is_missing(host: &Host, error: &Error) -> Check {
    let finding = |text: &str| text.to_owned();
    let (finding, advice) = match error {
        Error::Kvm(OpenError::NotRiscv) => (
            format!(
                "this machine is {}, and hvrun runs guests on a RISC-V host",
                host.architecture
            ),
            "'cargo hvrun' in a checkout of hvrun runs it in a nested RISC-V host; 'cargo hvrun doctor' looks at that one"
                .into(),
        ),
        Error::Kvm(OpenError::NoHypervisorExtension) => (
            finding("the harts have no hypervisor extension, without which there is no KVM"),
            "use a machine with an 'h' among the letters of the isa line of /proc/cpuinfo".into(),
        ),
        Error::Kvm(OpenError::Device(file)) => (
            file.problem().unwrap_or_default(),
            file.advice().unwrap_or_default(),
        ),
        other => (
            other.to_string(),
            "look into the kernel's log: sudo dmesg | grep -i kvm".into(),
        ),
    };
    missing("KVM", finding, advice)
}

/// Only where KVM does not prove it.
fn hypervisor_extension(host: &Host) -> Option<Check> {
    (host.hypervisor_extension == Some(true)).then(|| {
        ok(
            "H extension",
            "the harts have it (isa line of /proc/cpuinfo)",
        )
    })
}

/// Major and minor.
fn kernel_version(host: &Host) -> Option<(u32, u32)> {
    let release = host.kernel.as_deref()?;
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    Some((number()?, number()?))
}

fn old_kernel(host: &Host) -> Option<Check> {
    let release = host.kernel.as_deref()?;
    let (major, minor) = OLDEST_KERNEL;
    (kernel_version(host)? < OLDEST_KERNEL).then(|| {
        note(
            "kernel",
            format!("Linux {release} is older than the {major}.{minor} that hvrun is made for"),
        )
        .advise("use a newer one")
    })
}

fn isa(kvm: &Capabilities) -> String {
    let names: Vec<&str> = kvm.isa_extensions.iter().map(String::as_str).collect();
    let (letters, words): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.len() == 1);
    let mut text = format!("a guest has rv64{}", letters.concat());
    for word in words {
        text.push(' ');
        text.push_str(word);
    }
    text
}

fn paging(kvm: &Capabilities) -> String {
    format!(
        "{} for a guest's own pages, {} bits of guest-physical address",
        kvm.paging_mode, kvm.guest_physical_bits
    )
}

fn interrupts(aia: &Result<AiaFeatures, AiaAbsence>) -> Check {
    const SUBJECT: &str = "interrupt chips";
    match aia {
        Ok(aia) => {
            let how = if aia.guest_interrupt_files {
                "with guest interrupt files of the harts"
            } else {
                "emulated (the harts have no guest interrupt files)"
            };
            ok(
                SUBJECT,
                format!(
                    "aia: KVM's, {how}, up to {} identities; plic: hvrun's own",
                    aia.identities
                ),
            )
        }
        Err(absence @ AiaAbsence::NotThere) => note(
            SUBJECT,
            format!("plic: hvrun's own; {absence}, and guests do without"),
        ),
        Err(AiaAbsence::Refused(refusal)) => note(
            SUBJECT,
            format!("plic: hvrun's own, which guests get; they cannot have KVM's AIA: {refusal}"),
        )
        .advise("look into the kernel's log: sudo dmesg | grep -i -e kvm -e aia -e imsic"),
    }
}

/// Which extensions a guest finds, and what follows where one of the consoles is not among them.
fn sbi(kvm: &Capabilities) -> Vec<Check> {
    let of = |by: AnsweredBy| -> Vec<&str> {
        let extensions = kvm.sbi.iter();
        extensions
            .filter(|extension| extension.answered_by == by)
            .map(|extension| extension.name)
            .collect()
    };
    let handed_on = of(AnsweredBy::Userspace);
    let mut checks = vec![ok(
        "SBI",
        format!(
            "KVM answers BASE {}; it can hand on to hvrun: {}",
            of(AnsweredBy::Kernel).join(" "),
            if handed_on.is_empty() {
                "nothing".into()
            } else {
                handed_on.join(", ")
            }
        ),
    )];
    if !kvm.has_sbi("DBCN") {
        checks.push(
            note(
                "debug console",
                "this kernel's KVM does not hand on SBI's debug console (Linux 6.7 and later do)",
            )
            .advise("for early messages of a guest: earlycon=uart8250,mmio,0x10000000 on its command line"),
        );
    }
    if !kvm.has_sbi("legacy console") {
        checks.push(
            note(
                "legacy console",
                "this kernel refuses legacy SBI console calls by itself: a guest that prints only by them stays silent",
            )
            .advise(
                "have the guest print by the UART or the debug console, or use a host kernel with CONFIG_RISCV_SBI_V01=y",
            ),
        );
    }
    checks
}

fn tap(host: &Host) -> Check {
    const SUBJECT: &str = "network";
    let file = &host.tun;
    match file.state {
        DeviceState::Usable if host.network_admin => ok(
            SUBJECT,
            "/dev/net/tun works, and hvrun may make tap interfaces",
        ),
        DeviceState::Usable => note(
            SUBJECT,
            "/dev/net/tun works; you use the tap interfaces that root made for you",
        )
        .advise("sudo ip tuntap add tap0 mode tap user $USER"),
        _ => missing(
            SUBJECT,
            format!(
                "{}, so that a guest cannot have a network interface (--net)",
                file.problem().unwrap_or_default()
            ),
            file.advice().unwrap_or_default(),
        ),
    }
}

fn vhost_net(file: &DeviceFile) -> Check {
    const SUBJECT: &str = "vhost-net";
    match (file.problem(), file.advice()) {
        (Some(problem), Some(advice)) => note(
            SUBJECT,
            format!("{problem}; hvrun then moves the network's packets itself"),
        )
        .advise(advice),
        _ => ok(SUBJECT, "/dev/vhost-net works"),
    }
}

fn huge_pages(host: &Host) -> Check {
    const SUBJECT: &str = "huge pages";
    let reserved = match host.huge_pages {
        Some(pages) => format!(
            "{} reserved pages of 2 MiB are free for --hugepages",
            pages.free
        ),
        None => "this kernel reserves no pages of 2 MiB".into(),
    };
    let mapped_small =
        kernel_version(host).is_some_and(|version| version < MAPS_TRANSPARENT_HUGE_PAGES);
    match host.transparent_huge_pages.as_deref() {
        Some("never") => note(
            SUBJECT,
            format!("transparent ones are switched off, which makes guests slower; {reserved}"),
        )
        .advise("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        Some(setting) if mapped_small => ok(
            SUBJECT,
            format!(
                "transparent ones: {setting}, which KVM maps by 4 KiB before Linux 7.0; {reserved}"
            ),
        ),
        Some(setting) => ok(SUBJECT, format!("transparent ones: {setting}; {reserved}")),
        None => note(
            SUBJECT,
            format!("this kernel has no transparent ones, which makes guests slower; {reserved}"),
        ),
    }
}

fn memory(host: &Host) -> Option<Check> {
    const SUBJECT: &str = "free memory";
    let bytes = host.available_memory?;
    let finding = format!("{} MiB", bytes >> 20);
    Some(if bytes < DEFAULT_MEMORY {
        note(
            SUBJECT,
            format!(
                "{finding}, less than a guest's {} MiB",
                DEFAULT_MEMORY >> 20
            ),
        )
        .advise("give guests less, such as --memory 128M")
    } else {
        ok(SUBJECT, finding)
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn find(checks: &[Check], subject: &str) -> Check {
        let found = checks.iter().find(|check| check.subject == subject);
        found
            .unwrap_or_else(|| panic!("{subject}: {checks:?}"))
            .clone()
    }

    #[test]
    fn what_is_missing_always_has_advice() {
        for (host, kvm) in [
            samples::good(),
            samples::no_module(),
            samples::no_permission("kvm", 0o660),
        ] {
            let checks = all(&host, &kvm);
            for check in &checks {
                let silent = check.state == State::Missing && check.advice.is_none();
                assert!(!silent, "{check:?}");
            }
            let booted = checks.first().unwrap();
            assert_eq!(booted.subject, "KVM");
            assert_eq!(booted.state == State::Ok, kvm.is_ok());
        }
    }

    /// The doctor's words are those of the error that a guest's start ends with.
    #[test]
    fn an_error_says_what_the_doctor_says() {
        for (group, mode) in [("kvm", 0o660), ("root", 0o600)] {
            let (host, kvm) = samples::no_permission(group, mode);
            let check = find(&all(&host, &kvm), "KVM");
            let error = kvm.unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{}: {}", check.finding, check.advice.unwrap())
            );
        }
    }

    #[test]
    fn another_architecture_is_sent_to_the_lab() {
        let (mut host, _) = samples::no_module();
        host.architecture = "x86_64";
        let check = find(&all(&host, &Err(OpenError::NotRiscv.into())), "KVM");
        assert_eq!(check.state, State::Missing);
        assert!(check.finding.contains("x86_64") && check.finding.contains("RISC-V host"));
        assert!(check.advice.unwrap().contains("'cargo hvrun'"));
    }

    #[test]
    fn consoles_that_the_host_does_not_hand_on_are_named() {
        let (host, _) = samples::good();
        let mut kvm = samples::capabilities();
        let legacy = find(&all(&host, &Ok(kvm.clone())), "legacy console");
        assert_eq!(legacy.state, State::Note);
        assert!(legacy.advice.unwrap().contains("CONFIG_RISCV_SBI_V01"));
        kvm.sbi.clear();
        let debug = find(&all(&host, &Ok(kvm)), "debug console");
        assert!(debug.advice.unwrap().contains("earlycon=uart8250"));
    }

    #[test]
    fn only_kernels_before_6_1_are_old() {
        let (mut host, kvm) = samples::good();
        for (release, old) in [
            ("5.19.0", true),
            ("6.0.12", true),
            ("6.1.0-40-riscv64", false),
            ("7.2-rc1", false),
            ("unknown", false),
        ] {
            host.kernel = Some(release.into());
            let checks = all(&host, &kvm);
            let told = checks.iter().any(|check| check.subject == "kernel");
            assert_eq!(told, old, "{release}");
        }
    }

    #[test]
    fn huge_pages_are_told_by_how_they_serve_a_guest() {
        let (mut host, kvm) = samples::good();
        host.huge_pages = Some(hv_vmm::HugePages { total: 9, free: 7 });
        for (release, small) in [("6.19.3", true), ("7.0.0-riscv64", false)] {
            host.kernel = Some(release.into());
            let check = find(&all(&host, &kvm), "huge pages");
            assert_eq!(check.state, State::Ok);
            assert_eq!(check.finding.contains("4 KiB"), small, "{release}");
            assert!(check.finding.contains("7 reserved pages"), "{check:?}");
        }
        host.transparent_huge_pages = Some("never".into());
        host.huge_pages = None;
        let check = find(&all(&host, &kvm), "huge pages");
        assert_eq!(check.state, State::Note);
        assert!(check.finding.contains("reserves no pages"), "{check:?}");
    }

    #[test]
    fn a_host_without_an_aia_is_no_worse() {
        let check = interrupts(&Err(AiaAbsence::NotThere));
        assert_eq!(check.state, State::Note);
        assert!(check.finding.starts_with("plic"));
    }

    #[test]
    fn an_aia_that_kvm_refuses_is_told_with_the_reason() {
        let (host, kvm) = samples::refused_aia();
        let checks = all(&host, &kvm);
        let check = find(&checks, "interrupt chips");
        assert_eq!(check.state, State::Note);
        for part in ["plic", "interrupt sources", "Invalid argument"] {
            assert!(check.finding.contains(part), "{check:?}");
        }
        assert!(check.advice.unwrap().contains("dmesg"));
        assert!(checks.iter().all(|check| check.state != State::Missing));
    }

    #[test]
    fn a_kernel_that_cannot_filter_calls_needs_a_decision() {
        let (mut host, kvm) = samples::refused_aia();
        assert_eq!(find(&all(&host, &kvm), "sandbox").state, State::Ok);
        host.seccomp_filters = false;
        let check = find(&all(&host, &kvm), "sandbox");
        assert_eq!(check.state, State::Missing);
        assert!(check.advice.unwrap().contains("--sandbox off"));
    }
}
