//! The virtio devices of a machine: what its owner asks for, and what the host has opened for them, which stays open across
//! reboots of the guest. A kind of device is a file here, a variant of [`DeviceKind`] and the line for it in [`DeviceKind::kind`].

mod cable;
mod console;
mod custom;
mod disk;
mod net;
pub mod platform;
mod rng;
mod slots;
mod vsock;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::console::Ports;
use hv_devices::virtio::transport::mmio::Version;

use crate::Error;
use crate::control::stop::Stop;
use crate::control::{Control, Refused};
use cable::Cable;

pub use console::ConsoleConfig;
pub use custom::CustomConfig;
pub use disk::DiskConfig;
pub use net::NetConfig;
pub use platform::PlatformDevice;
pub use rng::RngConfig;
pub use slots::slots;
pub use vsock::VsockConfig;

/// A virtio device of the guest's. One that does not care for id and location is made [from](From) its kind's configuration.
#[derive(Debug)]
#[non_exhaustive]
pub struct DeviceConfig {
    /// Its name for the machine's owner, such as in [`Handle`](crate::Handle)'s requests; `None` for its kind and its number among
    /// the devices of its kind, from 0, such as `net0`.
    pub id: Option<String>,
    /// Where it is.
    pub location: Location,
    /// What it is.
    pub kind: DeviceKind,
}

impl<K: Into<DeviceKind>> From<K> for DeviceConfig {
    fn from(kind: K) -> DeviceConfig {
        DeviceConfig {
            id: None,
            location: Location::default(),
            kind: kind.into(),
        }
    }
}

impl DeviceConfig {
    /// Sets [`DeviceConfig::id`].
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> DeviceConfig {
        self.id = Some(id.into());
        self
    }

    /// Sets [`DeviceConfig::location`].
    #[must_use]
    pub fn location(mut self, location: Location) -> DeviceConfig {
        self.location = location;
        self
    }
}

/// The place of a virtio device: a virtio-mmio slot, and the version of its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The slot, 0 to 7; `None` for the lowest free one.
    pub slot: Option<u32>,
    /// The version of its registers; `None` for the machine's ([`Config::virtio`](crate::Config::virtio)).
    pub version: Option<Version>,
}

/// What a virtio device is.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A disk.
    Disk(DiskConfig),
    /// A network interface.
    Net(NetConfig),
    /// An entropy device, which gives the guest the host's random numbers.
    Rng(RngConfig),
    /// A virtio console with its ports. A machine has one at most.
    Console(ConsoleConfig),
    /// A vsock. A machine has one at most.
    Vsock(VsockConfig),
    /// A device of the program's own.
    Custom(CustomConfig),
}

impl DeviceKind {
    fn kind(&self) -> &dyn Kind {
        match self {
            DeviceKind::Disk(disk) => disk,
            DeviceKind::Net(net) => net,
            DeviceKind::Rng(rng) => rng,
            DeviceKind::Console(console) => console,
            DeviceKind::Vsock(vsock) => vsock,
            DeviceKind::Custom(custom) => custom,
        }
    }

    /// The file that the guest has in it, with its name in messages.
    pub(crate) fn input(&self) -> Option<(&'static str, &Path)> {
        self.kind().input()
    }
}

/// The configuration of a kind of device.
trait Kind {
    /// The kind's name in ids.
    fn name(&self) -> &'static str;

    /// The file that the guest has in it, with its name in messages.
    fn input(&self) -> Option<(&'static str, &Path)> {
        None
    }

    /// What is wrong with a second one; `None` if a machine may have several.
    fn second(&self) -> Option<Error> {
        None
    }

    /// Opens what it needs of the host.
    ///
    /// # Errors
    /// It cannot be opened, or `opening.stop` came first.
    fn open(&self, opening: &Opening) -> Result<Box<dyn Opened>, Error>;
}

/// What a device that is opened gets to know of its machine.
struct Opening<'a> {
    /// Its name for the machine's owner.
    id: &'a str,
    /// Its number among the devices of its kind.
    index: usize,
    /// The ports of the machine's virtio console, which are open already.
    ports: Option<&'a Arc<Ports>>,
    /// Who is told of its errors.
    control: &'a Arc<Control>,
    stop: &'a Stop,
}

/// A device that has been opened.
trait Opened: Send + Sync {
    /// The device as it is when the machine is switched on.
    ///
    /// # Errors
    /// The host has no file descriptor or thread left.
    fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>>;

    /// Its cable, if it is a network interface.
    fn cable(&self) -> Option<&Cable> {
        None
    }
}

/// A device that has been opened, and its slot.
pub struct Device {
    slot: u32,
    /// Its name for the machine's owner.
    pub id: String,
    /// The layout of its registers.
    pub version: Version,
    opened: Box<dyn Opened>,
}

impl Device {
    /// The device as it is when the machine is switched on.
    ///
    /// # Errors
    /// The host has no file descriptor or thread left.
    pub fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        self.opened.power_on()
    }
}

/// All virtio devices of a machine.
pub struct Devices {
    devices: Vec<Device>,
    /// The version that an empty slot shows.
    pub version: Version,
}

impl Devices {
    /// Opens everything that `configs` name; `version` is that of slots whose device does not ask for one. The ports of the console
    /// device, if there is one, are open already.
    ///
    /// # Errors
    /// There is no slot for a device, it has the id of another, or it cannot be opened, or `stop` came first.
    pub fn open(
        configs: &[DeviceConfig],
        version: Version,
        ports: Option<&Arc<Ports>>,
        control: &Arc<Control>,
        stop: &Stop,
    ) -> Result<Devices, Error> {
        let slots = slots(configs)?;
        let named = named(configs)?;
        let mut devices = Vec::new();
        for ((device, slot), (id, index)) in configs.iter().zip(slots).zip(named) {
            let opening = Opening {
                id: &id,
                index,
                ports,
                control,
                stop,
            };
            let opened = device.kind.kind().open(&opening)?;
            devices.push(Device {
                slot,
                id,
                version: device.location.version.unwrap_or(version),
                opened,
            });
        }
        Ok(Devices { devices, version })
    }

    /// The device in this slot.
    pub fn get(&self, slot: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.slot == slot)
    }

    /// Sets the link of a network interface, by its id, up or down.
    ///
    /// # Errors
    /// There is no such device, or it is no network interface.
    pub fn set_link(&self, id: &str, up: bool) -> Result<(), Refused> {
        let device = self.devices.iter().find(|device| device.id == id);
        let opened = &device.ok_or(Refused::NoSuchDevice)?.opened;
        opened.cable().ok_or(Refused::NoNetworkInterface)?.set(up);
        Ok(())
    }
}

/// The id of each device, and its number among the devices of its kind.
fn named(devices: &[DeviceConfig]) -> Result<Vec<(String, usize)>, Error> {
    let mut ids = HashSet::new();
    let mut named: Vec<(String, usize)> = Vec::new();
    for (position, device) in devices.iter().enumerate() {
        let kind = device.kind.kind();
        let name = kind.name();
        let before = devices.iter().take(position);
        let index = before
            .filter(|other| other.kind.kind().name() == name)
            .count();
        if index > 0
            && let Some(error) = kind.second()
        {
            return Err(error);
        }
        let id = device
            .id
            .clone()
            .unwrap_or_else(|| format!("{name}{index}"));
        if !ids.insert(id.clone()) {
            return Err(Error::SameId(id));
        }
        named.push((id, index));
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Controlled;

    #[test]
    fn a_device_without_an_id_has_its_kind_s_name_and_number() {
        let devices = [
            DeviceConfig::from(DiskConfig::new("a")),
            NetConfig::tap("tap0").into(),
            DeviceConfig::from(DiskConfig::new("b")).id("root"),
            DiskConfig::new("c").into(),
            RngConfig::default().into(),
            ConsoleConfig::default().into(),
        ];
        let ids: Vec<(String, usize)> = named(&devices).unwrap();
        let ids: Vec<(&str, usize)> = ids.iter().map(|(id, index)| (&**id, *index)).collect();
        assert_eq!(
            ids,
            [
                ("disk0", 0),
                ("net0", 0),
                ("root", 1),
                ("disk2", 2),
                ("rng0", 0),
                ("console0", 0)
            ]
        );
    }

    #[test]
    fn a_device_without_a_cable_has_no_link() {
        let configs = [
            RngConfig::default().into(),
            DeviceConfig::from(RngConfig::default()).id("net0"),
        ];
        let stop = Stop::new(None).unwrap();
        let control = Controlled::new(&stop).unwrap();
        let devices =
            Devices::open(&configs, Version::default(), None, control.control(), &stop).unwrap();
        for slot in 0..4 {
            let there = devices.get(slot).map(|device| device.slot);
            assert_eq!(there, (slot < 2).then_some(slot));
        }
        for up in [false, true] {
            for id in ["net1", "", "rng1"] {
                assert_eq!(devices.set_link(id, up), Err(Refused::NoSuchDevice));
            }
            for id in ["rng0", "net0"] {
                assert_eq!(devices.set_link(id, up), Err(Refused::NoNetworkInterface));
            }
        }
    }

    #[test]
    fn a_device_is_in_its_slot_alone() {
        let at = |slot| {
            DeviceConfig::from(RngConfig::default()).location(Location {
                slot: Some(slot),
                version: None,
            })
        };
        let stop = Stop::new(None).unwrap();
        let control = Controlled::new(&stop).unwrap();
        let configs = [at(3), at(1)];
        let devices =
            Devices::open(&configs, Version::default(), None, control.control(), &stop).unwrap();
        for (slot, id) in [
            (0, None),
            (1, Some("rng1")),
            (2, None),
            (3, Some("rng0")),
            (4, None),
        ] {
            let found = devices.get(slot).map(|device| device.id.as_str());
            assert_eq!(found, id, "{slot}");
        }
    }

    #[test]
    fn ids_consoles_and_vsocks_are_for_one_device_each() {
        let twice = [
            DeviceConfig::from(DiskConfig::new("a")).id("disk1"),
            DiskConfig::new("b").into(),
        ];
        assert!(matches!(named(&twice), Err(Error::SameId(id)) if id == "disk1"));
        let consoles = [
            ConsoleConfig::default().into(),
            ConsoleConfig::default().into(),
        ];
        assert!(matches!(named(&consoles), Err(Error::TwoConsoles)));
        let vsocks = [3, 4].map(|cid| VsockConfig::new(cid, format!("v{cid}")).into());
        assert!(matches!(named(&vsocks), Err(Error::TwoVsocks)));
    }
}
