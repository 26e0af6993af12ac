//! What lies where in guest memory when hart 0 begins.
//!
//! ```text
//!   RAM_BASE                                                             end of RAM
//!   | (free) | kernel, with its .bss |   …free…   | initrd | device tree |
//! ```
//!
//! The kernel says itself where it goes; the rest lies at the far end, out of its way.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use hv_core::devicetree;
use hv_core::layout;
use hv_core::machine::Machine;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Error;
use crate::kernel::Kernel;

/// Alignment of initrd and device tree, bytes: a page, which is more than the 8 that the device tree needs.
const PAGE: u64 = 4096;

/// What the boot hart's registers hold at its first instruction (Linux, Documentation/arch/riscv/boot.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootRegisters {
    /// The entry point, for pc.
    pub entry: u64,
    /// Where the device tree lies, guest-physical, for a1. a0 holds the hart id.
    pub device_tree: u64,
}

/// Puts kernel, initrd and device tree into `memory`, and answers where hart 0 starts and the tree itself. `machine`
/// describes the guest except for its initrd, which is entered here.
///
/// # Errors
/// A file that cannot be used, or what does not fit.
pub fn load(
    kernel: &Path,
    initrd: Option<&PathBuf>,
    mut machine: Machine,
    memory: &GuestMemoryMmap,
) -> Result<(BootRegisters, Vec<u8>), Error> {
    let ram = layout::RAM_BASE.0..layout::RAM_BASE.0 + machine.ram_size;
    let opened = Kernel::open(kernel, &ram)?;
    let mut initrd = initrd.map(|path| Initrd::open(path)).transpose()?;

    // The tree's size does not depend on where the initrd lies, only on whether there is one.
    machine.initrd = initrd.as_ref().map(|_| 0..0);
    let tree_size = devicetree::build(&machine)?.len() as u64;
    let does_not_fit = |what| Error::DoesNotFit {
        what,
        memory: machine.ram_size >> 20,
    };
    let tree = below(ram.end, tree_size, opened.occupied.end)
        .ok_or_else(|| does_not_fit("device tree"))?;
    let place = |file: &Initrd| {
        below(tree.start, file.size, opened.occupied.end).ok_or_else(|| does_not_fit("initrd"))
    };
    let initrd_range = initrd.as_ref().map(place).transpose()?;
    machine.initrd.clone_from(&initrd_range);

    let blob = devicetree::build(&machine)?;
    let registers = BootRegisters {
        entry: opened.entry,
        device_tree: tree.start,
    };
    opened.load(kernel, memory)?;
    if let (Some(file), Some(range)) = (&mut initrd, initrd_range) {
        file.load(range.start, memory)?;
    }
    memory
        .write_slice(&blob, GuestAddress(tree.start))
        .map_err(|_| does_not_fit("device tree"))?;
    Ok((registers, blob))
}

/// `size` bytes that end at or below `top`, begin on a page, and not below `floor`.
fn below(top: u64, size: u64, floor: u64) -> Option<Range<u64>> {
    let start = top.checked_sub(size)? / PAGE * PAGE;
    (start >= floor).then_some(start..start + size)
}

/// An initial RAM disk's file.
struct Initrd<'a> {
    path: &'a Path,
    file: File,
    /// Bytes.
    size: u64,
}

impl<'a> Initrd<'a> {
    fn open(path: &'a Path) -> Result<Initrd<'a>, Error> {
        let problem = |problem: String| Error::Initrd {
            path: path.to_owned(),
            problem,
        };
        let mut file = File::open(path).map_err(|error| problem(error.to_string()))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(problem("it is a directory; name the archive in it".into()));
        }
        let size = file
            .seek(SeekFrom::End(0))
            .and_then(|size| file.rewind().map(|()| size))
            .map_err(|error| problem(error.to_string()))?;
        if size == 0 {
            return Err(problem("the file is empty".into()));
        }
        Ok(Initrd { path, file, size })
    }

    fn load(&mut self, address: u64, memory: &GuestMemoryMmap) -> Result<(), Error> {
        let problem = |problem: String| Error::Initrd {
            path: self.path.to_owned(),
            problem,
        };
        let size = usize::try_from(self.size).map_err(|error| problem(error.to_string()))?;
        memory
            .read_exact_volatile_from(GuestAddress(address), &mut self.file.by_ref(), size)
            .map_err(|error| problem(format!("it cannot be read: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_placed_downwards_in_whole_pages() {
        assert_eq!(below(0x10_0000, 0x10, 0), Some(0xf_f000..0xf_f010));
        assert_eq!(
            below(0x10_0000, 0x1000, 0xf_f000),
            Some(0xf_f000..0x10_0000)
        );
        assert_eq!(below(0x10_0000, 0x1001, 0xf_f000), None);
        assert_eq!(below(0x1000, 0x2000, 0), None);
    }
}
