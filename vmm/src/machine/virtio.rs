//! The virtio devices of a machine, each in its slot. Their back ends stay open across reboots of the guest; each boot creates
//! new transports.

use std::io;
use std::sync::Arc;

use hv_core::layout::VIRTIO_SLOTS;
use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::block::{Block, Raw, Serial};
use hv_devices::virtio::console::{Console, Ports};
use hv_devices::virtio::net::{Backend as _, Mac, Net, Tap, Vhost};
use hv_devices::virtio::rng::Rng;
use hv_devices::virtio::transport::mmio::Version;

use crate::Error;
use crate::config::{Config, Placement};
use crate::control::stop::Stop;

/// What the host has opened for a device.
enum Backend {
    Disk {
        disk: Arc<Raw>,
        serial: Serial,
    },
    Net {
        tap: Arc<Tap>,
        mac: Mac,
        mtu: Option<u16>,
        vhost: Vhost,
    },
    Rng,
    Console(Arc<Ports>),
}

/// A device that has been opened, and its slot.
pub struct Device {
    slot: u32,
    /// The layout of its registers.
    pub version: Version,
    /// Its number among those of its kind.
    index: usize,
    backend: Backend,
}

impl Device {
    /// The device as it is when the machine is switched on.
    ///
    /// # Errors
    /// The host has no file descriptor or thread left.
    pub fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        Ok(match &self.backend {
            Backend::Disk { disk, serial } => {
                Box::new(Block::new(disk.clone(), *serial, self.index)?)
            }
            Backend::Net {
                tap,
                mac,
                mtu,
                vhost,
            } => Box::new(Net::on_tap(tap.clone(), *mac, *mtu, *vhost, self.index)?),
            Backend::Rng => Box::new(Rng::new()?),
            Backend::Console(ports) => Box::new(Console::new(ports.clone())?),
        })
    }
}

/// All slots of a machine.
pub struct Slots {
    devices: Vec<Device>,
    /// The version that an empty slot shows.
    pub version: Version,
}

impl Slots {
    /// Opens everything that `config` names. The ports of its console device, if it has one, are open already.
    ///
    /// # Errors
    /// There is no slot for a device, or it cannot be opened, or `stop` came first.
    pub fn open(config: &Config, ports: Option<&Arc<Ports>>, stop: &Stop) -> Result<Slots, Error> {
        let mut slots = assign(&config.placements())?.into_iter();
        let mut devices = Vec::new();
        let mut add = |placement: Placement, index, backend| {
            // There are as many as were assigned.
            if let Some(slot) = slots.next() {
                devices.push(Device {
                    slot,
                    version: placement.version.unwrap_or(config.virtio),
                    index,
                    backend,
                });
            }
        };
        let disks = open_disks(config, stop)?;
        for (index, (disk, open)) in config.disks.iter().zip(disks).enumerate() {
            let backend = Backend::Disk {
                disk: Arc::new(open),
                serial: disk.serial,
            };
            add(disk.placement, index, backend);
        }
        for (index, net) in config.nets.iter().enumerate() {
            let served = net.vhost.is_available()?;
            let tap = Tap::open(&net.tap)?;
            if let (Some(guest), Some(host)) = (net.mtu, tap.info().mtu)
                && guest > host
            {
                log::warn!(
                    "tap interface '{0}': the host drops what is longer than its own MTU, {host}: make that larger \
                     (ip link set {0} mtu {guest})",
                    tap.name()
                );
            }
            let backend = Backend::Net {
                mtu: net.mtu,
                tap: Arc::new(tap),
                mac: match net.mac {
                    Some(mac) => mac,
                    None => Mac::random().map_err(Error::host("choose an Ethernet address"))?,
                },
                vhost: if served { net.vhost } else { Vhost::Off },
            };
            add(net.placement, index, backend);
        }
        if config.rng {
            add(Placement::default(), 0, Backend::Rng);
        }
        if let Some(ports) = ports {
            add(config.console.placement, 0, Backend::Console(ports.clone()));
        }
        Ok(Slots {
            devices,
            version: config.virtio,
        })
    }

    /// The device in this slot.
    pub fn get(&self, slot: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.slot == slot)
    }
}

/// Opens the disks in their order.
fn open_disks(config: &Config, stop: &Stop) -> Result<Vec<Raw>, Error> {
    if config.disks.is_empty() {
        return Ok(Vec::new());
    }
    let disks = config.disks.clone();
    let open = move || {
        let disks = disks.iter();
        let disks = disks.map(|disk| Raw::open(&disk.path, disk.readonly, disk.format));
        disks.collect::<Result<_, _>>()
    };
    Ok(stop.unless_stopped(open)??)
}

/// The slot of each device: the one that was asked for, or else the lowest that is left, in the order given.
///
/// # Errors
/// There is no such slot, or it is taken, or there are too many devices.
pub fn assign(placements: &[Placement]) -> Result<Vec<u32>, Error> {
    if placements.len() > VIRTIO_SLOTS as usize {
        return Err(Error::TooManyDevices(placements.len()));
    }
    let mut free: Vec<u32> = (0..VIRTIO_SLOTS).collect();
    for slot in placements.iter().filter_map(|placement| placement.slot) {
        if slot >= VIRTIO_SLOTS {
            return Err(Error::NoSuchSlot(slot));
        }
        let Some(position) = free.iter().position(|other| *other == slot) else {
            return Err(Error::SlotTaken(slot));
        };
        free.remove(position);
    }
    let mut free = free.into_iter();
    let slots = placements
        .iter()
        .map(|placement| placement.slot.or_else(|| free.next()));
    // No more devices than slots, so each gets one.
    Ok(slots.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(asked: &[Option<u32>]) -> Result<Vec<u32>, Error> {
        let placements: Vec<Placement> = asked
            .iter()
            .map(|slot| Placement {
                slot: *slot,
                version: None,
            })
            .collect();
        assign(&placements)
    }

    #[test]
    fn devices_without_a_slot_take_what_is_left() {
        assert_eq!(slots(&[]).unwrap(), [0; 0]);
        assert_eq!(slots(&[None, None]).unwrap(), [0, 1]);
        assert_eq!(
            slots(&[None, Some(0), None, Some(2), None]).unwrap(),
            [1, 0, 3, 2, 4]
        );
        assert_eq!(
            slots(&[Some(7), None, None, None, None, None, None, None]).unwrap(),
            [7, 0, 1, 2, 3, 4, 5, 6]
        );
    }

    #[test]
    fn impossible_slots_are_refused() {
        assert!(matches!(slots(&[Some(8)]), Err(Error::NoSuchSlot(8))));
        assert!(matches!(
            slots(&[Some(3), Some(3)]),
            Err(Error::SlotTaken(3))
        ));
        assert!(matches!(slots(&[None; 9]), Err(Error::TooManyDevices(9))));
    }
}
