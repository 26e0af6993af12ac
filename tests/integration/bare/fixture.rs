//! What the tests have in common: guests, the machine for them, and what comes out of its serial port.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hv_lab::bare::bundle::{self, Device, Guest, Needs};
use hv_lab::bare::{self, Machine};
use hv_lab::host::HostChip;
use hv_lab::provision;
use tempfile::TempDir;

use crate::session::Session;

/// For anything that has to happen. It is far more than it takes, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(240);

/// The interrupt chip of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    /// A PLIC.
    Plic,
    /// An APLIC that interrupts the harts itself.
    AplicDirect,
    /// An APLIC that sends messages to IMSICs.
    Aia,
}

/// All of them.
pub const CHIPS: [Chip; 3] = [Chip::Plic, Chip::AplicDirect, Chip::Aia];

/// Every processor that QEMU has for it: page tables of five levels, vector registers, state enable bits.
pub const MAX_CPU: &str = "max,smctr=off,ssctr=off,ztso=off";

/// A guest with this kernel, one hart and 128 MiB.
pub fn guest(name: &str, kernel: &Path) -> Guest {
    Guest {
        name: name.into(),
        harts: 1,
        memory_mib: 128,
        identity: false,
        kernel: kernel.into(),
        initrd: None,
        device_tree: None,
        command_line: None,
        getchar_empty: -1,
        devices: Vec::new(),
    }
}

/// A guest with the project's test kernel.
pub fn testing(name: &str, harts: u32, command_line: &str) -> Guest {
    Guest {
        harts,
        command_line: Some(command_line.into()),
        ..guest(name, &provision::test_kernel().unwrap())
    }
}

/// A machine, and what is to run on it.
#[derive(Clone, Debug)]
pub struct Setup {
    pub chip: Chip,
    /// QEMU's name of the processor, if it is to be another one than the fastest.
    pub cpu: Option<&'static str>,
    pub guests: Vec<Guest>,
    pub disks: Vec<bare::Disk>,
    pub legacy_virtio: bool,
    /// As little as the guests need.
    pub memory_mib: Option<u64>,
    /// As many as the guests need.
    pub harts: Option<u32>,
}

impl Setup {
    /// A machine for these guests.
    pub fn new(chip: Chip, guests: impl IntoIterator<Item = Guest>) -> Self {
        Self {
            chip,
            cpu: None,
            guests: guests.into_iter().collect(),
            disks: Vec::new(),
            legacy_virtio: false,
            memory_mib: None,
            harts: None,
        }
    }

    /// Puts a disk into a slot of the machine, without giving it to anyone.
    pub fn disk(mut self, image: &Path, slot: u32) -> Self {
        self.disks.push(bare::Disk {
            path: image.into(),
            slot,
            readonly: false,
            serial: String::new(),
        });
        self
    }

    /// Puts a disk into a slot of the machine, and gives it to the first guest, which sees it in slot `seen`.
    pub fn passed_disk(self, image: &Path, slot: u32, seen: Option<u32>) -> Self {
        let mut with_disk = self.disk(image, slot);
        let host = with_disk.disks.last().unwrap().node();
        let first = with_disk.guests.first_mut().unwrap();
        first.identity = true;
        first.devices.push(Device {
            name: format!("disk{slot}"),
            host,
            slot: seen,
        });
        with_disk
    }

    /// Boots it.
    pub fn boot(&self) -> Session {
        self.boot_source(&bundle::source(&self.guests, false))
    }

    /// Boots it with the bundle of this source in place of the guests'.
    pub fn boot_source(&self, source: &str) -> Session {
        let directory = tempfile::tempdir().unwrap();
        let bundle = compile(source, directory.path());
        self.boot_file(directory, &bundle)
    }

    /// Boots it with this file for a bundle, which is in the directory.
    pub fn boot_file(&self, directory: TempDir, bundle: &Path) -> Session {
        let needs = Needs::of(bundle);
        let harts = || needs.as_ref().map_or(2, |needs| needs.harts);
        let memory = || needs.as_ref().map_or(1024, |needs| needs.memory_mib);
        let machine = Machine {
            legacy_virtio: self.legacy_virtio,
            disks: self.disks.clone(),
            ..Machine::new(
                match self.chip {
                    Chip::Plic | Chip::AplicDirect => HostChip::Plic,
                    Chip::Aia => HostChip::Aia,
                },
                self.harts.unwrap_or_else(harts),
                self.memory_mib.unwrap_or_else(memory),
            )
        };
        let mut qemu = provision::qemu().unwrap().command();
        machine.boot(&mut qemu, &hypervisor(), bundle);
        if self.chip == Chip::AplicDirect {
            qemu.args(["-machine", "aia=aplic"]);
        }
        if let Some(cpu) = self.cpu {
            qemu.args(["-cpu", cpu]);
        }
        start(&mut qemu, directory)
    }
}

/// The hypervisor's program.
pub fn hypervisor() -> PathBuf {
    provision::bare_hypervisor().unwrap()
}

/// Compiles the source of a bundle.
pub fn compile(source: &str, directory: &Path) -> PathBuf {
    let (file, bundle) = (directory.join("bundle.dts"), directory.join("bundle"));
    fs::write(&file, source).unwrap();
    bundle::compile(&file, &[], &bundle).unwrap();
    bundle
}

/// A disk for the test kernel to read and write.
pub fn scratch_disk(directory: &Path) -> PathBuf {
    let image = directory.join("scratch.img");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    image
}

/// Starts QEMU. What is in the directory stays for as long.
pub fn start(qemu: &mut Command, directory: TempDir) -> Session {
    let log = File::create(directory.path().join("qemu.log")).unwrap();
    Session::start(qemu.stderr(log), LIMIT).keep(directory)
}

/// What a guest printed where there are several: its lines, without its name.
pub fn lines_of(output: &str, guest: &str) -> String {
    let prefix = format!("[{guest}] ");
    let lines = output.lines().filter_map(|line| line.strip_prefix(&prefix));
    lines.flat_map(|line| [line, "\n"]).collect()
}
