//! Who gets what of the host: each guest its harts, its memory and its devices, once and for all.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use hv_core::addr::{GuestPhysAddr, HostPhysAddr};
use hv_core::layout;

use crate::bundle::{Bundle, Guest};
use crate::gstage::{LARGEST_PAGE, PAGE};
use crate::host::{Device, Host};

/// Alignment of what needs none, so that it is mapped by pages of 2 MiB.
const MEGAPAGE: u64 = 2 << 20;

/// Where the RAM of a guest at its own host addresses begins: behind the firmware, and as far below where programs of this
/// board are linked to, 0x8020_0000, that some, such as U-Boot, can have their first stack there.
const FIRST_IDENTITY: u64 = 0x8010_0000;

/// Alignment of such RAM. Its pages of 2 MiB are where guest and host agree anyway.
const IDENTITY_ALIGNMENT: u64 = 1 << 20;

/// Why the host cannot be what the guests ask for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not that many harts.
    #[error("guest {guest}: it asks for {asked} harts and the host has {free} left of its {all}")]
    Harts {
        /// The guest.
        guest: String,
        /// How many it asks for.
        asked: u32,
        /// How many are left.
        free: usize,
        /// How many there are.
        all: usize,
    },
    /// A hart that is not there, or that is another guest's.
    #[error("guest {guest}: the host's hart {hart} {problem}")]
    Hart {
        /// The guest.
        guest: String,
        /// The hart's id.
        hart: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not that much memory.
    #[error(
        "guest {guest}: {asked} MiB of memory do not fit; the host has {free} MiB left in one piece"
    )]
    Memory {
        /// The guest.
        guest: String,
        /// MiB.
        asked: u64,
        /// MiB of the largest piece.
        free: u64,
    },
    /// A device that is not there, or cannot be given away.
    #[error("guest {guest}: device {device}: {problem}")]
    Device {
        /// The guest.
        guest: String,
        /// The device's path in the host.
        device: String,
        /// What is wrong with it.
        problem: DeviceProblem,
    },
}

/// What is wrong with a device that a guest asks for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceProblem {
    /// No such node.
    #[error("the host has no such device")]
    Missing,
    /// Asked for twice.
    #[error("it is given away already, to guest {0}")]
    Twice(String),
    /// Two devices in one slot.
    #[error("slot {0} is taken")]
    SlotTaken(u32),
    /// Neither virtio-mmio nor a serial port.
    #[error(
        "it is neither a virtio-mmio device nor a 16550 serial port, and no other is passed through"
    )]
    Kind,
    /// Its registers share a page with something else.
    #[error("its registers are not a page of their own")]
    Registers,
    /// Its interrupt is not in the host's device tree.
    #[error("it has no interrupt")]
    NoInterrupt,
    /// A device with DMA and a guest whose memory is somewhere else.
    #[error(
        "it reads and writes memory by host addresses, so its guest needs the property identity"
    )]
    NeedsIdentity,
    /// A slot for a device that has none.
    #[error("slot is for virtio-mmio devices")]
    SlotOfSerial,
}

/// What one guest gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Share {
    /// Its harts: of each the place in [`Host::harts`]. The guest numbers them from 0.
    pub harts: Vec<usize>,
    /// Where its RAM begins for itself.
    pub ram_base: GuestPhysAddr,
    /// Where that is in the host.
    pub ram: HostPhysAddr,
    /// Bytes of RAM.
    pub ram_size: u64,
    /// Its devices.
    pub devices: Vec<Passthrough>,
}

/// A device of the host in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// What it is in the host.
    pub host: Device,
    /// Where the guest sees its page of registers.
    pub address: GuestPhysAddr,
    /// Its interrupt source at the guest's chip.
    pub irq: u32,
    /// Its interrupt source at the host's chip.
    pub host_irq: u32,
}

impl Passthrough {
    /// The host's page of its registers.
    #[must_use]
    pub const fn page(&self) -> HostPhysAddr {
        // Registers that begin elsewhere in a page are not given away.
        self.host.registers.start
    }
}

/// Divides the host among the guests. `free` is the memory that can be given away; `device` finds a device by its path.
///
/// Guests at their own host addresses come first, for they have no choice of addresses, the first of them where programs of
/// this board are made for; the others follow from the top of memory.
///
/// # Errors
/// An [`Error`] for the first thing that cannot be had.
pub fn divide(
    bundle: &Bundle<'_>,
    host: &Host,
    free: Vec<Range<HostPhysAddr>>,
    device: impl Fn(&str) -> Option<Device>,
) -> Result<Vec<Share>, Error> {
    let harts = harts(bundle, host)?;
    let memory = memory(bundle, free)?;
    let devices = devices(bundle, device)?;
    let shares = harts.into_iter().zip(memory).zip(devices);
    Ok(bundle
        .guests
        .iter()
        .zip(shares)
        .map(|(guest, ((harts, ram), devices))| Share {
            harts,
            ram_base: if guest.identity {
                GuestPhysAddr(ram.0)
            } else {
                layout::RAM_BASE
            },
            ram,
            ram_size: guest.memory,
            devices,
        })
        .collect())
}

fn harts(bundle: &Bundle<'_>, host: &Host) -> Result<Vec<Vec<usize>>, Error> {
    let mut free: Vec<usize> = (0..host.harts.len()).collect();
    let mut given: Vec<Vec<usize>> = bundle.guests.iter().map(|_| Vec::new()).collect();
    // Those that name theirs choose first.
    for (guest, given) in bundle.guests.iter().zip(&mut given) {
        for id in guest.host_harts.iter().flatten() {
            let problem = |problem| Error::Hart {
                guest: guest.name.into(),
                hart: *id,
                problem,
            };
            let Some(place) = host.harts.iter().position(|hart| hart.id == *id) else {
                return Err(problem("is not there"));
            };
            let Some(at) = free.iter().position(|free| *free == place) else {
                return Err(problem("is given away already"));
            };
            given.push(free.remove(at));
        }
    }
    for (guest, given) in bundle.guests.iter().zip(&mut given) {
        if guest.host_harts.is_some() {
            continue;
        }
        let wanted = guest.harts as usize;
        if wanted > free.len() {
            return Err(Error::Harts {
                guest: guest.name.into(),
                asked: guest.harts,
                free: free.len(),
                all: host.harts.len(),
            });
        }
        given.extend(free.drain(..wanted));
    }
    Ok(given)
}

fn memory(
    bundle: &Bundle<'_>,
    mut free: Vec<Range<HostPhysAddr>>,
) -> Result<Vec<HostPhysAddr>, Error> {
    let mut given: Vec<Option<HostPhysAddr>> = bundle.guests.iter().map(|_| None).collect();
    for identity in [true, false] {
        let guests = bundle.guests.iter().zip(&mut given);
        for (guest, given) in guests.filter(|(guest, _)| guest.identity == identity) {
            let place = if identity { lowest } else { highest };
            let ram = place(&free, guest.memory).ok_or_else(|| no_memory(guest, &free))?;
            take(&mut free, &ram);
            *given = Some(ram.start);
        }
    }
    Ok(given.into_iter().flatten().collect())
}

fn no_memory(guest: &Guest<'_>, free: &[Range<HostPhysAddr>]) -> Error {
    let largest = free
        .iter()
        .filter_map(|range| range.end.checked_offset_from(range.start))
        .max()
        .unwrap_or(0);
    Error::Memory {
        guest: guest.name.into(),
        asked: guest.memory >> 20,
        free: largest >> 20,
    }
}

/// The lowest place for `size` bytes, from where programs of this board begin.
fn lowest(free: &[Range<HostPhysAddr>], size: u64) -> Option<Range<HostPhysAddr>> {
    let place = |range: &Range<HostPhysAddr>| {
        let start = range.start.max(HostPhysAddr(FIRST_IDENTITY));
        let start = start.checked_align_up(IDENTITY_ALIGNMENT)?;
        let end = start.checked_add(size)?;
        (end <= range.end).then_some(start..end)
    };
    free.iter()
        .filter_map(place)
        .min_by_key(|range| range.start)
}

/// The highest place for `size` bytes, in whole pages of 1 GiB if the guest has as much.
fn highest(free: &[Range<HostPhysAddr>], size: u64) -> Option<Range<HostPhysAddr>> {
    let place = |alignment: u64| {
        let place = move |range: &Range<HostPhysAddr>| {
            // Both alignments are powers of two.
            let start = range.end.0.checked_sub(size)? & !alignment.wrapping_sub(1);
            let end = HostPhysAddr(start.checked_add(size)?);
            let start = HostPhysAddr(start);
            (start >= range.start).then_some(start..end)
        };
        free.iter()
            .filter_map(place)
            .max_by_key(|range| range.start)
    };
    let large = (size >= LARGEST_PAGE)
        .then(|| place(LARGEST_PAGE))
        .flatten();
    large.or_else(|| place(MEGAPAGE))
}

/// Takes a range out of the free memory.
pub fn take(free: &mut Vec<Range<HostPhysAddr>>, taken: &Range<HostPhysAddr>) {
    let parts = |range: &Range<HostPhysAddr>| {
        [
            range.start..range.end.min(taken.start),
            range.start.max(taken.end)..range.end,
        ]
    };
    *free = free
        .iter()
        .flat_map(parts)
        .filter(|range| range.start < range.end)
        .collect();
}

fn devices(
    bundle: &Bundle<'_>,
    device: impl Fn(&str) -> Option<Device>,
) -> Result<Vec<Vec<Passthrough>>, Error> {
    let mut given: Vec<(HostPhysAddr, &str)> = Vec::new();
    let mut all = Vec::new();
    for guest in &bundle.guests {
        let mut theirs: Vec<Passthrough> = Vec::new();
        for wanted in &guest.devices {
            let error = |problem| Error::Device {
                guest: guest.name.into(),
                device: wanted.host.into(),
                problem,
            };
            let found = device(wanted.host).ok_or_else(|| error(DeviceProblem::Missing))?;
            let start = found.registers.start;
            if let Some((_, owner)) = given.iter().find(|(other, _)| *other == start) {
                return Err(error(DeviceProblem::Twice((*owner).to_string())));
            }
            let passed = pass(guest, wanted.slot, found).map_err(error)?;
            if theirs.iter().any(|other| other.address == passed.address) {
                let slot = passed.irq.saturating_sub(layout::VIRTIO_FIRST_IRQ);
                return Err(error(DeviceProblem::SlotTaken(slot)));
            }
            given.push((start, guest.name));
            theirs.push(passed);
        }
        all.push(theirs);
    }
    Ok(all)
}

/// What a device of the host is to a guest.
fn pass(guest: &Guest<'_>, slot: Option<u32>, host: Device) -> Result<Passthrough, DeviceProblem> {
    if !host.registers.start.0.is_multiple_of(PAGE) {
        return Err(DeviceProblem::Registers);
    }
    let host_irq = host.irq.ok_or(DeviceProblem::NoInterrupt)?;
    let (address, irq) = if host.is_virtio {
        if !guest.identity {
            return Err(DeviceProblem::NeedsIdentity);
        }
        let same = || {
            (0..layout::VIRTIO_SLOTS).find(|slot| {
                layout::virtio_slot(*slot)
                    .is_some_and(|(address, _)| address.0 == host.registers.start.0)
            })
        };
        slot.or_else(same)
            .and_then(layout::virtio_slot)
            .ok_or(DeviceProblem::Registers)?
    } else if host.is_serial {
        if slot.is_some() {
            return Err(DeviceProblem::SlotOfSerial);
        }
        (layout::UART_BASE, layout::UART_IRQ)
    } else {
        return Err(DeviceProblem::Kind);
    };
    Ok(Passthrough {
        host,
        address,
        irq,
        host_irq,
    })
}

#[cfg(test)]
mod tests;
