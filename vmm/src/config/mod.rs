//! The configuration of a virtual machine: what it is, and a list of its devices.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hv_devices::virtio::transport::mmio::Version;

use crate::Error;
use crate::consoles::Chardev;
use crate::devices::{
    self, ConsoleConfig, DeviceConfig, DeviceKind, DiskConfig, PlatformDevice, VsockConfig,
};
use crate::inputs::Inputs;
use crate::sandbox::Sandbox;

/// The longest command line that Linux keeps on RISC-V, in bytes: `COMMAND_LINE_SIZE` without the NUL (arch/riscv/include/uapi/asm/setup.h).
const LONGEST_COMMAND_LINE: usize = 1023;

/// The configuration of a machine. Everything else (ISA, paging mode, timebase) is read from KVM.
///
/// It begins as what [`Config::new`] gives. Each field can be set, or by the method of its name, one after the other.
#[derive(Debug)]
#[non_exhaustive]
pub struct Config {
    /// The program that hart 0 starts with.
    pub payload: Payload,
    /// An initial RAM disk. A single gzip or zstd stream is unpacked for the guest if it is not too large.
    pub initrd: Option<PathBuf>,
    /// A device-tree blob to use instead of the generated one. Command line and initrd, if given, are entered in its `/chosen`, and
    /// a seed there is renewed.
    pub dtb: Option<PathBuf>,
    /// The kernel's command line; `None` for what the rest implies ([`Config::implied_command_line`]).
    pub command_line: Option<String>,
    /// Number of harts.
    pub cpus: u32,
    /// Size of RAM, in bytes.
    pub memory: u64,
    /// Whether the RAM consists of 2 MiB huge pages that the host has reserved.
    pub hugepages: bool,
    /// The interrupt chip.
    pub irqchip: IrqchipChoice,
    /// The chardev of the serial port, which every guest has (Linux's `ttyS0`). With `None`, it gets no input, and its output
    /// goes to the virtio console's chardev, if there is one, for messages from before the guest has a driver for that.
    /// Lines that a Linux kernel logs to both appear once.
    pub serial: Option<Chardev>,
    /// The virtio devices. The board has slots for 8 of them, which they get in this order unless they ask for others. The first
    /// disk is Linux's `vda`, the first network interface its `eth0`.
    pub devices: Vec<DeviceConfig>,
    /// The devices of the program's own with registers of their own, on the board's platform bus.
    pub platform: Vec<PlatformDevice>,
    /// The version of the virtio-mmio registers of every slot whose device does not ask for one.
    pub virtio: Version,
    /// The return value of the legacy SBI call Console Getchar if there is no character: -1 as specified, or the value that this
    /// guest expects.
    pub getchar_empty: i64,
    /// Whether the machine's threads, the one that runs it included, give up the rights that they do not need. Devices of the
    /// program's own then have the rights of the threads that call them.
    pub sandbox: Sandbox,
    /// If the guest resets itself, it is not booted again: the run ends with [`Outcome::Reset`](crate::Outcome::Reset).
    pub no_reboot: bool,
    /// When this descriptor becomes readable, the run ends with [`Outcome::Stopped`](crate::Outcome::Stopped): a signalfd
    /// or an eventfd. If that happens during [`Vm::new`](crate::Vm::new), this fails with [`Error::Stopped`].
    pub stop: Option<OwnedFd>,
    /// When this descriptor becomes readable and the machine is paused, it goes on: a signalfd or an eventfd.
    pub resume: Option<OwnedFd>,
}

/// The program that hart 0 starts with: a RISC-V `Image`, an ELF executable or a flat binary, plain or compressed by
/// gzip or zstd, or an EFI zboot program. It is entered with the hart's id in a0 and the device tree's address in a1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A kernel.
    Kernel(PathBuf),
    /// A firmware for supervisor mode, such as U-Boot, which finds a kernel by itself.
    Firmware(PathBuf),
}

impl Payload {
    /// Its file.
    pub fn path(&self) -> &Path {
        match self {
            Payload::Kernel(path) | Payload::Firmware(path) => path,
        }
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Payload::Kernel(_) => "kernel",
            Payload::Firmware(_) => "firmware",
        }
    }
}

/// The interrupt chip that the guest is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IrqchipChoice {
    /// An AIA if the host's KVM can create one, else a PLIC.
    #[default]
    Auto,
    /// KVM's in-kernel AIA.
    Aia,
    /// A PLIC, in userspace.
    Plic,
}

impl Config {
    /// A machine with one hart, 512 MiB of RAM, a serial port that is connected to nothing, and no devices, which boots `payload`.
    #[must_use]
    pub fn new(payload: Payload) -> Config {
        Config {
            payload,
            initrd: None,
            dtb: None,
            command_line: None,
            cpus: 1,
            memory: 512 << 20,
            hugepages: false,
            irqchip: IrqchipChoice::Auto,
            serial: None,
            devices: Vec::new(),
            platform: Vec::new(),
            virtio: Version::default(),
            getchar_empty: -1,
            sandbox: Sandbox::Off,
            no_reboot: false,
            stop: None,
            resume: None,
        }
    }

    /// Sets [`Config::initrd`].
    #[must_use]
    pub fn initrd(mut self, path: impl Into<PathBuf>) -> Config {
        self.initrd = Some(path.into());
        self
    }

    /// Sets [`Config::dtb`].
    #[must_use]
    pub fn dtb(mut self, path: impl Into<PathBuf>) -> Config {
        self.dtb = Some(path.into());
        self
    }

    /// Sets [`Config::command_line`].
    #[must_use]
    pub fn command_line(mut self, text: impl Into<String>) -> Config {
        self.command_line = Some(text.into());
        self
    }

    /// Sets [`Config::cpus`].
    #[must_use]
    pub fn cpus(mut self, harts: u32) -> Config {
        self.cpus = harts;
        self
    }

    /// Sets [`Config::memory`], in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Config {
        self.memory = bytes;
        self
    }

    /// Sets [`Config::hugepages`].
    #[must_use]
    pub fn hugepages(mut self, wanted: bool) -> Config {
        self.hugepages = wanted;
        self
    }

    /// Sets [`Config::irqchip`].
    #[must_use]
    pub fn irqchip(mut self, choice: IrqchipChoice) -> Config {
        self.irqchip = choice;
        self
    }

    /// Sets [`Config::serial`].
    #[must_use]
    pub fn serial(mut self, chardev: Chardev) -> Config {
        self.serial = Some(chardev);
        self
    }

    /// Adds a device to [`Config::devices`].
    #[must_use]
    pub fn device(mut self, device: impl Into<DeviceConfig>) -> Config {
        self.devices.push(device.into());
        self
    }

    /// Adds a device to [`Config::platform`].
    #[must_use]
    pub fn platform_device(mut self, device: PlatformDevice) -> Config {
        self.platform.push(device);
        self
    }

    /// Sets [`Config::virtio`].
    #[must_use]
    pub fn virtio(mut self, version: Version) -> Config {
        self.virtio = version;
        self
    }

    /// Sets [`Config::getchar_empty`].
    #[must_use]
    pub fn getchar_empty(mut self, value: i64) -> Config {
        self.getchar_empty = value;
        self
    }

    /// Sets [`Config::sandbox`].
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Config {
        self.sandbox = sandbox;
        self
    }

    /// Sets [`Config::no_reboot`].
    #[must_use]
    pub fn no_reboot(mut self, wanted: bool) -> Config {
        self.no_reboot = wanted;
        self
    }

    /// Sets [`Config::stop`].
    #[must_use]
    pub fn stop(mut self, event: OwnedFd) -> Config {
        self.stop = Some(event);
        self
    }

    /// Sets [`Config::resume`].
    #[must_use]
    pub fn resume(mut self, event: OwnedFd) -> Config {
        self.resume = Some(event);
        self
    }

    /// The disks, each with its virtio slot.
    ///
    /// # Errors
    /// If there is no slot for a device of the machine.
    pub fn disks(&self) -> Result<Vec<(&DiskConfig, u32)>, Error> {
        let slots = devices::slots(&self.devices)?;
        let devices = self.devices.iter().zip(slots);
        let disks = devices.filter_map(|(device, slot)| match &device.kind {
            DeviceKind::Disk(disk) => Some((disk, slot)),
            _ => None,
        });
        Ok(disks.collect())
    }

    /// The default command line: the consoles, and the root file system on the first disk if there is one. With an initrd and no
    /// disk, the kernel runs the initrd's own init.
    ///
    /// `None` with a firmware or a device tree of the user, which determine it themselves.
    pub fn implied_command_line(&self) -> Option<String> {
        if matches!(self.payload, Payload::Firmware(_)) || self.dtb.is_some() {
            return None;
        }
        // The last console that a kernel has a driver for is its /dev/console. It may have no driver for a virtio console before
        // its initrd has loaded one, and without any console it cannot report an error.
        let virtio = self.console().and_then(|device| device.console.as_ref());
        let serial = self.serial.as_ref().or(virtio).map(|_| "console=ttyS0");
        let virtio = virtio.map(|_| "console=hvc0");
        let mut words: Vec<String> = serial.into_iter().chain(virtio).map(String::from).collect();
        // A configuration without a slot for each device is refused elsewhere.
        let disks = self.disks().unwrap_or_default();
        if let Some((disk, first)) = disks.first() {
            // Linux names disks in the order of their slots.
            let before = disks.iter().filter(|(_, slot)| slot < first).count();
            let letter = ('a'..='z').nth(before).unwrap_or('a');
            words.push(format!("root=/dev/vd{letter}"));
            words.push(if disk.readonly { "ro" } else { "rw" }.into());
        }
        Some(words.join(" "))
    }

    /// Warns of a command line that Linux would silently cut off.
    pub(crate) fn warn_of_a_long_command_line(&self) {
        if let Some(length) = self.command_line_beyond_the_limit() {
            log::warn!(
                "the command line has {length} bytes: Linux keeps {LONGEST_COMMAND_LINE} on RISC-V and loses the rest, older ones \
                 keep 511; shorten it, or put into the initrd or root file system what is not for the kernel"
            );
        }
    }

    /// The length of its command line, in bytes, if Linux keeps less.
    fn command_line_beyond_the_limit(&self) -> Option<usize> {
        let length = self.command_line.as_ref()?.len();
        (length > LONGEST_COMMAND_LINE).then_some(length)
    }

    /// Its virtio console device, if it has one.
    pub(crate) fn console(&self) -> Option<&ConsoleConfig> {
        self.devices.iter().find_map(|device| match &device.kind {
            DeviceKind::Console(console) => Some(console),
            _ => None,
        })
    }

    /// The sockets that it listens on.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let device = self.console();
        let virtio = device.into_iter().flat_map(|device| {
            let ports = device.ports.iter().map(|port| &port.chardev);
            device.console.iter().chain(ports)
        });
        let path = |chardev: &Chardev| match chardev {
            Chardev::Unix(path) => Some(path.clone()),
            _ => None,
        };
        let consoles = self.serial.iter().chain(virtio).filter_map(path);
        let vsock = self.vsock().map(|vsock| vsock.path.clone());
        consoles.chain(vsock).collect()
    }

    /// Its vsock, if it has one.
    pub(crate) fn vsock(&self) -> Option<&VsockConfig> {
        self.devices.iter().find_map(|device| match &device.kind {
            DeviceKind::Vsock(vsock) => Some(vsock),
            _ => None,
        })
    }

    /// The machine's input files, with their names in messages.
    pub(crate) fn inputs(&self) -> Inputs {
        let files = std::iter::once((self.payload.name(), self.payload.path()));
        let initrd = self.initrd.iter().map(|path| ("initrd", path.as_path()));
        let tree = self.dtb.iter().map(|path| ("device tree", path.as_path()));
        let devices = self.devices.iter().filter_map(|device| device.kind.input());
        let files = files.chain(initrd).chain(tree).chain(devices);
        Inputs(files.map(|(what, path)| (what, path.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests;
