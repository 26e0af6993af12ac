//! The files that a guest boots from, and their way into its memory. Core's [`hv_core::placement`] decides where each lies.

pub mod boot_files;
pub mod compression;
pub mod devicetree;
pub mod initrd;
pub mod kernel;
pub mod open_files;

use std::path::PathBuf;

use hv_core::devicetree::add_room;
use hv_core::layout;
use hv_core::placement::FreeMemory;
use hv_devices::memory::GuestMemoryMmap;
use vm_memory::{Bytes, GuestAddress};

use crate::Error;
use crate::boot::devicetree::Tree;
use crate::boot::initrd::Initrd;
use crate::boot::kernel::Kernel;
use crate::boot::open_files::OpenFiles;
use crate::config::Payload;

/// What the boot hart's registers hold at its first instruction (Linux, Documentation/arch/riscv/boot.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootRegisters {
    /// The entry point, for pc.
    pub entry: u64,
    /// Where the device tree lies, guest-physical, for a1. a0 holds the hart id.
    pub device_tree: u64,
}

/// Puts kernel or firmware, initrd and device tree, each of `files`, into `memory`, the `ram_size` bytes of the guest's RAM, and answers where
/// hart 0 starts and the tree itself, in which the initrd is entered. The guest has it with room for more.
///
/// # Errors
/// A file that cannot be used, or what does not fit.
pub fn load(
    payload: &Payload,
    initrd: Option<&PathBuf>,
    mut tree: Tree,
    ram_size: u64,
    memory: &GuestMemoryMmap,
    files: &OpenFiles,
) -> Result<(BootRegisters, Vec<u8>), Error> {
    let ram = layout::RAM_BASE.0..layout::RAM_BASE.0 + ram_size;
    let kernel = Kernel::open(payload, &ram, files)?;
    let does_not_fit = |what| Error::DoesNotFit {
        what,
        memory: ram_size >> 20,
    };
    let mut free = FreeMemory::behind(&ram, &kernel.occupied);
    // The tree's size is known before the initrd's place, which is entered in it.
    let first = tree.build(initrd.map(|_| 0..0))?;
    let size = with_room(&first).len() as u64;
    let tree_range = free.take(size).ok_or_else(|| does_not_fit("device tree"))?;
    let initrd = initrd
        .map(|path| Initrd::open(path, free.size(), files))
        .transpose()?;
    let mut place = |file: &Initrd| free.take(file.size).ok_or_else(|| does_not_fit("initrd"));
    let initrd_range = initrd.as_ref().map(&mut place).transpose()?;

    let blob = match &initrd_range {
        Some(range) => tree.build(Some(range.clone()))?,
        None => first,
    };
    let registers = BootRegisters {
        entry: kernel.entry,
        device_tree: tree_range.start,
    };
    kernel.load(payload, memory)?;
    if let (Some(file), Some(range)) = (initrd, initrd_range) {
        file.load(range.start, memory)?;
    }
    memory
        .write_slice(&with_room(&blob), GuestAddress(tree_range.start))
        .map_err(|_| does_not_fit("device tree"))?;
    Ok((registers, blob))
}

fn with_room(blob: &[u8]) -> Vec<u8> {
    let mut larger = blob.to_vec();
    add_room(&mut larger);
    larger
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};
    use hv_core::devicetree::ROOM;
    use hv_core::placement::PAGE;

    use super::*;
    use crate::boot::compression::tests::gzip;
    use crate::boot::devicetree::TreeFile;

    /// A tree of one node, `/chosen`, without properties.
    fn tree() -> Vec<u8> {
        let header = [0xd00d_feed, 84, 56, 84, 40, 17, 16, 0, 0, 28];
        let nodes = [
            1,
            0,
            1,
            u32::from_be_bytes(*b"chos"),
            u32::from_be_bytes(*b"en\0\0"),
            2,
            2,
            9,
        ];
        let words = header.into_iter().chain([0; 4]).chain(nodes);
        let mut blob: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        let size = u32::try_from(blob.len()).unwrap().to_be_bytes();
        blob[4..8].copy_from_slice(&size);
        blob[12..16].copy_from_slice(&size);
        blob[36..40].copy_from_slice(&32_u32.to_be_bytes());
        blob
    }

    /// A guest's memory is full when its kernel takes all of it.
    #[test]
    fn what_does_not_fit_is_named_with_the_memory_that_there_is() {
        const RAM: u64 = 64 << 20;
        let directory = tempfile::tempdir().unwrap();
        let [kernel, dtb] = ["kernel", "dtb"].map(|name| directory.path().join(name));
        // An Image whose .bss reaches to the end.
        let mut image = vec![0x13; 4096];
        image[8..16].copy_from_slice(&(2_u64 << 20).to_le_bytes());
        image[16..24].copy_from_slice(&(RAM - (2 << 20)).to_le_bytes());
        image[24..32].fill(0);
        image[56..60].copy_from_slice(b"RSC\x05");
        fs::write(&kernel, image).unwrap();
        fs::write(&dtb, tree()).unwrap();
        let base = GuestAddress(layout::RAM_BASE.0);
        let memory =
            GuestMemoryMmap::from_ranges(&[(base, usize::try_from(RAM).unwrap())]).unwrap();
        let tree = TreeFile::open(&dtb, None, &OpenFiles::default()).unwrap();
        let refused = load(
            &Payload::Kernel(kernel),
            None,
            Tree::File(tree),
            RAM,
            &memory,
            &OpenFiles::default(),
        );
        assert!(matches!(
            refused,
            Err(Error::DoesNotFit {
                what: "device tree",
                memory: 64
            })
        ));
    }

    #[test]
    fn everything_is_where_the_guest_looks_for_it() {
        const RAM: u64 = 64 << 20;
        let directory = tempfile::tempdir().unwrap();
        let [kernel, initrd, dtb] =
            ["kernel", "initrd", "dtb"].map(|name| directory.path().join(name));
        let code = [0x13, 0x05, 0, 0, 0x73, 0, 0, 0];
        let archive = vec![b'0'; 5000];
        fs::write(&kernel, code).unwrap();
        fs::write(&initrd, gzip(&archive)).unwrap();
        fs::write(&dtb, tree()).unwrap();
        let base = GuestAddress(layout::RAM_BASE.0);
        let memory =
            GuestMemoryMmap::from_ranges(&[(base, usize::try_from(RAM).unwrap())]).unwrap();
        let tree = TreeFile::open(&dtb, Some("quiet".into()), &OpenFiles::default()).unwrap();
        let (registers, blob) = load(
            &Payload::Kernel(kernel),
            Some(&initrd),
            Tree::File(tree),
            RAM,
            &memory,
            &OpenFiles::default(),
        )
        .unwrap();

        let found = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory
                .read_slice(&mut bytes, GuestAddress(address))
                .unwrap();
            bytes
        };
        assert_eq!(registers.entry, 0x8020_0000);
        assert_eq!(found(registers.entry, code.len()), code);

        let end = base.0 + RAM;
        assert!(registers.device_tree.is_multiple_of(PAGE) && registers.device_tree < end);
        let size = blob.len() + ROOM;
        assert!(end - registers.device_tree >= size as u64);
        // The header's size includes the room.
        let guests = found(registers.device_tree, size);
        assert_eq!(guests[8..blob.len()], blob[8..]);
        assert!(guests[blob.len()..].iter().all(|byte| *byte == 0));
        let chosen = |name| {
            let tree = Fdt::new(&guests).unwrap();
            let property = tree.find_node("/chosen").unwrap().property(name);
            property.unwrap().value().to_vec()
        };
        assert_eq!(chosen("bootargs"), b"quiet\0");
        let address = |name| u64::from_be_bytes(chosen(name).try_into().unwrap());
        let (start, end) = (address("linux,initrd-start"), address("linux,initrd-end"));
        assert_eq!(end - start, 5000);
        assert!(end <= registers.device_tree);
        assert!(found(start, 5000) == archive);
    }
}
