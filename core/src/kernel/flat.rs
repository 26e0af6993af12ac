//! Flat binaries: the bytes of a program and nothing else. They are loaded whole to 2 MiB into RAM and entered at
//! their first byte, as under QEMU and kvmtool.
//!
//! Anything can be a flat binary, except what surely is something else: a file that was named by mistake gets a line that
//! says so, rather than a guest that prints nothing.

use alloc::vec;
use core::ops::Range;

use super::{Placement, Problem, Segment, kernel_base, pe_machine, u32_at};

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

/// Files that begin with these bytes, and what to do with them.
const MAGICS: [(&[u8], &str); 18] = [
    // The first four can only be inside of another compressed file.
    (b"\x1f\x8b", TWICE),
    (b"\x28\xb5\x2f\xfd", TWICE),
    (b"MZ\0\0zimg", TWICE),
    (b"\xfd7zXZ\0", "it is compressed by xz; unpack it first"),
    (b"BZh9", "it is compressed by bzip2; unpack it first"),
    (b"\x02\x21\x4c\x18", LZ4),
    (b"\x04\x22\x4d\x18", LZ4),
    (b"PK\x03\x04", "it is a zip archive; unpack it first"),
    (b"070701", CPIO),
    (b"070702", CPIO),
    (
        b"\xd0\x0d\xfe\xed",
        "it is a device tree, which --dtb takes, or a FIT image, which U-Boot boots from a disk",
    ),
    (
        b"\x27\x05\x19\x56",
        "it is wrapped for U-Boot (uImage); name the Image inside",
    ),
    (
        b"!<arch>\n",
        "it is an archive, such as a Debian package or a library; name the kernel inside",
    ),
    (
        b"QFI\xfb",
        "it is a disk image in qcow2; make it raw (qemu-img convert -O raw) and give it with --disk",
    ),
    (
        b"KDMV",
        "it is a disk image in VMDK; make it raw (qemu-img convert -O raw) and give it with --disk",
    ),
    (b"hsqs", DISK),
    (b"XFSB", DISK),
    (b"LUKS\xba\xbe", DISK),
];

const TWICE: &str = "it is compressed more than once; unpack it first";
const LZ4: &str = "it is compressed by LZ4; unpack it first";
const CPIO: &str = "it is a cpio archive; give it with --initrd";
const DISK: &str = "it is a file system or a disk image; give it with --disk";

/// What a file is that begins with `head` and can be no program, with what to do about it.
fn mistake(head: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(what);
    }
    if pe_machine(head).is_some() {
        return Some(
            "it is an EFI program and no Linux kernel; a firmware such as U-Boot starts it from a disk (--firmware, --disk)",
        );
    }
    // UEFI Platform Initialization Specification, volume 3, "Firmware Volume Header".
    if head.get(0x28..0x2c) == Some(b"_FVH") {
        return Some(
            "it is a UEFI firmware for a board with flash memory (EDK2), which a guest has not; take U-Boot for supervisor mode",
        );
    }
    if is_ext(head) || is_partitioned(head) {
        return Some(DISK);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("it is a tar archive; unpack it first");
    }
    if is_text(head) {
        return Some("it is a text file; name a kernel for 64-bit RISC-V");
    }
    // Instructions of 16 zero bits, or of ones, are illegal by definition (unprivileged specification, "Base
    // Instruction-Length Encoding").
    match head {
        [0, 0, ..] => Some("it begins with zeros, which no program does"),
        [0xff, 0xff, 0xff, 0xff, ..] => Some("it begins with ones, which no program does"),
        _ => None,
    }
}

/// ext2, ext3 or ext4 (Linux, Documentation/filesystems/ext4/super.rst): `s_magic`, and what keeps other bytes from looking
/// like it, `s_state` and `s_errors`.
fn is_ext(head: &[u8]) -> bool {
    let Some(superblock) = head.get(0x400..) else {
        return false;
    };
    matches!(
        superblock.get(0x38..0x3e),
        Some(&[0x53, 0xef, 0..=7, 0, 1..=3, 0])
    )
}

/// A disk with partitions: a boot sector's signature, and four entries that are bootable or not, of which one is in use
/// (UEFI specification, section 5.2.1).
fn is_partitioned(head: &[u8]) -> bool {
    if head.get(510..512) != Some(&[0x55, 0xaa]) {
        return false;
    }
    let Some(table) = head.get(446..510) else {
        return false;
    };
    let valid = |entry: &[u8]| matches!(entry.first(), Some(0 | 0x80));
    let used =
        |entry: &[u8]| entry.get(4).is_some_and(|kind| *kind != 0) && u32_at(entry, 12) > Some(0);
    table.chunks(16).all(valid) && table.chunks(16).any(used)
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
