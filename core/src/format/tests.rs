use alloc::vec;
use alloc::vec::Vec;

use super::*;

/// 4 KiB that are nothing, with `magic` at `offset`.
fn file(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x13; HEAD];
    bytes[offset..offset + magic.len()].copy_from_slice(magic);
    bytes
}

#[test]
fn formats_are_recognized_by_their_first_bytes() {
    use Format as F;
    for (head, format) in [
        (&b"\x1f\x8b\x08\0"[..], F::Compressed(Compression::Gzip)),
        (b"\x28\xb5\x2f\xfd", F::Compressed(Compression::Zstd)),
        (b"\x5a\x2a\x4d\x18", F::Compressed(Compression::Zstd)),
        (b"\xfd7zXZ\0", F::Compressed(Compression::Xz)),
        (b"BZh91AY&SY", F::Compressed(Compression::Bzip2)),
        (b"BZh1\x17rE8P\x90", F::Compressed(Compression::Bzip2)),
        (b"\x04\x22\x4d\x18", F::Compressed(Compression::Lz4)),
        (b"\x02\x21\x4c\x18", F::Compressed(Compression::Lz4)),
        (b"\x89LZO\0\r\n\x1a\n", F::Compressed(Compression::Lzop)),
        (b"07070100", F::Archive(Archive::Cpio)),
        (b"07070200", F::Archive(Archive::Cpio)),
        (b"PK\x03\x04", F::Archive(Archive::Zip)),
        (b"7z\xbc\xaf\x27\x1c", F::Archive(Archive::SevenZip)),
        (b"!<arch>\ndebian-binary", F::Archive(Archive::Ar)),
        (b"QFI\xfb\0\0\0\x01", F::DiskImage(DiskImage::Qcow)),
        (b"QFI\xfb\0\0\0\x02", F::DiskImage(DiskImage::Qcow2)),
        (b"QFI\xfb\0\0\0\x03", F::DiskImage(DiskImage::Qcow2)),
        (b"QED\0", F::DiskImage(DiskImage::Qed)),
        (b"KDMV\x01\0\0\0", F::DiskImage(DiskImage::Vmdk)),
        (b"KDMV\x03\0\0\0", F::DiskImage(DiskImage::Vmdk)),
        (b"COWD\x01\0\0\0", F::DiskImage(DiskImage::Vmdk)),
        (b"# Disk DescriptorFile\n", F::DiskImage(DiskImage::Vmdk)),
        (b"conectix\0\0\0\x02", F::DiskImage(DiskImage::Vhd)),
        (b"vhdxfile", F::DiskImage(DiskImage::Vhdx)),
        (b"WithoutFreeSpace", F::DiskImage(DiskImage::Parallels)),
        (b"WithouFreSpacExt", F::DiskImage(DiskImage::Parallels)),
        (b"hsqs", F::FileSystem(FileSystem::Squashfs)),
        (b"XFSB", F::FileSystem(FileSystem::Xfs)),
        (b"LUKS\xba\xbe\0\x02", F::Luks),
        (b"\xd0\x0d\xfe\xed", F::DeviceTree),
        (b"\x27\x05\x19\x56", F::UImage),
    ] {
        assert_eq!(Format::of(head), Some(format), "{head:x?} alone");
        assert_eq!(Format::of(&file(0, head)), Some(format), "{head:x?}");
        assert_eq!(Format::of(&file(1, head)), None, "{head:x?} elsewhere");
        // One byte less, or another one, may be anything.
        let last = head.len().min(4) - 1;
        let mut other = head.to_vec();
        other[last.min(2)] ^= 0x20;
        assert_eq!(Format::of(&file(0, &other)), None, "{other:x?}");
    }
}

#[test]
fn formats_are_recognized_by_bytes_further_inside() {
    let vdi = file(0x40, b"\x7f\x10\xda\xbe");
    assert_eq!(
        Format::of(&vdi),
        Some(Format::DiskImage(DiskImage::Vdi)),
        "whatever its text says"
    );
    assert_eq!(
        Format::of(&file(257, b"ustar\x0000")),
        Some(Format::Archive(Archive::Tar))
    );
    let ext = file(0x438, &[0x53, 0xef, 1, 0, 1, 0]);
    assert_eq!(Format::of(&ext), Some(Format::FileSystem(FileSystem::Ext)));
    for length in [0x44, 0x110, 0x43e] {
        assert_eq!(Format::of(&file(2, b"")[..length]), None, "{length}");
    }
    assert_eq!(Format::of(&ext[..0x43d]), None, "cut off");
}

#[test]
fn short_files_and_programs_may_be_anything() {
    for head in [
        &b""[..],
        b"\x1f",
        b"\x1f\x8b",
        b"\x28\xb5\x2f",
        b"QFI\xfb",
        b"QFI\xfb\0\0\0\x04",
        b"BZh9",
        b"BZh01AY&SY",
        b"KDMV\0\0\0\0",
        b"\x7fELF",
        b"MZ",
    ] {
        assert_eq!(Format::of(head), None, "{head:x?}");
    }
}

/// A partition table: for each entry, whether it is bootable, what it holds, and its sectors.
fn partitions(entries: [(u8, u8, u32); 4]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    for (entry, (boot, kind, sectors)) in bytes[446..510].chunks_mut(16).zip(entries) {
        entry[0] = boot;
        entry[4] = kind;
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
    }
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[test]
fn a_partition_table_has_valid_entries_and_one_in_use() {
    let (none, linux) = ((0, 0, 0), (0x80, 0x83, 8));
    for (entries, expected) in [
        ([linux, none, none, none], true),
        ([none, none, none, linux], true),
        ([(0, 0xee, u32::MAX), none, none, none], true),
        ([none; 4], false),
        ([(0x80, 0, 8), none, none, none], false),
        ([(0x80, 0x83, 0), none, none, none], false),
        // One entry that is none is enough to be something else.
        ([linux, none, none, (0x13, 0, 0)], false),
        ([linux, (1, 0x83, 8), linux, linux], false),
    ] {
        let found = Format::of(&partitions(entries)) == Some(Format::Partitions);
        assert_eq!(found, expected, "{entries:x?}");
    }
    let mut unsigned = partitions([linux; 4]);
    unsigned[510] = 0;
    assert_eq!(Format::of(&unsigned), None);
}

/// A file's name for its format appears in advice, and is what qemu-img and the programs that unpack are called.
#[test]
fn names_are_those_of_the_tools() {
    for (compression, name) in [
        (Compression::Gzip, "gzip"),
        (Compression::Zstd, "zstd"),
        (Compression::Xz, "xz"),
        (Compression::Bzip2, "bzip2"),
        (Compression::Lz4, "lz4"),
        (Compression::Lzop, "lzop"),
    ] {
        assert_eq!(compression.name(), name);
    }
    for (image, name) in [
        (DiskImage::Qcow, "qcow"),
        (DiskImage::Qcow2, "qcow2"),
        (DiskImage::Qed, "qed"),
        (DiskImage::Vmdk, "vmdk"),
        (DiskImage::Vdi, "vdi"),
        (DiskImage::Vhd, "vhd"),
        (DiskImage::Vhdx, "vhdx"),
        (DiskImage::Parallels, "parallels"),
    ] {
        assert_eq!(image.name(), name);
    }
    for (system, name) in [
        (FileSystem::Ext, "ext2, ext3 or ext4"),
        (FileSystem::Xfs, "XFS"),
        (FileSystem::Squashfs, "SquashFS"),
    ] {
        assert_eq!(system.name(), name);
    }
}
