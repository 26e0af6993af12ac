//! The guest's device tree: the generated one that describes the machine, or the user's file instead.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hv_core::devicetree::{self, given};
use hv_core::machine::Machine;
use hv_devices::entropy;

use crate::Error;
use crate::boot::open_files::OpenFiles;
use crate::error::file_problem;

/// The largest tree that is taken, bytes. Linux maps two large pages for it before it knows where memory is
/// (arch/riscv/mm/init.c, `create_fdt_early_page_table`), so that one may begin anywhere in the first of them.
const MAX_SIZE: u64 = 2 << 20;

/// Bytes (Devicetree Specification 0.4, section 5.2).
const HEADER_SIZE: u32 = 40;

/// Where the guest's device tree comes from.
#[derive(Debug)]
pub enum Tree {
    /// Made for the machine.
    Machine(Box<Machine>),
    /// The user's.
    File(TreeFile),
}

impl Tree {
    /// The tree with its initrd at `initrd`, guest-physical. Its size does not depend on where that is, only on
    /// whether there is one.
    ///
    /// # Errors
    /// The machine cannot be described, or the file has no place for what is to be entered.
    pub fn build(&mut self, initrd: Option<Range<u64>>) -> Result<Vec<u8>, Error> {
        match self {
            Tree::Machine(machine) => {
                machine.initrd = initrd;
                Ok(devicetree::build(machine)?)
            }
            Tree::File(file) => file.build(initrd),
        }
    }
}

/// A device tree in a file of the user's.
#[derive(Debug)]
pub struct TreeFile {
    path: PathBuf,
    blob: Vec<u8>,
    /// What `bootargs` becomes; `None` to leave it as it is.
    command_line: Option<String>,
}

impl TreeFile {
    /// Reads the tree at `path` among `files`, whose command line becomes `command_line` if there is one.
    ///
    /// # Errors
    /// [`Error::DeviceTreeFile`] for what is no device tree.
    pub fn open(
        path: &Path,
        command_line: Option<String>,
        files: &OpenFiles,
    ) -> Result<TreeFile, Error> {
        let blob = read(path, files).and_then(|blob| {
            given::check(&blob)
                .map_err(|problem| problem.to_string())
                .map(|()| blob)
        });
        let blob = blob.map_err(|problem| Error::DeviceTreeFile {
            path: path.to_owned(),
            problem,
        })?;
        Ok(TreeFile {
            path: path.to_owned(),
            blob,
            command_line,
        })
    }

    fn build(&self, initrd: Option<Range<u64>>) -> Result<Vec<u8>, Error> {
        let line = self.command_line.as_deref();
        given::complete(&self.blob, line, initrd, |seed| entropy::fill(seed).is_ok()).map_err(
            |problem| Error::DeviceTreeFile {
                path: self.path.clone(),
                problem: problem.to_string(),
            },
        )
    }
}

/// The bytes of the tree in the file, which may go on after it.
fn read(path: &Path, files: &OpenFiles) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| file_problem(&error);
    let file = files.open(path, "device tree")?;
    let mut blob = Vec::new();
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut blob)
        .map_err(failed)?;
    if blob.is_empty() {
        return Err("the file is empty".into());
    }
    if blob.starts_with(b"/dts-v1/") {
        return Err(
            "it is the source of a device tree; compile it first (dtc -I dts -O dtb)".into(),
        );
    }
    if !blob.starts_with(b"\xd0\x0d\xfe\xed") {
        return Err("it is no device tree: it does not begin with d00dfeed".into());
    }
    let promised = u64::from(word(&blob, 4).unwrap_or(HEADER_SIZE));
    if promised > MAX_SIZE {
        return Err(format!(
            "it takes {promised} bytes, and a guest can be given {MAX_SIZE}"
        ));
    }
    let present = blob.len();
    match usize::try_from(promised) {
        Ok(promised) if promised <= present => blob.truncate(promised),
        _ => {
            return Err(format!(
                "the file is truncated: its header promises {promised} bytes and {present} are there; copy or make it again"
            ));
        }
    }
    Ok(blob)
}

/// The big-endian word at `offset`.
fn word(blob: &[u8], offset: usize) -> Option<u32> {
    let bytes = blob.get(offset..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use dtoolkit::{Node, Property};
    use hv_core::isa::Isa;
    use hv_core::machine::{Hart, InterruptController, MmuType};

    use super::*;

    fn machine() -> Machine {
        Machine {
            harts: 2,
            hart: Hart {
                isa: Isa::from_names(["i", "m", "a"]).unwrap(),
                mmu: MmuType::Sv39,
                cbom_block_size: None,
                cboz_block_size: None,
                cbop_block_size: None,
            },
            timebase_frequency: 10_000_000,
            ram_base: hv_core::layout::RAM_BASE,
            ram_size: 64 << 20,
            interrupts: InterruptController::Plic { sources: 95 },
            hypervisor: "linux,kvm",
            devices: hv_core::board::devices(),
            command_line: "console=ttyS0".into(),
            initrd: None,
            rng_seed: Some([0xa7; 32]),
        }
    }

    fn made(machine: &Machine) -> Vec<u8> {
        devicetree::build(machine).unwrap()
    }

    fn open(bytes: &[u8], line: Option<&str>) -> Result<TreeFile, Error> {
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), bytes).unwrap();
        TreeFile::open(named.path(), line.map(str::to_owned), &OpenFiles::default())
    }

    fn chosen(blob: &[u8], name: &str) -> Option<Vec<u8>> {
        let tree = dtoolkit::fdt::Fdt::new(blob).unwrap();
        let property = tree.find_node("/chosen").unwrap().property(name)?;
        Some(property.value().to_vec())
    }

    #[test]
    fn a_file_is_the_tree_byte_for_byte() {
        let mut machine = machine();
        machine.rng_seed = None;
        let blob = made(&machine);
        assert!(open(&blob, None).unwrap().build(None).unwrap() == blob);
        let longer = [&blob[..], b"the file goes on"].concat();
        assert!(open(&longer, None).unwrap().build(None).unwrap() == blob);
    }

    #[test]
    fn command_line_initrd_and_entropy_are_entered() {
        let with_initrd = Machine {
            initrd: Some(0x8100_0000..0x8200_0000),
            ..machine()
        };
        for file in [made(&machine()), made(&with_initrd)] {
            let file = open(&file, Some("root=/dev/vda ro and more than before")).unwrap();
            let sizes: Vec<_> = [0..0, 0x8300_0000..0x8312_3456]
                .map(|range| file.build(Some(range)).unwrap().len())
                .into();
            assert_eq!(sizes[0], sizes[1]);
            let blob = file.build(Some(0x8300_0000..0x8312_3456)).unwrap();
            let is = |name, value: &[u8]| assert_eq!(chosen(&blob, name).unwrap(), value, "{name}");
            is("bootargs", b"root=/dev/vda ro and more than before\0");
            is("linux,initrd-start", &0x8300_0000_u64.to_be_bytes());
            is("linux,initrd-end", &0x8312_3456_u64.to_be_bytes());
            is("stdout-path", b"/soc/serial@10000000\0");
            let seed = chosen(&blob, "rng-seed").unwrap();
            assert_eq!(seed.len(), 32);
            assert_ne!(seed, [0xa7; 32]);
        }
        let shorter = open(&made(&machine()), Some("")).unwrap();
        assert_eq!(
            chosen(&shorter.build(None).unwrap(), "bootargs").unwrap(),
            b"\0"
        );
    }

    #[test]
    fn a_tree_without_chosen_has_no_place_for_them() {
        let mut blob = made(&machine());
        let place = blob.windows(8).position(|name| name == b"chosen\0\0");
        blob[place.unwrap()] = b'C';
        assert!(open(&blob, None).unwrap().build(None).unwrap() == blob);
        for problem in [
            open(&blob, Some("quiet")).unwrap().build(None),
            open(&blob, None).unwrap().build(Some(0..1)),
        ] {
            assert!(problem.unwrap_err().to_string().contains("/chosen"));
        }
    }

    /// What is behind the tree in its file is not read.
    #[test]
    fn a_tree_may_be_as_large_as_the_limit() {
        for (promised, present, expected) in [
            (MAX_SIZE, MAX_SIZE, Ok(MAX_SIZE)),
            (MAX_SIZE, 3 * MAX_SIZE, Ok(MAX_SIZE)),
            (MAX_SIZE, MAX_SIZE - 1, Err("truncated")),
            (MAX_SIZE + 1, 3 * MAX_SIZE, Err("a guest can be given")),
            (40, MAX_SIZE, Ok(40)),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let promised = u32::try_from(promised).unwrap().to_be_bytes();
            let head = [&b"\xd0\x0d\xfe\xed"[..], &promised].concat();
            std::fs::write(file.path(), head).unwrap();
            file.as_file().set_len(present).unwrap();
            let blob = read(file.path(), &OpenFiles::default());
            match (blob, expected) {
                (Ok(blob), Ok(size)) => assert_eq!(blob.len() as u64, size),
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                (blob, _) => panic!("{:?} {expected:?}", blob.map(|blob| blob.len())),
            }
        }
    }

    #[test]
    fn what_is_no_device_tree_is_refused() {
        let blob = made(&machine());
        let mut large = blob.clone();
        large[4..8].copy_from_slice(&(3_u32 << 20).to_be_bytes());
        let mut damaged = blob.clone();
        damaged[60] ^= 0xff;
        for (bytes, expected) in [
            (&b""[..], "empty"),
            (b"MZ", "no device tree"),
            (b"/dts-v1/;\n/ { };\n", "dtc"),
            (&blob[..7], "truncated"),
            (&blob[..blob.len() - 1], "truncated"),
            (&large, "3145728 bytes"),
            (&damaged, "damaged"),
        ] {
            let problem = open(bytes, None).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
        let problem = |path| {
            TreeFile::open(Path::new(path), None, &OpenFiles::default())
                .unwrap_err()
                .to_string()
        };
        assert!(problem("/").contains("directory"));
        assert!(problem("/no/such/file").contains("no such file"));
    }

    proptest::proptest! {
        /// Whatever a file holds, it is refused or completed.
        #[test]
        fn damaged_files_do_no_harm(at in 0..3000_usize, value: [u8; 4], initrd: bool) {
            let mut blob = made(&machine());
            let at = at % (blob.len() - value.len());
            blob[at..at + value.len()].copy_from_slice(&value);
            if let Ok(file) = open(&blob, Some("a command line that is longer than the one before")) {
                let _ = file.build(initrd.then_some(0..1));
            }
        }
    }
}
