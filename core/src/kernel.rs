//! Kernel files: their formats, and the placement of their parts in guest memory.
//!
//! A kernel, or a firmware, may be a RISC-V `Image` (`image.rs`), an ELF executable (`elf.rs`) or a flat binary (`flat.rs`).
//! Programs for machine mode are recognized by their code (`machine_mode.rs`).
//! The file is not trusted: every offset and length is checked. An error describes in one line what is wrong with the file.

mod elf;
mod flat;
mod image;
mod machine_mode;

use crate::little_endian::u32_at;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// What [`place`] reads a file through: bytes in memory, or the `ReadCache` of crate `object`, which reads of a file what is
/// asked for.
pub use object::read::ReadRef;

/// As much of a file's start as is looked at to tell its format, bytes. An x86 kernel's magic lies furthest in, at 0x202.
pub const HEAD: usize = 4096;

/// A kernel has to begin this many bytes past a multiple of itself: the size of a megapage of the guest's own tables.
const ALIGNMENT: u64 = 2 << 20;

pub use flat::NoProgram;

/// What is wrong with a kernel file. What to do about it is said where it is the same for every hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
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
    #[error(transparent)]
    NoProgram(#[from] NoProgram),
    /// It is a program for another mode than guests begin in.
    #[error(
        "it is for machine mode, and guests run in supervisor mode: SBI firmware such as OpenSBI is not needed, and U-Boot has a \
         build for it (qemu-riscv64_smode)"
    )]
    MachineMode,
    /// The format is known, its contents make no sense.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit.
    #[error("it takes {needed} MiB of memory and the guest has {available}")]
    TooLarge {
        /// MiB, rounded up.
        needed: u64,
        /// MiB.
        available: u64,
    },
}

impl Problem {
    /// A guest whose RAM is `ram` (guest-physical) would have to have `needed` bytes of it.
    #[must_use]
    pub fn too_large(needed: u64, ram: &Range<u64>) -> Problem {
        Problem::TooLarge {
            needed: needed.div_ceil(1 << 20),
            available: ram.end.saturating_sub(ram.start) >> 20,
        }
    }
}

/// Where a kernel goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What of the file goes where. All of it lies in RAM, and within [`occupied`](Self::occupied).
    pub segments: Vec<Segment>,
    /// Where hart 0 begins, guest-physical.
    pub entry: u64,
    /// All memory that the kernel occupies once it runs, its .bss included, guest-physical. Nothing else may be placed there,
    /// and what no segment fills has to be zero.
    pub occupied: Range<u64>,
}

/// A piece of the file that goes into guest memory as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the first byte in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Guest-physical.
    pub address: u64,
}

/// Where the kernel or firmware in `file`, which is not compressed, goes in a guest whose RAM is `ram` (guest-physical).
///
/// # Errors
/// What is wrong with the file.
pub fn place<'data>(file: impl ReadRef<'data>, ram: &Range<u64>) -> Result<Placement, Problem> {
    let placement = place_any(file, ram)?;
    if machine_mode::is_certain(code_at_entry(file, &placement)) {
        return Err(Problem::MachineMode);
    }
    Ok(placement)
}

/// What of the file is at the entry point, as much of it as is worth a look.
fn code_at_entry<'data>(file: impl ReadRef<'data>, placement: &Placement) -> &'data [u8] {
    let code = placement.segments.iter().find_map(|segment| {
        let inside = placement.entry.checked_sub(segment.address)?;
        let left = segment.length.checked_sub(inside)?.min(HEAD as u64);
        let offset = segment.offset.checked_add(inside)?;
        file.read_bytes_at(offset, left).ok()
    });
    code.unwrap_or_default()
}

fn place_any<'data>(file: impl ReadRef<'data>, ram: &Range<u64>) -> Result<Placement, Problem> {
    let length = file.len().unwrap_or(0);
    let head = file
        .read_bytes_at(0, length.min(HEAD as u64))
        .map_err(|()| Problem::Truncated {
            promised: length,
            present: 0,
        })?;
    if head.is_empty() {
        return Err(Problem::Empty);
    }
    if elf::is_elf(head) {
        return elf::place(file, ram);
    }
    if let Some(header) = image::Header::parse(head) {
        return image::place(&header, head, length, ram);
    }
    if let Some(architecture) = foreign(head) {
        return Err(Problem::WrongArchitecture(architecture.into()));
    }
    flat::place(head, length, ram)
}

/// Where a program goes that does not say where, guest-physical: at the first multiple of 2 MiB above the start of RAM.
/// QEMU's `virt` board has SBI firmware below, so that programs for it are linked to this address, 0x8020_0000 there.
fn kernel_base(ram: &Range<u64>) -> Option<u64> {
    ram.start
        .checked_add(1)?
        .checked_next_multiple_of(ALIGNMENT)
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
        foreign_pe(head)
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

/// The architecture of the PE file that begins with `head`, if it is one, and not for 64-bit RISC-V (PE Format, "Machine
/// Types").
#[must_use]
pub fn foreign_pe(head: &[u8]) -> Option<&'static str> {
    match pe_machine(head)? {
        0x5064 => None,
        0x014c | 0x8664 => Some("x86"),
        0x01c0 | 0x01c2 | 0x01c4 => Some("32-bit Arm"),
        0xaa64 => Some("64-bit Arm"),
        0x5032 => Some("32-bit RISC-V"),
        0x6232 | 0x6264 => Some("LoongArch"),
        _ => Some("another processor"),
    }
}

#[cfg(test)]
mod tests;
