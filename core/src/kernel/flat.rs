//! Flat binaries: the bytes of a program and nothing else. They are loaded whole to 2 MiB into RAM and entered at
//! their first byte, as under QEMU and kvmtool.
//!
//! Any file can be a flat binary, unless it certainly has another format: then an error says so, instead of a guest that prints
//! nothing.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::ops::Range;

use super::{Placement, Problem, Segment, kernel_base, pe_machine};
use crate::format::{Archive, Compression, Format};

/// Where a flat binary of `length` bytes goes that begins with `head`. It may use memory beyond its end; how much, no file
/// tells, so nothing else is placed near it.
pub(super) fn place(head: &[u8], length: u64, ram: &Range<u64>) -> Result<Placement, Problem> {
    if let Some(what) = mistake(head) {
        return Err(Problem::NoProgram(what));
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

/// What to do with a file of this format, which can be no program.
fn advice(format: Format) -> String {
    match format {
        // Both are unpacked, so this can only be inside of another compressed file.
        Format::Compressed(Compression::Gzip | Compression::Zstd) => TWICE.into(),
        Format::Compressed(other) => {
            format!("it is compressed by {}; unpack it first", other.name())
        }
        Format::Archive(Archive::Cpio) => "it is a cpio archive; give it with --initrd".into(),
        Format::Archive(Archive::Tar) => "it is a tar archive; unpack it first".into(),
        Format::Archive(Archive::Zip) => "it is a zip archive; unpack it first".into(),
        Format::Archive(Archive::SevenZip) => "it is a 7z archive; unpack it first".into(),
        Format::Archive(Archive::Ar) => {
            "it is an archive, such as a Debian package or a library; name the kernel inside".into()
        }
        Format::DiskImage(image) => format!(
            "it is a disk image in {} format; make it raw (qemu-img convert -O raw) and give it with --disk",
            image.name()
        ),
        Format::FileSystem(_) | Format::Luks | Format::Partitions => {
            "it is a file system or a disk image; give it with --disk".into()
        }
        Format::DeviceTree => {
            "it is a device tree, which --dtb takes, or a FIT image, which U-Boot boots from a disk"
                .into()
        }
        Format::UImage => "it is wrapped for U-Boot (uImage); name the Image inside".into(),
    }
}

const TWICE: &str = "it is compressed more than once; unpack it first";

/// What a file is that begins with `head` and can be no program, with what to do about it.
fn mistake(head: &[u8]) -> Option<String> {
    if head.starts_with(b"MZ\0\0zimg") {
        return Some(TWICE.into());
    }
    if let Some(format) = Format::of(head) {
        return Some(advice(format));
    }
    if pe_machine(head).is_some() {
        return Some(
            "it is an EFI program and no Linux kernel; a firmware such as U-Boot starts it from a disk (--firmware, --disk)".into(),
        );
    }
    // UEFI Platform Initialization Specification, volume 3, "Firmware Volume Header".
    if head.get(0x28..0x2c) == Some(b"_FVH") {
        return Some(
            "it is a UEFI firmware for a board with flash memory (EDK2), which a guest has not; take U-Boot for supervisor mode".into(),
        );
    }
    if is_text(head) {
        return Some("it is a text file; name a kernel for 64-bit RISC-V".into());
    }
    // Instructions of 16 zero bits, or of ones, are illegal by definition (unprivileged specification, "Base
    // Instruction-Length Encoding").
    match head {
        [0, 0, ..] => Some("it begins with zeros, which no program does".into()),
        [0xff, 0xff, 0xff, 0xff, ..] => Some("it begins with ones, which no program does".into()),
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
