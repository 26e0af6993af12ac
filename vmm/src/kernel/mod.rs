//! Kernel files: what format one has, and what of it goes where in guest memory.
//!
//! A kernel, or a firmware, may be a RISC-V `Image` (`image.rs`), an ELF executable (`elf.rs`) or a flat binary (`flat.rs`),
//! each of them also compressed by gzip or zstd or wrapped as an EFI zboot program (`compressed.rs`). Everything here works on
//! bytes of a file of the user's: nothing is trusted to be inside bounds, and what is wrong with a file is told in one line.

mod compressed;
mod elf;
mod flat;
mod image;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Error;
use crate::config::Payload;
use crate::error::file_problem;

/// As much of a file's start as is looked at to tell its format, bytes. An x86 kernel's magic lies furthest in, at 0x202.
const HEAD: usize = 4096;

/// Where a program goes that does not say where, guest-physical: 2 MiB into RAM. QEMU's `virt` board has SBI firmware below,
/// so that programs for it are linked to this address.
const KERNEL_BASE: u64 = 0x8020_0000;

/// What is wrong with a kernel file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be opened or read.
    #[error("{}", file_problem(.0))]
    Io(io::Error),
    /// A directory was named.
    #[error("it is a directory; name the kernel file in it")]
    Directory,
    /// It has no bytes.
    #[error("the file is empty")]
    Empty,
    /// It ends before its own header says.
    #[error(
        "the file is truncated: its header promises {promised} bytes and {present} are there; copy or build it again"
    )]
    Truncated {
        /// Bytes that the header promises.
        promised: u64,
        /// Bytes in the file.
        present: u64,
    },
    /// It is for another processor.
    #[error("it is for {0}; hvrun needs one for 64-bit RISC-V")]
    WrongArchitecture(String),
    /// It is surely something else than a program.
    #[error("{0}")]
    NoProgram(&'static str),
    /// The format is known, its contents make no sense.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit.
    #[error(
        "it takes {needed} MiB of memory and the guest has {available}; give it more with --memory"
    )]
    TooLarge {
        /// MiB, rounded up.
        needed: u64,
        /// MiB.
        available: u64,
    },
}

impl Problem {
    fn too_large(needed: u64, ram: &Range<u64>) -> Problem {
        Problem::TooLarge {
            needed: needed.div_ceil(1 << 20),
            available: (ram.end - ram.start) >> 20,
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

/// A kernel or firmware that is ready to be put into guest memory.
#[derive(Debug)]
pub struct Kernel {
    /// What the bytes of the segments are read from.
    contents: Contents,
    segments: Vec<Segment>,
    /// Where hart 0 begins, guest-physical.
    pub entry: u64,
    /// All memory that the kernel occupies once it runs, its .bss included, guest-physical. Nothing else may be placed there.
    pub occupied: Range<u64>,
}

#[derive(Debug)]
enum Contents {
    File(File),
    Memory(Vec<u8>),
}

/// A piece of the file that goes into guest memory as it is. What a kernel occupies beyond it is zero already.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    /// Offset of the first byte in the contents.
    offset: u64,
    /// Bytes.
    length: u64,
    /// Guest-physical.
    address: u64,
}

/// Where a format's parser finds what it needs to know.
struct Layout {
    segments: Vec<Segment>,
    entry: u64,
    occupied: Range<u64>,
}

impl Kernel {
    /// Opens the kernel or firmware for a guest whose RAM is `ram` (guest-physical).
    ///
    /// # Errors
    /// What is wrong with the file, as [`Error::Payload`].
    pub fn open(payload: &Payload, ram: &Range<u64>) -> Result<Kernel, Error> {
        Self::open_file(payload.path(), ram).map_err(|problem| error(payload, problem))
    }

    fn open_file(path: &Path, ram: &Range<u64>) -> Result<Kernel, Problem> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(Problem::Directory);
        }
        let mut head = Vec::with_capacity(HEAD);
        (&mut file).take(HEAD as u64).read_to_end(&mut head)?;
        if head.is_empty() {
            return Err(Problem::Empty);
        }
        match compressed::detect(&head)? {
            Some(compression) => {
                let bytes = compressed::unpack(compression, file, ram)?;
                let layout = layout(&bytes, bytes.len() as u64, ram)?;
                Ok(Kernel::from_layout(layout, Contents::Memory(bytes)))
            }
            None => {
                let length = file.seek(SeekFrom::End(0))?;
                let layout = if elf::is_elf(&head) {
                    // The program headers can be anywhere in the file, which with debug information is large.
                    elf::layout(&object::ReadCache::new(&file), ram)?
                } else {
                    layout(&head, length, ram)?
                };
                Ok(Kernel::from_layout(layout, Contents::File(file)))
            }
        }
    }

    fn from_layout(layout: Layout, contents: Contents) -> Kernel {
        Kernel {
            contents,
            segments: layout.segments,
            entry: layout.entry,
            occupied: layout.occupied,
        }
    }

    /// Copies the kernel into guest memory.
    ///
    /// # Errors
    /// The file cannot be read, as [`Error::Payload`].
    pub fn load(mut self, payload: &Payload, memory: &GuestMemoryMmap) -> Result<(), Error> {
        for segment in &self.segments {
            self.contents
                .copy(segment, memory)
                .map_err(|problem| error(payload, Problem::Io(problem)))?;
        }
        Ok(())
    }
}

fn error(payload: &Payload, problem: Problem) -> Error {
    Error::Payload {
        what: payload.name(),
        path: payload.path().to_owned(),
        problem,
    }
}

impl Contents {
    fn copy(&mut self, segment: &Segment, memory: &GuestMemoryMmap) -> io::Result<()> {
        let address = GuestAddress(segment.address);
        let out_of_bounds = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file ended early");
        let length = usize::try_from(segment.length).map_err(|_| out_of_bounds())?;
        match self {
            Contents::File(file) => {
                file.seek(SeekFrom::Start(segment.offset))?;
                memory
                    .read_exact_volatile_from(address, file, length)
                    .map_err(io::Error::other)
            }
            Contents::Memory(bytes) => {
                let start = usize::try_from(segment.offset).map_err(|_| out_of_bounds())?;
                let bytes = bytes
                    .get(start..)
                    .and_then(|bytes| bytes.get(..length))
                    .ok_or_else(out_of_bounds)?;
                memory.write_slice(bytes, address).map_err(io::Error::other)
            }
        }
    }
}

/// The layout of an uncompressed kernel: `head` is its start (all of it, if it may be an ELF file), `length` its size in
/// bytes.
fn layout(head: &[u8], length: u64, ram: &Range<u64>) -> Result<Layout, Problem> {
    if elf::is_elf(head) {
        return elf::layout(head, ram);
    }
    if let Some(header) = image::Header::parse(head) {
        return image::layout(&header, head, length, ram);
    }
    if let Some(architecture) = foreign(head) {
        return Err(Problem::WrongArchitecture(architecture.into()));
    }
    flat::layout(head.get(..HEAD).unwrap_or(head), length, ram)
}

/// The architecture of a kernel that is not for RISC-V, where its format tells.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let has = |offset: usize, magic: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    // Linux, Documentation/arch/arm64/booting.rst, arch/arm/boot/compressed/head.S, Documentation/arch/x86/boot.rst
    if has(56, b"ARM\x64") {
        Some("64-bit Arm")
    } else if has(0x24, b"\x18\x28\x6f\x01") {
        Some("32-bit Arm")
    } else if has(0x202, b"HdrS") {
        Some("x86")
    } else {
        pe_machine(head).and_then(foreign_pe)
    }
}

/// `IMAGE_FILE_HEADER.Machine` of a PE file (PE Format, "COFF File Header").
fn pe_machine(head: &[u8]) -> Option<u16> {
    if !head.starts_with(b"MZ") {
        return None;
    }
    let header = usize::try_from(u32_at(head, 0x3c)?).ok()?;
    let signature = head.get(header..)?;
    if !signature.starts_with(b"PE\0\0") {
        return None;
    }
    let machine = signature.get(4..6)?;
    Some(u16::from_le_bytes(machine.try_into().ok()?))
}

/// The name of a PE machine type other than 64-bit RISC-V's (PE Format, "Machine Types").
fn foreign_pe(machine: u16) -> Option<&'static str> {
    match machine {
        0x5064 => None,
        0x014c | 0x8664 => Some("x86"),
        0x01c0 | 0x01c2 | 0x01c4 => Some("32-bit Arm"),
        0xaa64 => Some("64-bit Arm"),
        0x5032 => Some("32-bit RISC-V"),
        0x6232 | 0x6264 => Some("LoongArch"),
        _ => Some("another processor"),
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .get(..4)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes
        .get(offset..)?
        .get(..8)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
