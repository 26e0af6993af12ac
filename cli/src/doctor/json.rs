//! The report of `hvrun doctor --json`. Other programs read it: keys are added, never renamed or taken away without another
//! `version`, and `hvrun doctor --help` documents them.

use hv_vmm::{AnsweredBy, Capabilities, DeviceFile, DeviceState, Host};
use serde::Serialize;

use super::checks::Check;

/// Of this shape.
const VERSION: u32 = 1;

/// The keys, for users of the report.
pub const KEYS: [(&str, &str); 6] = [
    ("version", "of this shape: 1"),
    ("hvrun", "hvrun's version"),
    ("can_boot", "whether a guest can be booted"),
    (
        "checks",
        "what is printed without --json: state (ok, note, missing), subject, finding, and advice or null",
    ),
    (
        "host",
        "architecture, kernel (its release), hypervisor_extension, available_memory (bytes), transparent_huge_pages, \
         free_huge_pages (of 2 MiB), network_admin (whether hvrun may make network interfaces), and devices: path, state \
         (usable, absent, no driver, no permission, unusable), group and mode (octal) of /dev/kvm, /dev/net/tun and /dev/vhost-net; \
         null is unknown",
    ),
    (
        "kvm",
        "null if it cannot be used, else max_cpus, guest_physical_bits, paging_mode, timebase_frequency (Hz), isa, \
         isa_extensions, irqchips (values of --irqchip), aia (null, or guest_interrupt_files and identities), \
         aia_problem (null, or why a guest cannot have an aia), and sbi: name, \
         id and answered_by (kernel or hvrun) of each extension that a guest finds",
    ),
];

/// The report.
#[derive(Serialize)]
pub struct Report<'a> {
    version: u32,
    hvrun: &'static str,
    can_boot: bool,
    checks: &'a [Check],
    host: HostFacts<'a>,
    kvm: Option<KvmFacts<'a>>,
}

#[derive(Serialize)]
struct HostFacts<'a> {
    architecture: &'a str,
    kernel: Option<&'a str>,
    hypervisor_extension: Option<bool>,
    available_memory: Option<u64>,
    transparent_huge_pages: Option<&'a str>,
    free_huge_pages: Option<u64>,
    network_admin: bool,
    devices: Vec<DeviceFacts<'a>>,
}

#[derive(Serialize)]
struct DeviceFacts<'a> {
    path: &'static str,
    state: &'static str,
    group: Option<&'a str>,
    mode: Option<String>,
}

#[derive(Serialize)]
struct KvmFacts<'a> {
    max_cpus: u32,
    guest_physical_bits: u32,
    paging_mode: &'a str,
    timebase_frequency: u64,
    isa: &'a str,
    isa_extensions: &'a [String],
    irqchips: Vec<&'static str>,
    aia: Option<AiaFacts>,
    aia_problem: Option<String>,
    sbi: Vec<SbiFacts>,
}

#[derive(Serialize)]
struct AiaFacts {
    guest_interrupt_files: bool,
    identities: u32,
}

#[derive(Serialize)]
struct SbiFacts {
    name: &'static str,
    id: u64,
    answered_by: &'static str,
}

impl<'a> Report<'a> {
    pub fn new(host: &'a Host, kvm: Option<&'a Capabilities>, checks: &'a [Check]) -> Report<'a> {
        Report {
            version: VERSION,
            hvrun: env!("CARGO_PKG_VERSION"),
            can_boot: kvm.is_some(),
            checks,
            host: HostFacts {
                architecture: host.architecture,
                kernel: host.kernel.as_deref(),
                hypervisor_extension: host.hypervisor_extension,
                available_memory: host.available_memory,
                transparent_huge_pages: host.transparent_huge_pages.as_deref(),
                free_huge_pages: host.huge_pages.map(|pages| pages.free),
                network_admin: host.network_admin,
                devices: [&host.kvm, &host.tun, &host.vhost_net]
                    .map(device_facts)
                    .into(),
            },
            kvm: kvm.map(kvm_facts),
        }
    }
}

fn device_facts(file: &DeviceFile) -> DeviceFacts<'_> {
    DeviceFacts {
        path: file.device.path(),
        state: match file.state {
            DeviceState::Usable => "usable",
            DeviceState::Absent => "absent",
            DeviceState::NoDriver => "no driver",
            DeviceState::NoPermission => "no permission",
            DeviceState::Unusable(_) => "unusable",
        },
        group: file.group.as_deref(),
        mode: file.mode.map(|mode| format!("{mode:04o}")),
    }
}

fn kvm_facts(kvm: &Capabilities) -> KvmFacts<'_> {
    KvmFacts {
        max_cpus: kvm.max_cpus,
        guest_physical_bits: kvm.guest_physical_bits,
        paging_mode: kvm.paging_mode,
        timebase_frequency: kvm.timebase_frequency,
        isa: &kvm.isa,
        isa_extensions: &kvm.isa_extensions,
        irqchips: std::iter::once("plic")
            .chain(kvm.aia.ok().map(|_| "aia"))
            .collect(),
        aia: kvm.aia.ok().map(|aia| AiaFacts {
            guest_interrupt_files: aia.guest_interrupt_files,
            identities: aia.identities,
        }),
        aia_problem: kvm.aia.err().map(|absence| absence.to_string()),
        sbi: kvm
            .sbi
            .iter()
            .map(|extension| SbiFacts {
                name: extension.name,
                id: extension.id,
                answered_by: match extension.answered_by {
                    AnsweredBy::Kernel => "kernel",
                    AnsweredBy::Userspace => "hvrun",
                },
            })
            .collect(),
    }
}
