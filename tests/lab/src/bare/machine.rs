//! QEMU's `virt` machine for the bare-metal hypervisor.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{FAST_CPU, HostChip, escape_commas};

/// Where QEMU has its first virtio-mmio transport, and how far from one to the next (QEMU, `hw/riscv/virt.c`).
const VIRTIO_BASE: u32 = 0x1000_1000;
const VIRTIO_STRIDE: u32 = 0x1000;

/// A machine with the H extension, under QEMU's emulation. Its serial port is stdin and stdout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its interrupt chip.
    pub chip: HostChip,
    /// Harts.
    pub harts: u32,
    /// RAM, MiB.
    pub memory_mib: u64,
    /// Whether its virtio devices have the registers of the legacy interface.
    pub legacy_virtio: bool,
    /// Whether a person sits at its serial port, a terminal: Ctrl-] is QEMU's key then, and Ctrl-] x ends the machine whatever
    /// runs on it. Ctrl-a is the hypervisor's own.
    pub terminal: bool,
    /// Its disks.
    pub disks: Vec<Disk>,
}

/// A virtio disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// A raw image, or a block device.
    pub path: PathBuf,
    /// The virtio-mmio transport, 0 to 7.
    pub slot: u32,
    /// It cannot be written.
    pub readonly: bool,
    /// What it answers to GET_ID; empty for nothing.
    pub serial: String,
}

impl Disk {
    /// Its node in the machine's device tree.
    #[must_use]
    pub fn node(&self) -> String {
        let address = VIRTIO_BASE + VIRTIO_STRIDE * self.slot;
        format!("/soc/virtio_mmio@{address:x}")
    }
}

impl Machine {
    /// A machine with nothing but harts and memory.
    #[must_use]
    pub fn new(chip: HostChip, harts: u32, memory_mib: u64) -> Self {
        Self {
            chip,
            harts,
            memory_mib,
            legacy_virtio: false,
            terminal: false,
            disks: Vec::new(),
        }
    }

    /// Has `qemu`, a command without arguments, boot the hypervisor with the bundle on this machine.
    pub fn boot(&self, qemu: &mut Command, hypervisor: &Path, bundle: &Path) {
        let machine = match self.chip {
            HostChip::Plic => "virt",
            HostChip::Aia => "virt,aia=aplic-imsic",
            HostChip::AiaFiles => "virt,aia=aplic-imsic,aia-guests=3",
        };
        qemu.args(["-M", machine, "-cpu", FAST_CPU]);
        qemu.args(["-smp", &self.harts.to_string()]);
        qemu.args(["-m", &format!("{}M", self.memory_mib)]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        if self.terminal {
            qemu.args(["-serial", "mon:stdio", "-echr", "0x1d"]);
        } else {
            qemu.args(["-serial", "stdio"]);
        }
        let legacy = if self.legacy_virtio { "true" } else { "false" };
        qemu.args(["-global", &format!("virtio-mmio.force-legacy={legacy}")]);
        qemu.arg("-kernel").arg(hypervisor);
        qemu.arg("-initrd").arg(bundle);
        for (number, disk) in self.disks.iter().enumerate() {
            add_disk(qemu, number, disk);
        }
    }
}

fn add_disk(qemu: &mut Command, number: usize, disk: &Disk) {
    let readonly = if disk.readonly { "on" } else { "off" };
    let fixed = format!("if=none,id=disk{number},format=raw,readonly={readonly},file=");
    let mut drive = OsString::from(fixed);
    drive.push(escape_commas(&disk.path));
    qemu.arg("-drive").arg(drive);
    let slot = disk.slot;
    let mut device = format!("virtio-blk-device,drive=disk{number},bus=virtio-mmio-bus.{slot}");
    if !disk.serial.is_empty() {
        device += &format!(",serial={}", disk.serial.replace(',', ",,"));
    }
    qemu.args(["-device", &device]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(machine: &Machine) -> Vec<String> {
        let mut qemu = Command::new("qemu");
        machine.boot(&mut qemu, Path::new("hv-bare"), Path::new("bundle"));
        let arguments = qemu.get_args();
        arguments
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect()
    }

    fn has(arguments: &[String], option: &str, value: &str) -> bool {
        arguments.windows(2).any(|pair| *pair == [option, value])
    }

    #[test]
    fn a_machine_is_what_it_was_asked_to_be() {
        let machine = Machine::new(HostChip::Aia, 3, 700);
        let arguments = arguments(&machine);
        for (option, value) in [
            ("-M", "virt,aia=aplic-imsic"),
            ("-smp", "3"),
            ("-m", "700M"),
            ("-kernel", "hv-bare"),
            ("-initrd", "bundle"),
            ("-global", "virtio-mmio.force-legacy=false"),
        ] {
            assert!(has(&arguments, option, value), "{option} {value}");
        }
    }

    #[test]
    fn disks_are_where_the_hypervisor_looks_for_them() {
        let mut machine = Machine::new(HostChip::Plic, 1, 700);
        machine.legacy_virtio = true;
        machine.disks.push(Disk {
            path: "/a,b.img".into(),
            slot: 3,
            readonly: true,
            serial: "x,y".into(),
        });
        assert_eq!(machine.disks[0].node(), "/soc/virtio_mmio@10004000");
        let arguments = arguments(&machine);
        for (option, value) in [
            ("-M", "virt"),
            ("-global", "virtio-mmio.force-legacy=true"),
            (
                "-drive",
                "if=none,id=disk0,format=raw,readonly=on,file=/a,,b.img",
            ),
            (
                "-device",
                "virtio-blk-device,drive=disk0,bus=virtio-mmio-bus.3,serial=x,,y",
            ),
        ] {
            assert!(has(&arguments, option, value), "{option} {value}");
        }
    }
}
