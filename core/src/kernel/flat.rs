//! Flat binaries: the bytes of a program and nothing else. They are loaded whole to 2 MiB into RAM and entered at
//! their first byte, as under QEMU and kvmtool.
//!
//! Any file can be a flat binary, unless it certainly has another format: then an error says so, instead of a guest that prints
//! nothing.

use alloc::vec;
use core::ops::Range;

use super::{Placement, Problem, Segment, kernel_base, pe_machine};
use crate::format::{Archive, Compression, DiskImage, Format};

/// What a file is that is surely no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoProgram {
    /// Compressed in a way that is undone once.
    #[error("it is compressed more than once; unpack it first")]
    CompressedTwice,
    /// Compressed in a way that is not undone.
    #[error("it is compressed by {}; unpack it first", .0.name())]
    Compressed(Compression),
    /// A cpio archive, as initial RAM disks are.
    #[error("it is a cpio archive")]
    Cpio,
    /// A tar archive.
    #[error("it is a tar archive; unpack it first")]
    Tar,
    /// A zip archive.
    #[error("it is a zip archive; unpack it first")]
    Zip,
    /// A 7z archive.
    #[error("it is a 7z archive; unpack it first")]
    SevenZip,
    /// An archive of another kind.
    #[error("it is an archive, such as a Debian package or a library; name the kernel inside")]
    Ar,
    /// A disk in a container.
    #[error("it is a disk image in {} format", .0.name())]
    DiskImage(DiskImage),
    /// A raw disk, or what is on one.
    #[error("it is a file system or a disk image")]
    Disk,
    /// A device tree, or a FIT image, which looks the same.
    #[error("it is a device tree or a FIT image")]
    DeviceTree,
    /// Wrapped for U-Boot.
    #[error("it is wrapped for U-Boot (uImage); name the Image inside")]
    UImage,
    /// A program for UEFI.
    #[error("it is an EFI program and no Linux kernel")]
    EfiProgram,
    /// EDK2 for another board.
    #[error(
        "it is a UEFI firmware for a board with flash memory (EDK2), which a guest has not; take U-Boot for supervisor mode"
    )]
    FirmwareVolume,
    /// Text.
    #[error("it is a text file; name a kernel for 64-bit RISC-V")]
    Text,
    /// Illegal instructions.
    #[error("it begins with zeros, which no program does")]
    Zeros,
    /// The same.
    #[error("it begins with ones, which no program does")]
    Ones,
}

impl From<Format> for NoProgram {
    fn from(format: Format) -> Self {
        match format {
            // Both are unpacked, so this can only be inside of another compressed file.
            Format::Compressed(Compression::Gzip | Compression::Zstd) => Self::CompressedTwice,
            Format::Compressed(other) => Self::Compressed(other),
            Format::Archive(Archive::Cpio) => Self::Cpio,
            Format::Archive(Archive::Tar) => Self::Tar,
            Format::Archive(Archive::Zip) => Self::Zip,
            Format::Archive(Archive::SevenZip) => Self::SevenZip,
            Format::Archive(Archive::Ar) => Self::Ar,
            Format::DiskImage(image) => Self::DiskImage(image),
            Format::FileSystem(_) | Format::Luks | Format::Partitions => Self::Disk,
            Format::DeviceTree => Self::DeviceTree,
            Format::UImage => Self::UImage,
        }
    }
}

/// Where a flat binary of `length` bytes goes that begins with `head`. It may use memory beyond its end; how much, no file
/// tells, so nothing else is placed near it.
pub(super) fn place(head: &[u8], length: u64, ram: &Range<u64>) -> Result<Placement, Problem> {
    if let Some(what) = mistake(head) {
        return Err(what.into());
    }
    let base = kernel_base(ram).ok_or_else(|| Problem::too_large(u64::MAX, ram))?;
    match base.checked_add(length) {
        Some(end) if end <= ram.end => Ok(Placement {
            segments: vec![Segment {
                offset: 0,
                length,
                address: base,
            }],
            entry: base,
            occupied: base..end,
        }),
        _ => Err(Problem::too_large(
            length.saturating_add(base.saturating_sub(ram.start)),
            ram,
        )),
    }
}

/// What a file is that begins with `head` and can be no program.
fn mistake(head: &[u8]) -> Option<NoProgram> {
    if head.starts_with(b"MZ\0\0zimg") {
        return Some(NoProgram::CompressedTwice);
    }
    if let Some(format) = Format::of(head) {
        return Some(format.into());
    }
    if pe_machine(head).is_some() {
        return Some(NoProgram::EfiProgram);
    }
    // UEFI Platform Initialization Specification, volume 3, "Firmware Volume Header".
    if head.get(0x28..0x2c) == Some(b"_FVH") {
        return Some(NoProgram::FirmwareVolume);
    }
    if is_text(head) {
        return Some(NoProgram::Text);
    }
    // Instructions of 16 zero bits, or of ones, are illegal by definition (unprivileged specification, "Base
    // Instruction-Length Encoding").
    match head {
        [0, 0, ..] => Some(NoProgram::Zeros),
        [0xff, 0xff, 0xff, 0xff, ..] => Some(NoProgram::Ones),
        _ => None,
    }
}

/// Whether it is UTF-8 without control characters that texts do not have.
fn is_text(head: &[u8]) -> bool {
    let text = match core::str::from_utf8(head) {
        Ok(text) => text,
        // The last character may be cut off.
        Err(error) if error.error_len().is_none() => head
            .get(..error.valid_up_to())
            .and_then(|valid| core::str::from_utf8(valid).ok())
            .unwrap_or_default(),
        Err(_) => return false,
    };
    !text.is_empty()
        && text.chars().all(|character| {
            !character.is_control() || matches!(character, '\t' | '\n' | '\r' | '\x0c' | '\x1b')
        })
}
