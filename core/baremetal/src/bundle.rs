//! A bundle: the description of the guests to run. It is a flattened device tree, compiled from a readable source that takes the
//! guests' files in by `/incbin/`:
//!
//! ```dts
//! / {
//!     compatible = "hvrun,bundle";
//!     statistics;                               // optional: print exits by cause when a guest ends
//!     guests {
//!         linux {                               // the guest's name
//!             harts = <2>;                      // default 1
//!             host-harts = <0 1>;               // optional: which of the host's
//!             memory = <256>;                   // MiB, default 256
//!             identity;                         // optional: RAM is where it is in the host, for devices with DMA
//!             kernel = /incbin/("Image");       // Image, ELF or flat binary
//!             initrd = /incbin/("initrd");      // optional
//!             device-tree = /incbin/("x.dtb");  // optional: in place of the one that is made
//!             command-line = "console=hvc0";    // optional
//!             getchar-empty = <0>;              // optional: what legacy Console Getchar answers for nothing, default -1
//!             devices {                         // optional: devices of the host that become this guest's
//!                 disk { host = "/soc/virtio_mmio@10001000"; slot = <0>; };
//!                 uart { host = "/soc/serial@10000000"; };
//!             };
//!         };
//!     };
//! };
//! ```

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use hv_core::layout;

use crate::tree::{bytes, cells, is_compatible, string};

/// The most guests that there can be.
pub const MAX_GUESTS: usize = 4;

/// The most harts that a guest can have.
pub const MAX_HARTS: u32 = 8;

/// Memory of a guest that does not say, MiB.
const DEFAULT_MEMORY: u32 = 256;

/// What is wrong with a bundle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no device tree, or it ends too early.
    #[error("the bundle is no device tree, or it is damaged or truncated: {0}")]
    Tree(String),
    /// It is some other device tree.
    #[error("the file given as initrd is no bundle: its compatible is not \"hvrun,bundle\"")]
    NotABundle,
    /// No guest, or too many.
    #[error("the bundle has {0} guests; there have to be 1 to {MAX_GUESTS}")]
    Guests(usize),
    /// A guest is wrong.
    #[error("guest {guest}: {problem}")]
    Guest {
        /// Its name.
        guest: String,
        /// What is wrong.
        problem: Problem,
    },
}

/// What is wrong with a guest of a bundle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A property or a node that there is not.
    #[error("a bundle has no {0:?}; see its format")]
    Unknown(String),
    /// A property that is not as many cells as it should be.
    #[error("{0} is no number of 32 bits; write it as <1>")]
    NotANumber(String),
    /// It has no kernel.
    #[error("it has no kernel; give it one, kernel = /incbin/(\"Image\")")]
    NoKernel,
    /// A file with no bytes.
    #[error("its {0} is empty")]
    Empty(&'static str),
    /// A number of harts that is too small or too large.
    #[error("it asks for {0} harts; a guest can have 1 to {MAX_HARTS}")]
    Harts(u32),
    /// Two statements that contradict each other.
    #[error("harts is {harts} and host-harts names {named}; they have to agree")]
    HartsDisagree {
        /// How many are asked for.
        harts: u32,
        /// How many are named.
        named: usize,
    },
    /// No memory at all.
    #[error("it asks for no memory")]
    NoMemory,
    /// A device that does not say which.
    #[error(
        "device {0}: host = \"…\" is missing, the path of the device in the host's device tree"
    )]
    NoHostDevice(String),
    /// A virtio-mmio slot that the board does not have.
    #[error("device {device}: slot {slot} is none; the board has slots 0 to {last}", last = layout::VIRTIO_SLOTS - 1)]
    Slot {
        /// The device's name.
        device: String,
        /// The slot.
        slot: u32,
    },
}

/// The guests, and what concerns all of them.
#[derive(Debug)]
pub struct Bundle<'a> {
    /// The guests in the order of the bundle.
    pub guests: Vec<Guest<'a>>,
    /// Whether exits are to be printed by cause when a guest ends.
    pub statistics: bool,
}

/// What one guest is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest<'a> {
    /// Its name.
    pub name: &'a str,
    /// How many harts it has.
    pub harts: u32,
    /// Which of the host's these are, if it matters.
    pub host_harts: Option<Vec<u64>>,
    /// RAM in bytes.
    pub memory: u64,
    /// Whether its RAM lies at the same addresses in the host.
    pub identity: bool,
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initial RAM disk's.
    pub initrd: Option<&'a [u8]>,
    /// The device tree in place of the one that is made.
    pub device_tree: Option<&'a [u8]>,
    /// The kernel's command line; empty for none.
    pub command_line: &'a str,
    /// What legacy Console Getchar answers when there is nothing.
    pub getchar_empty: i64,
    /// What it gets of the host's devices.
    pub devices: Vec<Device<'a>>,
}

/// A device of the host that becomes a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    /// Its name in the bundle.
    pub name: &'a str,
    /// Its node in the host's device tree.
    pub host: &'a str,
    /// The virtio-mmio slot that the guest sees it in; the same as in the host if it is not said.
    pub slot: Option<u32>,
}

impl<'a> Bundle<'a> {
    /// Reads a bundle.
    ///
    /// # Errors
    /// An [`Error`] in words for the user.
    pub fn parse(blob: &'a [u8]) -> Result<Self, Error> {
        let tree = Fdt::new(blob).map_err(|error| Error::Tree(error.to_string()))?;
        let root = tree.root();
        if !is_compatible(&root, &["hvrun,bundle"]) {
            return Err(Error::NotABundle);
        }
        let nodes: Vec<FdtNode<'a>> = root
            .child("guests")
            .map_or_else(Vec::new, |node| node.children().collect());
        if !(1..=MAX_GUESTS).contains(&nodes.len()) {
            return Err(Error::Guests(nodes.len()));
        }
        let parse = |node: FdtNode<'a>| {
            guest(node).map_err(|problem| Error::Guest {
                guest: node.name().into(),
                problem,
            })
        };
        Ok(Self {
            guests: nodes.into_iter().map(parse).collect::<Result<_, _>>()?,
            statistics: bytes(&root, "statistics").is_some(),
        })
    }
}

/// Everything that a guest's node can say, and the node of a device of its. A word that is not among these is a mistake, and not
/// a wish to pass over.
const PROPERTIES: [&str; 10] = [
    "harts",
    "host-harts",
    "memory",
    "identity",
    "kernel",
    "initrd",
    "device-tree",
    "command-line",
    "getchar-empty",
    "phandle",
];
const NODES: [&str; 1] = ["devices"];
const DEVICE_PROPERTIES: [&str; 3] = ["host", "slot", "phandle"];

/// Finds a word that is not among those that there are.
fn check(node: &FdtNode<'_>, properties: &[&str], nodes: &[&str]) -> Result<(), Problem> {
    let of_properties = node
        .properties()
        .map(|property| property.name().to_string())
        .find(|name| !properties.contains(&name.as_str()));
    let unknown = of_properties.or_else(|| {
        let mut of_nodes = node.children().map(|child| child.name().to_string());
        of_nodes.find(|name| !nodes.contains(&name.as_str()))
    });
    unknown.map_or(Ok(()), |name| Err(Problem::Unknown(name)))
}

/// A property that is one cell.
fn one_cell(node: &FdtNode<'_>, name: &str) -> Result<Option<u32>, Problem> {
    let mut cells = many_cells(node, name)?.into_iter();
    match (cells.next(), cells.next()) {
        (cell, None) => Ok(cell),
        _ => Err(Problem::NotANumber(name.into())),
    }
}

/// A property that is cells; none if there is no such property.
fn many_cells(node: &FdtNode<'_>, name: &str) -> Result<Vec<u32>, Problem> {
    let cells: Vec<u32> = cells(node, name).collect();
    if cells.is_empty() && bytes(node, name).is_some() {
        return Err(Problem::NotANumber(name.into()));
    }
    Ok(cells)
}

fn guest<'a>(node: FdtNode<'a>) -> Result<Guest<'a>, Problem> {
    check(&node, &PROPERTIES, &NODES)?;
    let file = |name: &'static str| match bytes(&node, name) {
        Some([]) => Err(Problem::Empty(name)),
        file => Ok(file),
    };
    let named = many_cells(&node, "host-harts")?;
    let named: Vec<u64> = named.into_iter().map(u64::from).collect();
    let count = u32::try_from(named.len()).unwrap_or(u32::MAX);
    let harts = one_cell(&node, "harts")?.unwrap_or(if named.is_empty() { 1 } else { count });
    if !(1..=MAX_HARTS).contains(&harts) {
        return Err(Problem::Harts(harts));
    }
    if !named.is_empty() && harts != count {
        return Err(Problem::HartsDisagree {
            harts,
            named: named.len(),
        });
    }
    let memory = u64::from(one_cell(&node, "memory")?.unwrap_or(DEFAULT_MEMORY)) << 20;
    if memory == 0 {
        return Err(Problem::NoMemory);
    }
    let devices = node
        .children()
        .find(|child| child.name() == "devices")
        .map_or_else(Vec::new, |node| node.children().collect());
    Ok(Guest {
        name: node.name(),
        harts,
        host_harts: (!named.is_empty()).then_some(named),
        memory,
        identity: bytes(&node, "identity").is_some(),
        kernel: file("kernel")?.ok_or(Problem::NoKernel)?,
        initrd: file("initrd")?,
        device_tree: file("device-tree")?,
        command_line: string(&node, "command-line").unwrap_or_default(),
        // A cell is 32 bits, and the value one with a sign.
        getchar_empty: one_cell(&node, "getchar-empty")?
            .map_or(-1, |cell| cell.cast_signed().into()),
        devices: devices.into_iter().map(device).collect::<Result<_, _>>()?,
    })
}

fn device<'a>(node: FdtNode<'a>) -> Result<Device<'a>, Problem> {
    check(&node, &DEVICE_PROPERTIES, &[])?;
    let slot = one_cell(&node, "slot")?;
    if let Some(slot) = slot.filter(|slot| *slot >= layout::VIRTIO_SLOTS) {
        return Err(Problem::Slot {
            device: node.name().into(),
            slot,
        });
    }
    Ok(Device {
        name: node.name(),
        host: string(&node, "host").ok_or_else(|| Problem::NoHostDevice(node.name().into()))?,
        slot,
    })
}

#[cfg(test)]
mod tests;
