//! What a virtual machine shall be, as its owner says it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hv_devices::console::OutputFile;
use hv_devices::virtio::block::Serial;
use hv_devices::virtio::mmio::Version;
use hv_devices::virtio::net::{Mac, Vhost};

use crate::console::ConsoleConfig;
use crate::{Error, virtio};

/// Everything that is chosen from outside. What is left open here is asked of KVM.
#[derive(Debug)]
pub struct Config {
    /// What hart 0 begins with.
    pub payload: Payload,
    /// An initial RAM disk. What is one gzip or zstd stream and not too large is unpacked for the guest.
    pub initrd: Option<PathBuf>,
    /// A device tree, as a blob, in place of the one that describes the machine. A command line and an initrd that are given
    /// as well are entered in its `/chosen`, and a seed there is renewed.
    pub dtb: Option<PathBuf>,
    /// The disks. Unless they ask for slots of their own, the first is Linux's `vda`. The board has slots for 8 devices.
    pub disks: Vec<DiskConfig>,
    /// The network interfaces: the first is Linux's `eth0`, as with the disks.
    pub nets: Vec<NetConfig>,
    /// A virtio entropy device, which gives the guest the host's random numbers.
    pub rng: bool,
    /// The version of the virtio-mmio registers of every slot whose device does not ask for one.
    pub virtio: Version,
    /// The kernel's command line; `None` for what the rest implies ([`Config::implied_command_line`]).
    pub command_line: Option<String>,
    /// Harts.
    pub cpus: u32,
    /// RAM, bytes.
    pub memory: u64,
    /// The RAM is made of huge pages of 2 MiB that the host has reserved.
    pub hugepages: bool,
    /// The interrupt chip.
    pub irqchip: IrqchipChoice,
    /// The guest's consoles, and where they lead.
    pub console: ConsoleConfig,
    /// What the legacy SBI call Console Getchar answers when there is no character: -1 as specified, or what this guest
    /// takes for none.
    pub getchar_empty: i64,
    /// When this descriptor becomes readable, the run ends with [`Outcome::Stopped`](crate::Outcome::Stopped): a signalfd
    /// or an eventfd.
    pub stop: Option<OwnedFd>,
}

/// The program that hart 0 begins with: a RISC-V `Image`, an ELF executable or a flat binary, as it is or compressed by
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

    /// What users call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Payload::Kernel(_) => "kernel",
            Payload::Firmware(_) => "firmware",
        }
    }
}

/// The files that a machine is made of, by what users call them. No output goes into one of them.
#[derive(Debug, Default)]
pub(crate) struct Inputs(Vec<(&'static str, PathBuf)>);

impl Inputs {
    /// Opens a file for `what`, such as `serial port's output`, and locks it. Its contents are not changed yet.
    ///
    /// # Errors
    /// It is one of these, by whatever name, or in use by a machine, or cannot be written.
    pub fn open_output(&self, path: &Path, what: &str) -> Result<OutputFile, Error> {
        let output = OutputFile::open(path, what)?;
        if let Some((input, _)) = self.0.iter().find(|(_, path)| output.is(path)) {
            return Err(Error::OutputIsInput {
                what: what.to_owned(),
                path: path.to_owned(),
                input,
            });
        }
        output.lock()?;
        Ok(output)
    }
}

/// A disk of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A raw image, or a block device.
    pub path: PathBuf,
    /// The guest can only read it.
    pub readonly: bool,
    /// What the guest reads as its serial number.
    pub serial: Serial,
    /// Where it is.
    pub placement: Placement,
}

/// A network interface of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// The host's tap interface at the other end of the cable. It is made if it does not exist and the user may.
    pub tap: String,
    /// The guest's Ethernet address; `None` for a random one.
    pub mac: Option<Mac>,
    /// Who serves its queues.
    pub vhost: Vhost,
    /// Where it is.
    pub placement: Placement,
}

/// Where a virtio device is, and how its registers look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The slot, 0 to 7; `None` for the lowest that is left.
    pub slot: Option<u32>,
    /// The version of its registers; `None` for the machine's ([`Config::virtio`]).
    pub version: Option<Version>,
}

/// The interrupt chip that the guest is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IrqchipChoice {
    /// An AIA where the host's KVM has one, else a PLIC.
    #[default]
    Auto,
    /// KVM's in-kernel AIA.
    Aia,
    /// A PLIC, in userspace.
    Plic,
}

impl Config {
    /// The command line of a guest that was given none: its consoles, and the root file system on the first of
    /// [`Config::disks`] if there is one. With an initrd and no disk, the kernel runs the initrd's own init.
    ///
    /// `None` where it is for others to say: a firmware, or a device tree of the user's.
    pub fn implied_command_line(&self) -> Option<String> {
        if matches!(self.payload, Payload::Firmware(_)) || self.dtb.is_some() {
            return None;
        }
        let mut words: Vec<String> = self.console.kernel_arguments().map(String::from).collect();
        if let Some(disk) = self.disks.first() {
            words.push(format!("root=/dev/vd{}", self.letter_of_the_first_disk()));
            words.push(if disk.readonly { "ro" } else { "rw" }.into());
        }
        Some(words.join(" "))
    }

    /// The slot of each of [`Config::disks`].
    ///
    /// # Errors
    /// There is no slot for a device of the machine.
    pub fn disk_slots(&self) -> Result<Vec<u32>, Error> {
        let mut slots = virtio::assign(&self.placements())?;
        slots.truncate(self.disks.len());
        Ok(slots)
    }

    /// Linux names disks in the order of their slots.
    fn letter_of_the_first_disk(&self) -> char {
        // A configuration without a slot for each device is refused elsewhere.
        let mut disks = self.disk_slots().unwrap_or_default().into_iter();
        let before = disks
            .next()
            .map_or(0, |first| disks.filter(|slot| *slot < first).count());
        ('a'..='z').nth(before).unwrap_or('a')
    }

    /// The files that the machine is made of, and what users call them.
    pub(crate) fn inputs(&self) -> Inputs {
        let files = std::iter::once((self.payload.name(), self.payload.path()));
        let initrd = self.initrd.iter().map(|path| ("initrd", path.as_path()));
        let tree = self.dtb.iter().map(|path| ("device tree", path.as_path()));
        let disks = self.disks.iter().map(|disk| ("disk", disk.path.as_path()));
        let files = files.chain(initrd).chain(tree).chain(disks);
        Inputs(files.map(|(what, path)| (what, path.to_owned())).collect())
    }

    /// Of every virtio device, in the order in which they get their slots: disks, network, entropy, console.
    pub(crate) fn placements(&self) -> Vec<Placement> {
        let disks = self.disks.iter().map(|disk| disk.placement);
        let rng = self.rng.then(Placement::default);
        let nets = self.nets.iter().map(|net| net.placement);
        let console = (self.console.has_device()).then_some(self.console.placement);
        disks.chain(nets).chain(rng).chain(console).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{ConsoleBackend, PortConfig};

    fn config(disks: Vec<DiskConfig>) -> Config {
        Config {
            payload: Payload::Kernel("Image".into()),
            initrd: None,
            dtb: None,
            disks,
            nets: vec![],
            rng: false,
            virtio: Version::default(),
            command_line: None,
            cpus: 1,
            memory: 512 << 20,
            hugepages: false,
            irqchip: IrqchipChoice::Auto,
            console: ConsoleConfig {
                serial: Some(ConsoleBackend::Pty),
                ..ConsoleConfig::default()
            },
            getchar_empty: -1,
            stop: None,
        }
    }

    #[test]
    fn the_command_line_follows_from_the_disks() {
        let disk = |readonly| DiskConfig {
            path: "disk".into(),
            readonly,
            serial: Serial::default(),
            placement: Placement::default(),
        };
        let implied = |disks| config(disks).implied_command_line().unwrap();
        assert_eq!(implied(vec![]), "console=ttyS0");
        assert_eq!(implied(vec![disk(false)]), "console=ttyS0 root=/dev/vda rw");
        assert_eq!(
            implied(vec![disk(true), disk(false)]),
            "console=ttyS0 root=/dev/vda ro"
        );
        let mut disks = vec![disk(false), disk(false), disk(false)];
        disks[0].placement.slot = Some(1);
        assert_eq!(implied(disks), "console=ttyS0 root=/dev/vdb rw");

        let mut other = config(vec![disk(false)]);
        other.dtb = Some("guest.dtb".into());
        assert_eq!(other.implied_command_line(), None);
        other.dtb = None;
        other.payload = Payload::Firmware("u-boot.bin".into());
        assert_eq!(other.implied_command_line(), None);
    }

    #[test]
    fn no_output_goes_into_what_the_machine_is_made_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut config = config(vec![DiskConfig {
            path: path("disk"),
            readonly: true,
            serial: Serial::default(),
            placement: Placement::default(),
        }]);
        config.payload = Payload::Firmware(path("firmware"));
        config.initrd = Some(path("initrd"));
        config.dtb = Some(path("device tree"));
        let inputs = config.inputs();
        for name in ["firmware", "initrd", "device tree", "disk"] {
            std::fs::write(path(name), name).unwrap();
            let link = path("link");
            std::os::unix::fs::symlink(path(name), &link).unwrap();
            // Also where the machine has locked it already.
            let _disk = hv_devices::virtio::block::Disk::open(&link, true).unwrap();
            let error = inputs.open_output(&link, "test").unwrap_err().to_string();
            assert!(
                error.contains(&format!("is this machine's {name};")),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(path(name)).unwrap(), name);
            std::fs::remove_file(link).unwrap();
        }
        let _output = inputs.open_output(&path("other"), "test").unwrap();
        let again = inputs.open_output(&path("other"), "test");
        assert!(again.unwrap_err().to_string().contains("given twice"));
    }

    #[test]
    fn the_command_line_follows_from_the_consoles() {
        let line = |serial: bool, virtio: bool| {
            let mut config = config(vec![]);
            config.console = ConsoleConfig {
                serial: serial.then_some(ConsoleBackend::Pty),
                virtio: virtio.then_some(ConsoleBackend::Pty),
                ports: vec![PortConfig {
                    name: "org.example".into(),
                    backend: ConsoleBackend::Pty,
                }],
                placement: Placement::default(),
            };
            assert_eq!(config.placements().len(), 1);
            config.implied_command_line().unwrap()
        };
        assert_eq!(line(true, false), "console=ttyS0");
        assert_eq!(line(false, true), "console=hvc0");
        assert_eq!(line(true, true), "console=ttyS0 console=hvc0");
        assert_eq!(line(false, false), "");
    }
}
