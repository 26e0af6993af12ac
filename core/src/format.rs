//! File formats, recognized by a file's first bytes. So a file that was named by mistake is refused before a guest fails on it
//! or writes to it.
//!
//! Only formats are here whose first bytes are unlikely in any other file. No format is guessed from a file's name.

use crate::little_endian::u32_at;

/// How many bytes of a file [`Format::of`] looks at, at most.
pub const HEAD: usize = 4096;

/// A format that is known by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One compressed stream.
    Compressed(Compression),
    /// Several files in one.
    Archive(Archive),
    /// A disk in a container, with a header and tables of its own.
    DiskImage(DiskImage),
    /// A file system, on the bare medium.
    FileSystem(FileSystem),
    /// An encrypted disk (LUKS).
    Luks,
    /// A disk with partitions.
    Partitions,
    /// A flattened device tree, or a FIT image, which is one.
    DeviceTree,
    /// A file that is wrapped for U-Boot.
    UImage,
}

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The .xz file format.
    Xz,
    /// bzip2.
    Bzip2,
    /// LZ4 frames, also those of its legacy format.
    Lz4,
    /// lzop, that is, LZO.
    Lzop,
}

/// An archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// cpio "newc", with or without checksums.
    Cpio,
    /// tar, POSIX or GNU.
    Tar,
    /// zip.
    Zip,
    /// 7z.
    SevenZip,
    /// Unix ar: Debian packages and libraries.
    Ar,
}

/// A container for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskImage {
    /// QEMU's first copy-on-write format.
    Qcow,
    /// qcow2, of version 2 or 3.
    Qcow2,
    /// QEMU's enhanced disk.
    Qed,
    /// VMware.
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// Virtual PC and Hyper-V, dynamic: a fixed one has its header at the end, and else is a raw disk.
    Vhd,
    /// Hyper-V.
    Vhdx,
    /// Parallels.
    Parallels,
}

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// SquashFS.
    Squashfs,
}

/// What begins with these bytes.
const MAGICS: [(&[u8], Format); 31] = {
    use Archive::{Ar, Cpio, SevenZip, Zip};
    use Compression::{Gzip, Lz4, Lzop, Xz, Zstd};
    use DiskImage::{Parallels, Qcow, Qcow2, Qed, Vhd, Vhdx, Vmdk};
    use FileSystem::{Squashfs, Xfs};
    use Format as F;
    [
        // Their only compression method is 8 (RFC 1952, section 2.3.1).
        (b"\x1f\x8b\x08", F::Compressed(Gzip)),
        // RFC 8878, section 3.1.1; the frames to be skipped are below.
        (b"\x28\xb5\x2f\xfd", F::Compressed(Zstd)),
        (b"\xfd7zXZ\0", F::Compressed(Xz)),
        (b"\x02\x21\x4c\x18", F::Compressed(Lz4)),
        (b"\x04\x22\x4d\x18", F::Compressed(Lz4)),
        (b"\x89LZO\0\r\n\x1a\n", F::Compressed(Lzop)),
        (b"070701", F::Archive(Cpio)),
        (b"070702", F::Archive(Cpio)),
        (b"PK\x03\x04", F::Archive(Zip)),
        (b"7z\xbc\xaf\x27\x1c", F::Archive(SevenZip)),
        (b"!<arch>\n", F::Archive(Ar)),
        // A version follows, big-endian (QEMU, docs/interop/qcow2.rst).
        (b"QFI\xfb\0\0\0\x01", F::DiskImage(Qcow)),
        (b"QFI\xfb\0\0\0\x02", F::DiskImage(Qcow2)),
        (b"QFI\xfb\0\0\0\x03", F::DiskImage(Qcow2)),
        (b"QED\0", F::DiskImage(Qed)),
        // Sparse and stream-optimized; ESX; and the descriptor of one in several files.
        (b"KDMV\x01\0\0\0", F::DiskImage(Vmdk)),
        (b"KDMV\x02\0\0\0", F::DiskImage(Vmdk)),
        (b"KDMV\x03\0\0\0", F::DiskImage(Vmdk)),
        (b"COWD\x01\0\0\0", F::DiskImage(Vmdk)),
        (b"# Disk DescriptorFile", F::DiskImage(Vmdk)),
        (b"conectix", F::DiskImage(Vhd)),
        (b"vhdxfile", F::DiskImage(Vhdx)),
        (b"WithoutFreeSpace", F::DiskImage(Parallels)),
        (b"WithouFreSpacExt", F::DiskImage(Parallels)),
        (b"hsqs", F::FileSystem(Squashfs)),
        (b"XFSB", F::FileSystem(Xfs)),
        (b"LUKS\xba\xbe\0\x01", F::Luks),
        (b"LUKS\xba\xbe\0\x02", F::Luks),
        (b"SKUL\xba\xbe\0\x02", F::Luks),
        (b"\xd0\x0d\xfe\xed", F::DeviceTree),
        (b"\x27\x05\x19\x56", F::UImage),
    ]
};

impl Format {
    /// The format of the file that begins with `head`, of which no more than [`HEAD`] bytes matter. `None` if it may be
    /// anything.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Format> {
        if let Some((_, format)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Some(*format);
        }
        match head {
            // RFC 8878, section 3.1.2: a frame to be skipped.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Compressed(Compression::Zstd)),
            [b'B', b'Z', b'h', b'1'..=b'9', block @ ..] if is_bzip2_block(block) => {
                Some(Self::Compressed(Compression::Bzip2))
            }
            // What is in front of the signature is a text that differs (VirtualBox, VDICore.h).
            _ if head.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]) => {
                Some(Self::DiskImage(DiskImage::Vdi))
            }
            _ if is_ext(head) => Some(Self::FileSystem(FileSystem::Ext)),
            _ if is_partitioned(head) => Some(Self::Partitions),
            _ if head.get(257..262) == Some(b"ustar") => Some(Self::Archive(Archive::Tar)),
            _ => None,
        }
    }
}

impl Compression {
    /// What users call it, which is also the program that undoes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
            Self::Lzop => "lzop",
        }
    }
}

impl DiskImage {
    /// What users and qemu-img call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow => "qcow",
            Self::Qcow2 => "qcow2",
            Self::Qed => "qed",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Parallels => "parallels",
        }
    }
}

impl FileSystem {
    /// What users call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext => "ext2, ext3 or ext4",
            Self::Xfs => "XFS",
            Self::Squashfs => "SquashFS",
        }
    }
}

/// The first block of a bzip2 stream, or the end of one that holds nothing.
fn is_bzip2_block(block: &[u8]) -> bool {
    block.starts_with(b"1AY&SY") || block.starts_with(b"\x17\x72\x45\x38\x50\x90")
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

#[cfg(test)]
mod tests;
