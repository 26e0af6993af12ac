//! Files of every kind that a user may name, right and wrong ones.

#![allow(clippy::cast_possible_truncation)] // sizes of files made here

use std::io::Write;

use hv_core::kernel::Problem::{Empty, Malformed, NoProgram, TooLarge, Truncated};

use super::*;
use crate::boot::compression::tests::{gzip, zstd};

const RAM: Range<u64> = 0x8000_0000..0x8000_0000 + (64 << 20);

fn put(bytes: &mut Vec<u8>, offset: usize, value: &[u8]) {
    if bytes.len() < offset + value.len() {
        bytes.resize(offset + value.len(), 0);
    }
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// A RISC-V Image of `length` bytes.
fn image(text_offset: u64, image_size: u64, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    put(&mut bytes, 0, &[0; 64]);
    put(&mut bytes, 8, &text_offset.to_le_bytes());
    put(&mut bytes, 16, &image_size.to_le_bytes());
    put(&mut bytes, 32, &2_u32.to_le_bytes());
    put(&mut bytes, 48, b"RISCV\0\0\0RSC\x05");
    bytes
}

/// An ELF executable with one segment of 8 bytes, 32 in memory, at the end of the file.
fn elf(machine: u16, class: u8, vaddr: u64, paddr: u64, entry: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, b"\x7fELF");
    put(&mut bytes, 4, &[class, 1, 1]);
    put(&mut bytes, 16, &2_u16.to_le_bytes());
    put(&mut bytes, 18, &machine.to_le_bytes());
    put(&mut bytes, 20, &1_u32.to_le_bytes());
    put(&mut bytes, 24, &entry.to_le_bytes());
    put(&mut bytes, 32, &64_u64.to_le_bytes());
    put(&mut bytes, 52, &64_u16.to_le_bytes());
    put(&mut bytes, 54, &56_u16.to_le_bytes());
    put(&mut bytes, 56, &1_u16.to_le_bytes());
    for (offset, value) in [
        (0, 1 | 5 << 32),
        (8, 120),
        (16, vaddr),
        (24, paddr),
        (32, 8),
        (40, 32),
        (48, 8_u64),
    ] {
        put(&mut bytes, 64 + offset, &value.to_le_bytes());
    }
    put(&mut bytes, 120, b"segment!");
    bytes
}

fn zboot(name: &[u8], payload: &[u8], machine: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, b"MZ\0\0zimg");
    put(&mut bytes, 8, &512_u32.to_le_bytes());
    put(&mut bytes, 12, &(payload.len() as u32).to_le_bytes());
    put(&mut bytes, 24, name);
    put(&mut bytes, 0x3c, &64_u32.to_le_bytes());
    put(&mut bytes, 64, b"PE\0\0");
    put(&mut bytes, 68, &machine.to_le_bytes());
    put(&mut bytes, 512, payload);
    put(&mut bytes, 512 + payload.len(), b"the PE file goes on");
    bytes
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn open(bytes: &[u8]) -> Result<Kernel, Problem> {
    Kernel::open_file(file(bytes).path(), &RAM, &OpenFiles::default())
}

fn loaded(bytes: &[u8], address: u64, length: usize) -> Vec<u8> {
    let file = file(bytes);
    let payload = Payload::Kernel(file.path().to_owned());
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM.start), (RAM.end - RAM.start) as usize)])
            .unwrap();
    Kernel::open(&payload, &RAM, &OpenFiles::default())
        .unwrap()
        .load(&payload, &memory)
        .unwrap();
    let mut found = vec![0; length];
    memory
        .read_slice(&mut found, GuestAddress(address))
        .unwrap();
    found
}

#[test]
fn an_image_goes_to_its_text_offset_and_occupies_its_image_size() {
    let bytes = image(0x20_0000, 0x18_0000, 0x1_0000);
    let kernel = open(&bytes).unwrap();
    assert_eq!(kernel.entry, 0x8020_0000);
    assert_eq!(
        kernel.occupied,
        0x8020_0000..0x8038_0000,
        "the .bss behind the file is the kernel's too"
    );
    assert_eq!(loaded(&bytes, 0x8020_0000, bytes.len()), bytes);
}

#[test]
fn an_image_that_does_not_tell_its_size_occupies_its_file() {
    let kernel = open(&image(0x20_0000, 0, 0x1_0000)).unwrap();
    assert_eq!(kernel.occupied, 0x8020_0000..0x8021_0000);
}

#[test]
fn compressed_images_are_unpacked() {
    let bytes = image(0x20_0000, 0x18_0000, 0x1_0000);
    for packed in [
        gzip(&bytes),
        zstd(&bytes),
        zboot(b"gzip\0", &gzip(&bytes), 0x5064),
        zboot(b"zstd\0", &zstd(&bytes), 0x5064),
    ] {
        let kernel = open(&packed).unwrap();
        assert_eq!(kernel.occupied, 0x8020_0000..0x8038_0000);
        assert_eq!(loaded(&packed, 0x8020_0000, bytes.len()), bytes);
    }
}

/// For who passes a kernel on instead of loading it.
#[test]
fn only_what_was_compressed_is_unpacked() {
    let bytes = image(0x20_0000, 0x18_0000, 0x1_0000);
    assert!(open(&bytes).unwrap().unpacked().is_none());
    for packed in [gzip(&bytes), zboot(b"zstd\0", &zstd(&bytes), 0x5064)] {
        assert!(open(&packed).unwrap().unpacked().unwrap() == bytes);
    }
}

#[test]
fn an_elf_file_goes_to_its_physical_addresses() {
    let bytes = elf(
        243,
        2,
        0xffff_ffff_8000_0000,
        0x8040_0000,
        0xffff_ffff_8000_0004,
    );
    let kernel = open(&bytes).unwrap();
    assert_eq!(kernel.entry, 0x8040_0004, "harts begin without translation");
    assert_eq!(kernel.occupied, 0x8040_0000..0x8040_0020);
    assert_eq!(loaded(&bytes, 0x8040_0000, 8), b"segment!");
    for packed in [gzip(&bytes), zstd(&bytes)] {
        assert_eq!(loaded(&packed, 0x8040_0000, 8), b"segment!");
    }
}

#[test]
fn an_elf_file_may_have_a_physical_entry_point() {
    let high = 0xffff_ffff_8000_0000;
    let kernel = open(&elf(243, 2, high, 0x8040_0000, 0x8040_0004)).unwrap();
    assert_eq!(kernel.entry, 0x8040_0004);
    // An entry point that is both is virtual, in a segment with code.
    let mut bytes = elf(243, 2, 0x8040_0000, 0x8050_0000, 0x8040_0004);
    assert_eq!(open(&bytes).unwrap().entry, 0x8050_0004);
    // Read-only data at the same virtual addresses in a segment before it.
    let code = bytes[64..120].to_vec();
    put(&mut bytes, 64 + 4, &4_u32.to_le_bytes());
    put(&mut bytes, 64 + 24, &0x8060_0000_u64.to_le_bytes());
    put(&mut bytes, 56, &2_u16.to_le_bytes());
    put(&mut bytes, 120, &code);
    assert_eq!(open(&bytes).unwrap().entry, 0x8050_0004);
    assert!(matches!(
        open(&elf(243, 2, high, 0x8040_0000, 0x8020_0000)),
        Err(Problem::File(Malformed(_)))
    ));
}

/// `addi a1, a1, 1; addi a1, a1, 1` and so on.
fn flat(length: usize) -> Vec<u8> {
    let mut bytes = 0x0015_8593_u32.to_le_bytes().repeat(length.div_ceil(4));
    bytes.truncate(length);
    bytes
}

#[test]
fn a_flat_binary_goes_to_where_programs_are_linked() {
    for length in [2, 4, 63, 5000, 100_001] {
        let bytes = flat(length);
        let kernel = open(&bytes).unwrap();
        assert_eq!(kernel.entry, 0x8020_0000);
        assert_eq!(kernel.occupied, 0x8020_0000..0x8020_0000 + length as u64);
        for packed in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
            assert!(loaded(&packed, 0x8020_0000, length) == bytes);
        }
    }
}

#[test]
fn what_is_surely_no_program_is_refused() {
    let at = |offset: usize, magic: &[u8]| {
        let mut bytes = flat(5000);
        put(&mut bytes, offset, magic);
        bytes
    };
    let mut partitioned = at(446, &[0; 66]);
    put(&mut partitioned, 446, &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8]);
    put(&mut partitioned, 446 + 12, &[0, 8]);
    put(&mut partitioned, 510, &[0x55, 0xaa]);
    let mut ext = at(0x400 + 0x38, &[0x53, 0xef, 1, 0, 1, 0]);
    let mut efi = at(0, b"MZ");
    put(&mut efi, 0x3c, &64_u32.to_le_bytes());
    put(&mut efi, 64, b"PE\0\0\x64\x50");
    let image = image(0x20_0000, 0x1000, 5000);
    for (bytes, expected) in [
        (b"#!/bin/sh\n".to_vec(), "text"),
        ("ä".repeat(5000).into_bytes(), "text"),
        (at(0, b"QFI\xfb\0\0\0\x03"), "qcow2"),
        (ext.clone(), "a disk image"),
        (partitioned, "a disk image"),
        (at(0, b"hsqs"), "a file system"),
        (at(0, b"07070100"), "cpio"),
        (at(0, b"\xfd7zXZ\0"), "xz"),
        (at(0, b"\xd0\x0d\xfe\xed"), "device tree"),
        (at(257, b"ustar\0"), "tar"),
        (efi, "EFI"),
        (vec![0; 5000], "zeros"),
        (vec![0xff; 5000], "ones"),
        (gzip(&gzip(&image)), "more than once"),
        (zstd(&gzip(&image)), "more than once"),
        (
            gzip(&zboot(b"gzip\0", &gzip(&image), 0x5064)),
            "more than once",
        ),
        (gzip(b"a text"), "text"),
    ] {
        let problem = open(&bytes).unwrap_err();
        assert!(
            matches!(problem, Problem::File(NoProgram(what)) if what.to_string().contains(expected)),
            "{expected}: {problem}"
        );
    }
    // One byte of the magic number more or less is a program.
    ext[0x400 + 0x38] = 0x54;
    assert!(open(&ext).is_ok());
}

#[test]
fn an_elf_file_linked_to_zero_goes_where_the_image_would() {
    let kernel = open(&elf(
        243,
        2,
        0xffff_ffff_8000_0000,
        0,
        0xffff_ffff_8000_0000,
    ))
    .unwrap();
    assert_eq!(kernel.entry, 0x8020_0000);
}

#[test]
fn the_wrong_architecture_is_named() {
    let arm = {
        let mut bytes = image(0, 0, 4096);
        put(&mut bytes, 48, &[0; 12]);
        put(&mut bytes, 56, b"ARM\x64");
        bytes
    };
    let x86 = {
        let mut bytes = vec![0; 4096];
        put(&mut bytes, 0, b"MZ");
        put(&mut bytes, 0x202, b"HdrS");
        bytes
    };
    let mut zimage = flat(5000);
    put(&mut zimage, 0x24, &0x016f_2818_u32.to_le_bytes());
    for (bytes, name) in [
        (arm, "64-bit Arm"),
        (zimage, "32-bit Arm"),
        (x86, "x86"),
        (elf(62, 2, 0, 0x8000_0000, 0x8000_0000), "x86"),
        (elf(183, 2, 0, 0x8000_0000, 0x8000_0000), "64-bit Arm"),
        (elf(243, 1, 0, 0x8000_0000, 0x8000_0000), "32-bit RISC-V"),
        (zboot(b"gzip\0", &gzip(b"arm"), 0xaa64), "64-bit Arm"),
    ] {
        let problem = open(&bytes).unwrap_err().to_string();
        assert!(problem.contains(&format!("it is for {name};")), "{problem}");
    }
}

#[test]
fn files_that_are_no_kernel_are_refused() {
    assert!(matches!(open(b""), Err(Problem::File(Empty))));
    assert!(matches!(
        Kernel::open_file(Path::new("/"), &RAM, &OpenFiles::default()),
        Err(Problem::Open(_))
    ));
    assert!(matches!(
        Kernel::open_file(Path::new("/no/such/file"), &RAM, &OpenFiles::default()),
        Err(Problem::Open(_))
    ));
    let problem = open(&zboot(b"xz\0", b"", 0x5064)).unwrap_err().to_string();
    assert!(problem.contains("compressed by xz"), "{problem}");
}

#[test]
fn truncated_files_are_refused() {
    let bytes = image(0x20_0000, 0x18_0000, 0x1_0000);
    for packed in [gzip(&bytes), zstd(&bytes)] {
        assert!(matches!(
            open(&packed[..packed.len() / 2]),
            Err(Problem::File(Malformed(_)))
        ));
    }
    let packed = zboot(b"zstd\0", &zstd(&bytes), 0x5064);
    assert!(matches!(
        open(&packed[..packed.len() / 2]),
        Err(Problem::File(Truncated { .. }))
    ));
    let executable = elf(243, 2, 0x8020_0000, 0x8020_0000, 0x8020_0000);
    for length in [10, 30, 64, 100, 121] {
        assert!(
            matches!(
                open(&executable[..length]),
                Err(Problem::File(Truncated { .. }))
            ),
            "{length}"
        );
    }
}

#[test]
fn a_truncated_image_shows_by_its_pe_header() {
    let mut bytes = image(0x20_0000, 0x18_0000, 0x1_0000);
    put(&mut bytes, 0, b"MZ");
    put(&mut bytes, 0x3c, &64_u32.to_le_bytes());
    put(&mut bytes, 64, b"PE\0\0\x64\x50\x02\0");
    put(&mut bytes, 64 + 20, &160_u16.to_le_bytes());
    for (section, size, offset) in [(0, 0x7000_u32, 0x1000_u32), (1, 0x8000, 0x8000)] {
        put(
            &mut bytes,
            64 + 24 + 160 + 40 * section + 16,
            &size.to_le_bytes(),
        );
        put(
            &mut bytes,
            64 + 24 + 160 + 40 * section + 20,
            &offset.to_le_bytes(),
        );
    }
    assert!(open(&bytes).is_ok());
    let cut = open(&bytes[..0xffff]).unwrap_err();
    assert!(
        matches!(
            cut,
            Problem::File(Truncated {
                promised: 0x1_0000,
                present: 0xffff
            })
        ),
        "{cut}"
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    for bytes in [
        image(0x20_0000, 65 << 20, 4096),
        image(0x20_0000, u64::MAX, 4096),
        image(u64::MAX, 0, 4096),
        elf(243, 2, 0, RAM.end - 8, RAM.end - 8),
        gzip(&image(0x20_0000, 63 << 20, 4096)),
        flat((62 << 20) + 1),
        zstd(&vec![1; 65 << 20]),
    ] {
        assert!(
            matches!(open(&bytes), Err(Problem::File(TooLarge { .. }))),
            "{:?}",
            open(&bytes)
        );
    }
    for address in [0x1000, u64::MAX - 8, 0xffff_ffff_8000_0000] {
        assert!(matches!(
            open(&elf(243, 2, 0, address, 0)),
            Err(Problem::File(Malformed(_)))
        ));
    }
}

#[test]
fn a_payload_ends_in_its_file() {
    let payload = gzip(&image(0x20_0000, 0x1000, 600));
    let mut bytes = zboot(b"gzip\0", &payload, 0x5064);
    bytes.truncate(512 + payload.len());
    assert!(open(&bytes).is_ok());
    let promised = payload.len() as u32 + 1;
    put(&mut bytes, 12, &promised.to_le_bytes());
    let (end, there) = (512 + u64::from(promised), bytes.len() as u64);
    let problem = open(&bytes).unwrap_err();
    assert!(
        matches!(problem, Problem::File(Truncated { promised, present }) if promised == end && present == there),
        "{problem}"
    );
}

/// Whatever is in a file, no more is unpacked than the guest's memory could hold.
#[test]
fn no_more_is_unpacked_than_memory_holds() {
    let packed = file(&gzip(&vec![1; 4 << 20]));
    let ram = RAM.start..RAM.start + (1 << 20);
    let whole = compressed::Compression::Whole(crate::boot::compression::Codec::Gzip);
    let problem = compressed::unpack(whole, packed.reopen().unwrap(), &ram).unwrap_err();
    assert!(
        matches!(
            problem,
            Problem::File(TooLarge {
                needed: 2,
                available: 1
            })
        ),
        "{problem}"
    );
}

proptest::proptest! {
    /// Whatever a file holds, opening it ends with a kernel inside RAM or with an error.
    #[test]
    fn damaged_files_do_no_harm(kind in 0..6_usize, at in 0..256_usize, value: [u8; 8], length in 0..600_usize) {
        let mut bytes = match kind {
            0 => image(0x20_0000, 0x1000, 600),
            1 => elf(243, 2, 0x8020_0000, 0x8020_0000, 0x8020_0000),
            2 => zboot(b"gzip\0", &gzip(&image(0x20_0000, 0x1000, 600)), 0x5064),
            3 => gzip(&image(0x20_0000, 0x1000, 600)),
            4 => zstd(&image(0x20_0000, 0x1000, 600)),
            _ => flat(600),
        };
        put(&mut bytes, at, &value);
        bytes.truncate(length.max(1));
        if let Ok(kernel) = open(&bytes) {
            proptest::prop_assert!(kernel.occupied.start >= RAM.start && kernel.occupied.end <= RAM.end);
            let inside = kernel.segments.iter().all(|segment| {
                segment.address >= RAM.start && segment.address + segment.length <= RAM.end
            });
            proptest::prop_assert!(inside);
        }
    }
}
