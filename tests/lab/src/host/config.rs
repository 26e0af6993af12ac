//! What a nested host is to be like.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::qemu::FAST_CPU;
use crate::provision::KernelFiles;

/// The interrupt controller of the nested host, which decides the one that KVM can give a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostChip {
    /// A PLIC: the host's KVM has no interrupt chip for guests, and hvrun models one.
    Plic,
    /// APLIC and IMSIC: KVM has an AIA for guests, whose IMSICs it emulates.
    Aia,
    /// The same with guest interrupt files: a guest's IMSICs are the hardware's, as long as there are files left.
    AiaFiles,
}

impl HostChip {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Plic, Self::Aia, Self::AiaFiles];

    /// The two that differ in what hvrun does. Of the third one only KVM's part in a guest's interrupts is another.
    pub const USUAL: [Self; 2] = [Self::Plic, Self::Aia];

    /// `plic`, `aia` or `aia-files`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plic => "plic",
            Self::Aia => "aia",
            Self::AiaFiles => "aia-files",
        }
    }

    /// Whether KVM has an AIA for guests.
    #[must_use]
    pub fn has_aia(self) -> bool {
        self != Self::Plic
    }
}

impl std::fmt::Display for HostChip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for HostChip {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|chip| chip.name() == name);
        found.ok_or_else(|| {
            format!("there is no host kind {name:?}, only `plic`, `aia` and `aia-files`")
        })
    }
}

/// Path of the node of QEMU's supervisor-level IMSICs (hw/riscv/virt.c, create_fdt_one_imsic).
pub const SUPERVISOR_IMSICS: &str = "/soc/interrupt-controller@28000000";

/// A directory of the developer's machine that the nested host sees.
///
/// The nested host's root acts with the permissions of the user who runs the lab. What is written there is on the
/// developer's machine at once; what changes on the developer's machine is seen when the file is opened the next time.
/// Locks are kept within the nested host: programs of the developer's machine do not see them.
///
/// Writing is slow, a page at a time. Where speed counts, use files of the nested host, whose `/tmp` is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The directory.
    pub directory: PathBuf,
    /// Where it is mounted in the nested host.
    pub mount_point: String,
    /// Whether the nested host may not write to it.
    pub readonly: bool,
}

/// A file that is put into the nested host's initial file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtraFile {
    pub(super) path: String,
    pub(super) source: PathBuf,
}

/// A property of the nested host's device tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeCell {
    pub(super) node: String,
    pub(super) property: String,
    pub(super) value: u32,
}

/// What a nested host is to be like. [`HostConfig::new`] has what most tests want: two harts, 2 GiB, Debian stable's
/// kernel with KVM, the developer's files at [`LOCAL_ROOT`](super::LOCAL_ROOT).
#[derive(Debug, Clone)]
#[must_use]
pub struct HostConfig {
    pub(super) chip: HostChip,
    pub(super) harts: u32,
    pub(super) memory_mib: u32,
    pub(super) cpu: Option<String>,
    pub(super) machine: Vec<String>,
    pub(super) tree: Vec<TreeCell>,
    pub(super) kernel: Option<KernelFiles>,
    pub(super) modules: Vec<String>,
    pub(super) kvm: bool,
    pub(super) local_files: bool,
    pub(super) shares: Vec<Share>,
    pub(super) files: Vec<ExtraFile>,
    pub(super) command_line: String,
    pub(super) instruction_clock: bool,
    pub(super) plugin: Option<String>,
    pub(super) boot_timeout: Duration,
    pub(super) lifetime: Option<Duration>,
    pub(super) quiet: bool,
}

impl HostConfig {
    /// A host with this interrupt controller.
    pub fn new(chip: HostChip) -> Self {
        Self {
            chip,
            harts: 2,
            memory_mib: 2048,
            cpu: None,
            machine: Vec::new(),
            tree: Vec::new(),
            kernel: None,
            modules: Vec::new(),
            kvm: true,
            local_files: true,
            shares: Vec::new(),
            files: Vec::new(),
            command_line: String::new(),
            instruction_clock: false,
            plugin: None,
            boot_timeout: Duration::from_secs(180),
            lifetime: Some(Duration::from_secs(2 * 60 * 60)),
            quiet: false,
        }
    }

    /// The number of harts; 2 unless set.
    pub fn harts(mut self, harts: u32) -> Self {
        self.harts = harts;
        self
    }

    /// The size of its memory in MiB; 2048 unless set.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// QEMU's `-cpu`, instead of the usual one for the kind of host.
    pub fn cpu(mut self, cpu: &str) -> Self {
        self.cpu = Some(cpu.to_owned());
        self
    }

    /// The CPU that QEMU emulates fastest, for whom it is not the CPU's features that count.
    pub fn fast_cpu(self) -> Self {
        self.cpu(FAST_CPU)
    }

    /// A further option of QEMU's machine, such as `aia-guests=3`.
    pub fn machine(mut self, option: &str) -> Self {
        self.machine.push(option.to_owned());
        self
    }

    /// Changes the device tree that QEMU makes: the node of this path gets the property with this cell, in place of the one
    /// that it has. So the kernel sees other hardware, as far as QEMU's can be told to be less than it is.
    pub fn tree_cell(mut self, node: &str, property: &str, value: u32) -> Self {
        self.tree.push(TreeCell {
            node: node.to_owned(),
            property: property.to_owned(),
            value,
        });
        self
    }

    /// Another kernel than Debian stable's. It needs drivers for virtio-mmio, the virtio console and 9p, built in or as
    /// modules among its files.
    pub fn kernel(mut self, kernel: KernelFiles) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// A further kernel module to load, with those that it needs.
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// Leaves the kvm module out: a host without `/dev/kvm`.
    pub fn without_kvm(mut self) -> Self {
        self.kvm = false;
        self
    }

    /// Does not show the developer's files.
    pub fn without_local_files(mut self) -> Self {
        self.local_files = false;
        self
    }

    /// Mounts a directory of the developer's machine.
    pub fn share(mut self, directory: &Path, mount_point: &str, readonly: bool) -> Self {
        self.shares.push(Share {
            directory: directory.to_owned(),
            mount_point: mount_point.to_owned(),
            readonly,
        });
        self
    }

    /// Puts a file into the host's initial file system, executable, under this absolute path.
    pub fn file(mut self, path: &str, source: &Path) -> Self {
        self.files.push(ExtraFile {
            path: path.to_owned(),
            source: source.to_owned(),
        });
        self
    }

    /// Appends to the kernel's command line.
    pub fn command_line(mut self, text: &str) -> Self {
        self.command_line += " ";
        self.command_line += text;
        self
    }

    /// Lets time be counted in instructions, one nanosecond each, on one hart: the same run then takes the same time
    /// within 1 %, whatever else this machine does. For benchmarks; slower in real time.
    pub fn instruction_clock(mut self) -> Self {
        self.instruction_clock = true;
        self.harts = 1;
        self
    }

    /// A plugin for QEMU's TCG: its file and its arguments, as QEMU wants them.
    pub fn plugin(mut self, plugin: &str) -> Self {
        self.plugin = Some(plugin.to_owned());
        self
    }

    /// How long the boot may take; 180 s unless set.
    pub fn boot_timeout(mut self, timeout: Duration) -> Self {
        self.boot_timeout = timeout;
        self
    }

    /// Prints no note at the boot if the kernel is another than the one that the tests were last green with: that is for who
    /// reads of tests that failed.
    pub fn quietly(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// How long the host may run before it is ended, whoever still waits for it; two hours unless set. `None` is
    /// for ever, for a host with a person before it.
    pub fn lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.lifetime = lifetime;
        self
    }
}
