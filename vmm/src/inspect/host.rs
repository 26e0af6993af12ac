//! Facts about a host that do not need KVM: its kernel, the device files that guests need, and its memory.

use std::fs;
use std::path::Path;

use hv_devices::device_file::{DeviceFile, HostDevice};

use crate::kvm::isa;
use crate::memory::huge_pages::HugePages;

/// The bit of `CAP_NET_ADMIN` in a set of capabilities (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

/// Facts about a host that do not need KVM. Reading them never fails: what cannot be read is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The processor's architecture, by Rust's name: `riscv64`, `x86_64`.
    pub architecture: &'static str,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: Option<String>,
    /// Whether the harts have the hypervisor extension, if `/proc/cpuinfo` says so.
    pub hypervisor_extension: Option<bool>,
    /// `/dev/kvm`.
    pub kvm: DeviceFile,
    /// `/dev/net/tun`, by which tap interfaces are used.
    pub tun: DeviceFile,
    /// Whether this process may create network interfaces (`CAP_NET_ADMIN`).
    pub network_admin: bool,
    /// `/dev/vhost-net`.
    pub vhost_net: DeviceFile,
    /// The kernel's setting for transparent huge pages: `always`, `madvise` or `never`. `None` if it has none.
    pub transparent_huge_pages: Option<String>,
    /// The reserved huge pages of 2 MiB. `None` if the kernel has none.
    pub huge_pages: Option<HugePages>,
    /// Whether the kernel can filter system calls (`CONFIG_SECCOMP_FILTER`), for [`Sandbox`](crate::Sandbox).
    pub seccomp_filters: bool,
    /// Memory available to new programs without swapping, in bytes.
    pub available_memory: Option<u64>,
}

impl Host {
    /// Looks at this host. The device files are opened and closed again, which may load their drivers.
    pub fn look() -> Host {
        Host::look_below(Path::new("/"))
    }

    /// The same for the files below another root.
    fn look_below(root: &Path) -> Host {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let device = |device| DeviceFile::look(root, device);
        Host {
            architecture: std::env::consts::ARCH,
            kernel: read("proc/sys/kernel/osrelease").map(|release| release.trim().to_owned()),
            hypervisor_extension: read("proc/cpuinfo")
                .and_then(|cpuinfo| isa::hypervisor_extension_of_cpuinfo(&cpuinfo)),
            kvm: device(HostDevice::Kvm),
            tun: device(HostDevice::Tun),
            network_admin: read("proc/self/status")
                .is_some_and(|status| has_capability(&status, CAP_NET_ADMIN)),
            vhost_net: device(HostDevice::VhostNet),
            transparent_huge_pages: read("sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|choices| chosen(&choices).map(str::to_owned)),
            huge_pages: HugePages::look_below(root),
            // Documentation/userspace-api/seccomp_filter.rst.
            seccomp_filters: read("proc/sys/kernel/seccomp/actions_avail")
                .is_some_and(|actions| actions.split_whitespace().any(|action| action == "trap")),
            available_memory: read("proc/meminfo").and_then(|info| available_memory(&info)),
        }
    }
}

/// Whether the effective capabilities in `/proc/self/status` have this one (proc_pid_status(5)).
fn has_capability(status: &str, number: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

/// The choice in brackets of a line like `always [madvise] never`.
fn chosen(choices: &str) -> Option<&str> {
    choices
        .split_whitespace()
        .find_map(|choice| choice.strip_prefix('[')?.strip_suffix(']'))
}

/// `MemAvailable` of `/proc/meminfo`, bytes (proc_meminfo(5)).
fn available_memory(meminfo: &str) -> Option<u64> {
    let kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?
        .trim()
        .strip_suffix("kB")?
        .trim_end()
        .parse()
        .ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_devices::device_file::DeviceState;

    #[test]
    fn capabilities_are_bits_of_the_effective_set() {
        for (status, expected) in [
            ("CapEff:\t0000000000001000\n", true),
            (
                "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0000000000000000\n",
                true,
            ),
            ("CapEff:\t0000000000000000\n", false),
            ("CapEff:\t0000000000002800\n", false),
            ("CapEff:\t000001ffffffefff\n", false),
            ("CapPrm:\t0000000000001000\n", false),
            ("CapEff:\tnonsense\n", false),
            ("", false),
        ] {
            assert_eq!(has_capability(status, CAP_NET_ADMIN), expected, "{status}");
        }
        assert!(has_capability("CapEff:\t1", 0));
        assert!(has_capability("CapEff:\t8000000000000000", 63));
    }

    #[test]
    fn an_empty_host_is_not_an_error() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::look_below(root.path());
        assert_eq!(host.kernel, None);
        assert_eq!(host.kvm.device, HostDevice::Kvm);
        assert_eq!(host.kvm.state, DeviceState::Absent);
        assert!(!host.network_admin && !host.seccomp_filters);
        assert_eq!(host.available_memory, None);
    }

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/sys/kernel/osrelease", "6.12.48-riscv64\n");
        write(
            "proc/cpuinfo",
            "processor\t: 0\nisa\t\t: rv64imafdch_sstc\n",
        );
        write(
            "proc/meminfo",
            "MemTotal:        2023944 kB\nMemAvailable:    1900000 kB\n",
        );
        write(
            "proc/self/status",
            "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n",
        );
        write(
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
        );
        for (file, count) in [("nr", "20\n"), ("free", "12\n"), ("resv", "2\n")] {
            let directory = "sys/kernel/mm/hugepages/hugepages-2048kB";
            write(&format!("{directory}/{file}_hugepages"), count);
        }
        write(
            "proc/sys/kernel/seccomp/actions_avail",
            "kill_process kill_thread trap errno user_notif trace log allow\n",
        );
        write("dev/net/tun", "");
        let host = Host::look_below(root.path());
        assert_eq!(host.kernel.as_deref(), Some("6.12.48-riscv64"));
        assert_eq!(host.hypervisor_extension, Some(true));
        assert!(host.network_admin);
        assert_eq!(host.transparent_huge_pages.as_deref(), Some("madvise"));
        // What is promised to a mapping counts as free there until it is touched.
        let huge_pages = HugePages {
            total: 20,
            free: 10,
        };
        assert_eq!(host.huge_pages, Some(huge_pages));
        assert_eq!(host.available_memory, Some(1_900_000 << 10));
        assert!(host.seccomp_filters);
        assert_eq!(host.tun.state, DeviceState::Usable);
        assert_eq!(host.vhost_net.state, DeviceState::Absent);
    }
}
