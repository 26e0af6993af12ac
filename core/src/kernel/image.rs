//! The RISC-V `Image` (Linux, Documentation/arch/riscv/boot-image-header.rst).

use alloc::vec;
use core::ops::Range;

use super::{ALIGNMENT, Placement, Problem, Segment};
use crate::little_endian::{u32_at, u64_at};

/// The fields of the header that matter to a loader.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Where the image wants to be, counted from the start of RAM, bytes.
    pub text_offset: u64,
    /// Memory that the kernel takes once it runs, bytes; 0 in images that do not tell.
    pub image_size: u64,
    flags: u64,
}

impl Header {
    /// The header at the start of `head`, where there is one.
    pub(super) fn parse(head: &[u8]) -> Option<Header> {
        // Loaders check magic2; the first magic is deprecated, and only in older images.
        if head.get(56..60)? != b"RSC\x05" {
            return None;
        }
        u32_at(head, 60)?;
        Some(Header {
            text_offset: u64_at(head, 8)?,
            image_size: u64_at(head, 16)?,
            flags: u64_at(head, 24)?,
        })
    }
}

/// Where an image of `length` bytes goes that begins with `head`.
pub(super) fn place(
    header: &Header,
    head: &[u8],
    length: u64,
    ram: &Range<u64>,
) -> Result<Placement, Problem> {
    if header.flags & 1 != 0 {
        return Err(Problem::WrongArchitecture("big-endian RISC-V".into()));
    }
    // image_size includes .bss, which no file has, so it cannot tell whether the file is whole. The PE header can, in
    // images that are EFI programs too.
    match pe_file_size(head) {
        Some(promised) if length < promised => {
            return Err(Problem::Truncated {
                promised,
                present: length,
            });
        }
        _ => {}
    }
    let needed = header.image_size.max(length);
    let placed = ram
        .start
        .checked_next_multiple_of(ALIGNMENT)
        .and_then(|base| base.checked_add(header.text_offset))
        .and_then(|start| Some(start..start.checked_add(needed)?));
    match placed {
        Some(occupied) if occupied.end <= ram.end => Ok(Placement {
            segments: vec![Segment {
                offset: 0,
                length,
                address: occupied.start,
            }],
            entry: occupied.start,
            occupied,
        }),
        _ => Err(Problem::too_large(
            needed.saturating_add(header.text_offset),
            ram,
        )),
    }
}

/// How long the file of a PE program has to be for its sections to be in it, bytes (PE Format, "Section Table").
fn pe_file_size(head: &[u8]) -> Option<u64> {
    if !head.starts_with(b"MZ") {
        return None;
    }
    let coff = usize::try_from(u32_at(head, 0x3c)?).ok()?;
    let coff = head
        .get(coff..)
        .filter(|coff| coff.starts_with(b"PE\0\0"))?;
    let sections = u32_at(coff, 4)? >> 16;
    let optional_header = u32_at(coff, 20)? & 0xffff;
    let table = coff.get(usize::try_from(optional_header).ok()?.checked_add(24)?..)?;
    table
        .chunks_exact(40)
        .take(usize::try_from(sections).ok()?)
        .filter_map(|section| {
            u64::from(u32_at(section, 16)?).checked_add(u32_at(section, 20)?.into())
        })
        .max()
}
