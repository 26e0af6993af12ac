//! The configuration of a virtual machine.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hv_devices::chardev::OutputFile;
use hv_devices::virtio::block::{ImageFormat, Serial};
use hv_devices::virtio::net::{Mac, Vhost};
use hv_devices::virtio::transport::mmio::Version;

use crate::Error;
use crate::consoles::ConsoleConfig;
use crate::machine::virtio;

/// The longest command line that Linux keeps on RISC-V, in bytes: `COMMAND_LINE_SIZE` without the NUL (arch/riscv/include/uapi/asm/setup.h).
const LONGEST_COMMAND_LINE: usize = 1023;

/// The configuration of a machine. Everything else (ISA, paging mode, timebase) is read from KVM.
#[derive(Debug)]
pub struct Config {
    /// The program that hart 0 starts with.
    pub payload: Payload,
    /// An initial RAM disk. A single gzip or zstd stream is unpacked for the guest if it is not too large.
    pub initrd: Option<PathBuf>,
    /// A device-tree blob to use instead of the generated one. Command line and initrd, if given, are entered in its `/chosen`, and
    /// a seed there is renewed.
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
    /// Number of harts.
    pub cpus: u32,
    /// Size of RAM, in bytes.
    pub memory: u64,
    /// Whether the RAM consists of 2 MiB huge pages that the host has reserved.
    pub hugepages: bool,
    /// The interrupt chip.
    pub irqchip: IrqchipChoice,
    /// The guest's consoles and their back ends.
    pub console: ConsoleConfig,
    /// The return value of the legacy SBI call Console Getchar if there is no character: -1 as specified, or the value that this
    /// guest expects.
    pub getchar_empty: i64,
    /// If the guest resets itself, it is not booted again: the run ends with [`Outcome::Reset`](crate::Outcome::Reset).
    pub no_reboot: bool,
    /// When this descriptor becomes readable, the run ends with [`Outcome::Stopped`](crate::Outcome::Stopped): a signalfd
    /// or an eventfd. If that happens during [`Vm::new`](crate::Vm::new), this fails with [`Error::Stopped`].
    pub stop: Option<OwnedFd>,
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

/// The input files of a machine, with their names in messages. No output may overwrite them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs(Vec<(&'static str, PathBuf)>);

impl Inputs {
    /// Opens a file for `what`, such as `serial port's output`, and locks it. Its contents are not changed yet.
    ///
    /// # Errors
    /// If it is one of these, by whatever path, or is in use by a machine, or cannot be written.
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
    /// Whether the file's contents are checked for other formats, or it is used as a raw image in any case.
    pub format: ImageFormat,
    /// Whether the guest can only read it.
    pub readonly: bool,
    /// Its serial number.
    pub serial: Serial,
    /// Where it is.
    pub placement: Placement,
}

/// A network interface of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// The host's tap interface. It is created if it does not exist and the user has the permission.
    pub tap: String,
    /// The guest's Ethernet address; `None` for a random one.
    pub mac: Option<Mac>,
    /// The longest IP packet that the guest may send or receive, in bytes, 68 at least; `None` for the tap interface's MTU.
    pub mtu: Option<u16>,
    /// Whether the host's kernel (vhost-net) or hvrun serves its queues.
    pub vhost: Vhost,
    /// Where it is.
    pub placement: Placement,
}

/// The slot of a virtio device, and the version of its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The slot, 0 to 7; `None` for the lowest free one.
    pub slot: Option<u32>,
    /// The version of its registers; `None` for the machine's ([`Config::virtio`]).
    pub version: Option<Version>,
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
    /// The default command line: the consoles, and the root file system on the first of
    /// [`Config::disks`] if there is one. With an initrd and no disk, the kernel runs the initrd's own init.
    ///
    /// `None` with a firmware or a device tree of the user, which determine it themselves.
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

    /// Warns of a command line that Linux would silently cut off.
    pub(crate) fn warn_of_a_long_command_line(&self) {
        let length = self.command_line.as_ref().map_or(0, String::len);
        if length > LONGEST_COMMAND_LINE {
            log::warn!(
                "the command line has {length} bytes: Linux keeps {LONGEST_COMMAND_LINE} on RISC-V and loses the rest, older ones \
                 keep 511; shorten it, or put into the initrd or root file system what is not for the kernel"
            );
        }
    }

    /// The slot of each of [`Config::disks`].
    ///
    /// # Errors
    /// If there is no slot for a device of the machine.
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

    /// The machine's input files, with their names in messages.
    pub(crate) fn inputs(&self) -> Inputs {
        let files = std::iter::once((self.payload.name(), self.payload.path()));
        let initrd = self.initrd.iter().map(|path| ("initrd", path.as_path()));
        let tree = self.dtb.iter().map(|path| ("device tree", path.as_path()));
        let disks = self.disks.iter().map(|disk| ("disk", disk.path.as_path()));
        let files = files.chain(initrd).chain(tree).chain(disks);
        Inputs(files.map(|(what, path)| (what, path.to_owned())).collect())
    }

    /// The placements of all virtio devices, in the order in which they get their slots: disks, network, entropy, console.
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
    use crate::consoles::{Chardev, PortConfig};

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
                serial: Some(Chardev::Pty),
                ..ConsoleConfig::default()
            },
            getchar_empty: -1,
            no_reboot: false,
            stop: None,
        }
    }

    #[test]
    fn the_command_line_follows_from_the_disks() {
        let disk = |readonly| DiskConfig {
            path: "disk".into(),
            format: ImageFormat::default(),
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
    fn other_devices_are_not_disks() {
        let at = |slot| Placement {
            slot,
            version: None,
        };
        let disk = |slot| DiskConfig {
            path: "disk".into(),
            format: ImageFormat::default(),
            readonly: false,
            serial: Serial::default(),
            placement: at(slot),
        };
        let net = |slot| NetConfig {
            tap: "tap0".into(),
            mac: None,
            mtu: None,
            vhost: Vhost::Auto,
            placement: at(slot),
        };
        let mut config = config(vec![disk(Some(5)), disk(Some(3))]);
        config.nets = vec![net(Some(0)), net(None), net(Some(4))];
        config.rng = true;
        assert_eq!(config.disk_slots().unwrap(), [5, 3]);
        let line = config.implied_command_line().unwrap();
        assert!(line.contains("root=/dev/vdb"), "{line}");
        config.disks.pop();
        let line = config.implied_command_line().unwrap();
        assert!(line.contains("root=/dev/vda"), "{line}");
    }

    #[test]
    fn no_output_goes_into_what_the_machine_is_made_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut config = config(vec![DiskConfig {
            path: path("disk"),
            format: ImageFormat::default(),
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
            let _disk =
                hv_devices::virtio::block::Raw::open(&link, true, ImageFormat::Raw).unwrap();
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
                serial: serial.then_some(Chardev::Pty),
                virtio: virtio.then_some(Chardev::Pty),
                ports: vec![PortConfig {
                    name: "org.example".into(),
                    chardev: Chardev::Pty,
                }],
                placement: Placement::default(),
            };
            assert_eq!(config.placements().len(), 1);
            config.implied_command_line().unwrap()
        };
        assert_eq!(line(true, false), "console=ttyS0");
        assert_eq!(line(false, true), "console=ttyS0 console=hvc0");
        assert_eq!(line(true, true), "console=ttyS0 console=hvc0");
        assert_eq!(line(false, false), "");
    }
}
