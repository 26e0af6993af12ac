//! The host machine, as described by the device tree that the firmware passes.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use hv_core::addr::HostPhysAddr;
use hv_core::isa::Isa;
use hv_core::machine::{Hart, MmuType};

use crate::tree::{bytes, cell, cells, is_compatible, number, ranges, string, strings};

/// The supervisor external interrupt, by its number in `sip` (privileged specification, section 12.1.3).
const SUPERVISOR_EXTERNAL: u32 = 9;

/// What is wrong with a host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no device tree, or none that can be read.
    #[error("the firmware's device tree cannot be read: {0}")]
    Tree(String),
    /// What every host has.
    #[error("the firmware's device tree has no {0}")]
    Missing(&'static str),
    /// An ISA string that makes no sense.
    #[error("hart {0} has an ISA that cannot be read")]
    Isa(u64),
}

/// The whole machine.
#[derive(Debug)]
pub struct Host {
    /// Its harts, in ascending order of their ids.
    pub harts: Vec<HostHart>,
    /// Frequency of the `time` CSR in Hz.
    pub timebase_frequency: u32,
    /// RAM.
    pub memory: Vec<Range<HostPhysAddr>>,
    /// What of RAM is the firmware's.
    pub reserved: Vec<Range<HostPhysAddr>>,
    /// Where the device interrupts come in.
    pub interrupts: Interrupts,
    /// The serial port that is the console, a 16550.
    pub serial: Option<Device>,
    /// The device that ends the machine with an exit code (`sifive,test0`).
    pub test_device: Option<HostPhysAddr>,
    /// The real-time clock (`google,goldfish-rtc`).
    pub rtc: Option<HostPhysAddr>,
    /// What the firmware gave as entropy.
    pub seed: Vec<u8>,
}

/// One hart of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostHart {
    /// Its id, as SBI knows it.
    pub id: u64,
    /// What it can do.
    pub hart: Hart,
    /// The phandle of its interrupt controller.
    interrupts: u32,
}

#[cfg(test)]
impl HostHart {
    /// One that no chip interrupts.
    pub(crate) const fn new(id: u64, hart: Hart) -> Self {
        Self {
            id,
            hart,
            interrupts: 0,
        }
    }
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its node in the host's device tree.
    pub path: String,
    /// Its registers.
    pub registers: Range<HostPhysAddr>,
    /// Its interrupt source at the chip.
    pub irq: Option<u32>,
    /// Whether its driver is one of virtio-mmio.
    pub is_virtio: bool,
    /// Whether it is a 16550.
    pub is_serial: bool,
}

/// The chip that the devices' IRQ lines lead to.
#[derive(Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// A PLIC.
    Plic {
        /// Its registers.
        base: HostPhysAddr,
        /// The highest source.
        sources: u32,
        /// The context of each hart's S-mode, in the order of [`Host::harts`].
        contexts: Vec<u32>,
    },
    /// An APLIC that interrupts the harts itself.
    AplicDirect {
        /// Registers of the supervisor domain.
        base: HostPhysAddr,
        /// The highest source.
        sources: u32,
        /// The index of each hart in the domain, in the order of [`Host::harts`].
        indices: Vec<u32>,
    },
    /// An APLIC that sends messages to the harts' IMSICs.
    AplicMessages {
        /// Registers of the APLIC's supervisor domain.
        base: HostPhysAddr,
        /// The highest source.
        sources: u32,
        /// The index of each hart among the IMSICs, in the order of [`Host::harts`].
        indices: Vec<u32>,
        /// The highest identity of each hart's file.
        identities: u32,
    },
}

impl Interrupts {
    /// The highest source.
    #[must_use]
    pub const fn sources(&self) -> u32 {
        match *self {
            Self::Plic { sources, .. }
            | Self::AplicDirect { sources, .. }
            | Self::AplicMessages { sources, .. } => sources,
        }
    }
}

impl Host {
    /// Reads the firmware's device tree.
    ///
    /// # Errors
    /// An [`Error`] if it lacks what a hypervisor needs.
    pub fn from_tree(tree: &Fdt<'_>) -> Result<Self, Error> {
        let root = tree.root();
        let cpus = root.child("cpus").ok_or(Error::Missing("harts"))?;
        let mut harts = Vec::new();
        for node in cpus.children() {
            if string(&node, "device_type") == Some("cpu")
                && string(&node, "status").is_none_or(|status| status == "okay")
            {
                harts.push(hart(&node)?);
            }
        }
        harts.sort_by_key(|hart| hart.id);
        let memory: Vec<_> = root
            .children()
            .filter(|node| string(node, "device_type") == Some("memory"))
            .flat_map(|node| ranges(&node).collect::<Vec<_>>())
            .collect();
        let reserved = root.child("reserved-memory").map_or_else(Vec::new, |node| {
            node.children()
                .flat_map(|node| ranges(&node).collect::<Vec<_>>())
                .collect()
        });
        if harts.is_empty() {
            return Err(Error::Missing("harts"));
        }
        if memory.is_empty() {
            return Err(Error::Missing("memory"));
        }
        let soc = root.child("soc").ok_or(Error::Missing("node /soc"))?;
        let chosen = root.child("chosen");
        let console = chosen
            .as_ref()
            .and_then(|chosen| string(chosen, "stdout-path"))
            .map(|path| path.split(':').next().unwrap_or(path));
        let find = |names: &[&str]| {
            soc.children()
                .find(|node| is_compatible(node, names))
                .and_then(|node| ranges(&node).next())
                .map(|registers| registers.start)
        };
        Ok(Self {
            timebase_frequency: cell(&cpus, "timebase-frequency")
                .ok_or(Error::Missing("timebase-frequency"))?,
            interrupts: interrupts(&soc, &harts)?,
            harts,
            memory,
            reserved,
            serial: console
                .and_then(|path| device(tree, path))
                .filter(|device| device.is_serial),
            test_device: find(&["sifive,test0"]),
            rtc: find(&["google,goldfish-rtc"]),
            seed: chosen
                .as_ref()
                .and_then(|chosen| bytes(chosen, "rng-seed"))
                .unwrap_or_default()
                .to_vec(),
        })
    }
}

/// Where the firmware put what it was given as initial RAM disk.
#[must_use]
pub fn initrd(tree: &Fdt<'_>) -> Option<Range<HostPhysAddr>> {
    let chosen = tree.root().child("chosen")?;
    let start = HostPhysAddr(number(&chosen, "linux,initrd-start")?);
    let end = HostPhysAddr(number(&chosen, "linux,initrd-end")?);
    (start < end).then_some(start..end)
}

/// The device at `path` in the host's tree.
#[must_use]
pub fn device(tree: &Fdt<'_>, path: &str) -> Option<Device> {
    let node = tree.find_node(path)?;
    let registers = ranges(&node).next()?;
    Some(Device {
        path: path.into(),
        registers,
        irq: cell(&node, "interrupts"),
        is_virtio: is_compatible(&node, &["virtio,mmio"]),
        is_serial: is_compatible(&node, &["ns16550a", "ns16550"]),
    })
}

fn hart(node: &FdtNode<'_>) -> Result<HostHart, Error> {
    let id = number(node, "reg").ok_or(Error::Missing("hart ids"))?;
    let names: Vec<&str> = strings(node, "riscv,isa-extensions").collect();
    let isa = if names.is_empty() {
        isa_of_string(string(node, "riscv,isa").unwrap_or_default())
    } else {
        Isa::from_names(names).ok()
    };
    let interrupts = node
        .child("interrupt-controller")
        .and_then(|node| cell(&node, "phandle"))
        .ok_or(Error::Missing("harts' interrupt controllers"))?;
    Ok(HostHart {
        id,
        hart: Hart {
            isa: isa.ok_or(Error::Isa(id))?,
            mmu: match string(node, "mmu-type") {
                Some("riscv,sv57") => MmuType::Sv57,
                Some("riscv,sv48") => MmuType::Sv48,
                Some("riscv,sv39") => MmuType::Sv39,
                _ => MmuType::Bare,
            },
            cbom_block_size: cell(node, "riscv,cbom-block-size"),
            cboz_block_size: cell(node, "riscv,cboz-block-size"),
            cbop_block_size: cell(node, "riscv,cbop-block-size"),
        },
        interrupts,
    })
}

/// The extensions of an ISA string, `rv64imac_zicsr_…`: what firmware of before 2024 gives.
fn isa_of_string(text: &str) -> Option<Isa> {
    let mut parts = text.strip_prefix("rv64")?.split('_');
    let single = parts.next()?;
    let letters = single
        .char_indices()
        .filter_map(|(at, letter)| single.get(at..at.checked_add(letter.len_utf8())?));
    Isa::from_names(letters.chain(parts)).ok()
}

/// The place of each hart's S-mode among those that `node` interrupts.
fn places(node: &FdtNode<'_>, harts: &[HostHart]) -> Option<Vec<u32>> {
    let cells: Vec<u32> = cells(node, "interrupts-extended").collect();
    let place = |hart: &HostHart| {
        let wanted = [hart.interrupts, SUPERVISOR_EXTERNAL];
        let at = cells.chunks_exact(2).position(|pair| pair == wanted)?;
        u32::try_from(at).ok()
    };
    harts.iter().map(place).collect()
}

fn interrupts(soc: &FdtNode<'_>, harts: &[HostHart]) -> Result<Interrupts, Error> {
    let missing = || Error::Missing("interrupt controller for S-mode (PLIC or APLIC)");
    for node in soc.children() {
        let Some(registers) = ranges(&node).next() else {
            continue;
        };
        let base = registers.start;
        if is_compatible(&node, &["sifive,plic-1.0.0", "riscv,plic0"]) {
            let contexts = places(&node, harts).ok_or_else(missing)?;
            return Ok(Interrupts::Plic {
                base,
                sources: cell(&node, "riscv,ndev").ok_or_else(missing)?,
                contexts,
            });
        }
        if !is_compatible(&node, &["riscv,aplic"]) {
            continue;
        }
        let sources = cell(&node, "riscv,num-sources").ok_or_else(missing)?;
        if let Some(indices) = places(&node, harts) {
            return Ok(Interrupts::AplicDirect {
                base,
                sources,
                indices,
            });
        }
        let parent = cell(&node, "msi-parent");
        let imsic = soc
            .children()
            .find(|node| parent.is_some() && cell(node, "phandle") == parent);
        if let Some(imsic) = imsic
            && let Some(indices) = places(&imsic, harts)
        {
            return Ok(Interrupts::AplicMessages {
                base,
                sources,
                indices,
                identities: cell(&imsic, "riscv,num-ids").ok_or_else(missing)?,
            });
        }
    }
    Err(missing())
}

#[cfg(test)]
mod tests;
