//! Bundles: what the bare-metal hypervisor is handed at boot, a flattened device tree that says which guests there are and
//! has their files in it. People write the source of one, with the files taken in by `/incbin/`; for a single guest the lab
//! does.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use crate::provision::{Error, Result, dtc, run};

/// What the sources of bundles say in the first place.
const COMPATIBLE: &str = "hvrun,bundle";

/// Memory of a guest that does not say, MiB.
const DEFAULT_MEMORY: u32 = 256;

/// A guest, as a bundle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The name of its node, which the hypervisor calls it by.
    pub name: String,
    /// Harts.
    pub harts: u32,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// Whether its RAM is at the same addresses in the host, as devices with DMA want it.
    pub identity: bool,
    /// The file of the kernel or firmware, not compressed.
    pub kernel: PathBuf,
    /// The file of the initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The file of a device tree in place of the one that the hypervisor makes.
    pub device_tree: Option<PathBuf>,
    /// The kernel's command line; `None` leaves it out.
    pub command_line: Option<String>,
    /// What legacy Console Getchar answers when there is no character.
    pub getchar_empty: i32,
    /// Devices of the host that are its own.
    pub devices: Vec<Device>,
}

/// A device of the host that is given to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The name of its node in the bundle.
    pub name: String,
    /// Its node in the host's device tree.
    pub host: String,
    /// The virtio-mmio slot in which the guest has it.
    pub slot: Option<u32>,
}

/// The source of a bundle with these guests. `statistics` has the hypervisor tell, when a guest ends, how often and why
/// it was left.
#[must_use]
pub fn source(guests: &[Guest], statistics: bool) -> String {
    let mut text = format!("/dts-v1/;\n\n/ {{\n\tcompatible = \"{COMPATIBLE}\";\n");
    if statistics {
        text += "\tstatistics;\n";
    }
    text += "\n\tguests {\n";
    for guest in guests {
        write_guest(&mut text, guest);
    }
    text += "\t};\n};\n";
    text
}

fn write_guest(text: &mut String, guest: &Guest) {
    let mut line = |depth: usize, content: &str| {
        let _ = writeln!(text, "{}{content}", "\t".repeat(depth));
    };
    let file = |path: &Path| format!("/incbin/({})", quoted(&path.to_string_lossy()));
    line(2, &format!("{} {{", guest.name));
    line(3, &format!("harts = <{}>;", guest.harts));
    line(3, &format!("memory = <{}>;", guest.memory_mib));
    if guest.identity {
        line(3, "identity;");
    }
    line(3, &format!("kernel = {};", file(&guest.kernel)));
    for (name, path) in [
        ("initrd", &guest.initrd),
        ("device-tree", &guest.device_tree),
    ] {
        if let Some(path) = path {
            line(3, &format!("{name} = {};", file(path)));
        }
    }
    if let Some(command_line) = &guest.command_line {
        line(3, &format!("command-line = {};", quoted(command_line)));
    }
    if guest.getchar_empty != -1 {
        line(3, &format!("getchar-empty = <({})>;", guest.getchar_empty));
    }
    if !guest.devices.is_empty() {
        line(3, "devices {");
        for device in &guest.devices {
            line(4, &format!("{} {{", device.name));
            line(5, &format!("host = {};", quoted(&device.host)));
            if let Some(slot) = device.slot {
                line(5, &format!("slot = <{slot}>;"));
            }
            line(4, "};");
        }
        line(3, "};");
    }
    line(2, "};");
}

/// A string as dtc reads it (Devicetree Specification 0.4, section 6.3: escapes as in C).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Compiles the source of a bundle. Files that it takes in are looked for beside it, and then in `directories`.
///
/// # Errors
/// When dtc cannot be had, or what it says is wrong with the source.
pub fn compile(source: &Path, directories: &[&Path], bundle: &Path) -> Result<()> {
    let mut dtc = dtc()?;
    // Node names and cells are the bundle's own business, not those of a machine's tree.
    dtc.args(["-q", "-I", "dts", "-O", "dtb"]);
    for directory in directories {
        dtc.arg("-i").arg(directory);
    }
    run(dtc.arg("-o").arg(bundle).arg(source)).map(drop)
}

/// What the machine of a bundle has to have at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Harts.
    pub harts: u32,
    /// RAM, MiB.
    pub memory_mib: u64,
}

impl Needs {
    /// Of the bundle in this file. What is wrong with its guests, the hypervisor says.
    ///
    /// # Errors
    /// It cannot be read, or is no bundle.
    pub fn of(bundle: &Path) -> Result<Self> {
        let blob = fs::read(bundle).map_err(|error| Error::io("read", bundle, error))?;
        let no_bundle = |why: &str| {
            Error::malformed(
                bundle,
                format!(
                    "{why}; make a bundle of a source with: cargo lab bundle FILE.dts -o BUNDLE"
                ),
            )
        };
        let tree = Fdt::new(&blob).map_err(|_| no_bundle("is no compiled device tree"))?;
        let root = tree.root();
        let compatible = root.property("compatible");
        if compatible.is_none_or(|compatible| {
            compatible.value().strip_suffix(b"\0") != Some(COMPATIBLE.as_bytes())
        }) {
            return Err(no_bundle("is a device tree, but no bundle"));
        }
        let guests = root.child("guests");
        let guests = guests.iter().flat_map(|guests| guests.children());
        let (harts, memory) = guests.fold((0, 0), |(harts, memory), guest| {
            (harts + guest_harts(&guest), memory + guest_memory(&guest))
        });
        Ok(Self {
            harts: u32::try_from(harts).unwrap_or(u32::MAX).max(1),
            memory_mib: memory + overhead(blob.len() as u64),
        })
    }
}

fn cells(node: &FdtNode<'_>, name: &str) -> Vec<u32> {
    let property = node.property(name);
    let value = property
        .as_ref()
        .map_or(&[][..], |property| property.value());
    let (cells, _) = value.as_chunks();
    cells.iter().copied().map(u32::from_be_bytes).collect()
}

/// The harts that there have to be for this guest: it may name them, and then by their ids.
fn guest_harts(guest: &FdtNode<'_>) -> u64 {
    let named = cells(guest, "host-harts").len() as u64;
    cells(guest, "harts")
        .first()
        .map_or(named.max(1), |harts| (*harts).into())
}

fn guest_memory(guest: &FdtNode<'_>) -> u64 {
    let memory = cells(guest, "memory").first().copied();
    memory.unwrap_or(DEFAULT_MEMORY).into()
}

/// MiB beside the guests' own memory. QEMU's loader puts the bundle half a gigabyte above the hypervisor, in the middle of what
/// an identity-placed guest wants in one piece; what is behind the bundle then has to hold all guests, and the hypervisor itself.
fn overhead(bundle: u64) -> u64 {
    let bundle = bundle.div_ceil(1 << 20);
    640 + 2 * bundle
}

#[cfg(test)]
mod tests;
