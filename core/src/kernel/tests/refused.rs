//! Files that are no kernel, or no whole one: what each is told.

use alloc::string::String;
use alloc::vec;

use super::*;

fn told(bytes: &[u8]) -> String {
    open(bytes, &RAM).unwrap_err().to_string()
}

fn architecture(bytes: &[u8]) -> Option<String> {
    match open(bytes, &RAM) {
        Err(Problem::WrongArchitecture(name)) => Some(name),
        _ => None,
    }
}

/// A flat binary with `magic` at `offset`.
fn with(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = flat(5000);
    put(&mut bytes, offset, magic);
    bytes
}

/// A PE file whose header is at `header`, for `machine`.
fn pe(header: usize, machine: u16) -> Vec<u8> {
    let mut bytes = with(0, b"MZ");
    put(
        &mut bytes,
        0x3c,
        &u32::try_from(header).unwrap().to_le_bytes(),
    );
    put(&mut bytes, header, b"PE\0\0");
    put(&mut bytes, header + 4, &machine.to_le_bytes());
    bytes
}

/// RISC-V ELF psABI, "File Header"; gABI, "ELF Identification" and the registry of machines.
#[test]
fn the_processor_of_an_executable() {
    let of = |class: u8, data: u8, machine: u16| {
        let mut bytes = elf(RAM.start, RAM.start);
        put(&mut bytes, 4, &[class, data]);
        let machine = match data {
            1 => machine.to_le_bytes(),
            _ => machine.to_be_bytes(),
        };
        put(&mut bytes, 18, &machine);
        architecture(&bytes)
    };
    assert_eq!(of(2, 1, 243), None);
    for (class, data, machine, name) in [
        (2, 2, 243, "big-endian RISC-V"),
        (1, 1, 243, "32-bit RISC-V"),
        (1, 2, 243, "32-bit RISC-V"),
        (1, 1, 3, "x86"),
        (2, 1, 62, "x86"),
        (1, 1, 40, "32-bit Arm"),
        (2, 1, 183, "64-bit Arm"),
        (2, 1, 258, "LoongArch"),
        (2, 2, 22, "another processor (ELF machine 22)"),
        (2, 1, 0xf3f3, "another processor (ELF machine 62451)"),
    ] {
        assert_eq!(
            of(class, data, machine).as_deref(),
            Some(name),
            "{class} {data} {machine}"
        );
    }
}

/// PE Format, "Machine Types".
#[test]
fn the_processor_of_an_efi_program() {
    for (machine, name) in [
        (0x014c, "x86"),
        (0x8664, "x86"),
        (0x01c0, "32-bit Arm"),
        (0x01c2, "32-bit Arm"),
        (0x01c4, "32-bit Arm"),
        (0xaa64, "64-bit Arm"),
        (0x5032, "32-bit RISC-V"),
        (0x6232, "LoongArch"),
        (0x6264, "LoongArch"),
        (0x0ebc, "another processor"),
    ] {
        for header in [0x40, 0xf0, 0x800] {
            let bytes = pe(header, machine);
            assert_eq!(foreign_pe(&bytes), Some(name), "{machine:#x}");
            assert_eq!(architecture(&bytes).as_deref(), Some(name), "{machine:#x}");
        }
    }
    let risc_v = pe(0x40, 0x5064);
    assert_eq!(foreign_pe(&risc_v), None);
    assert!(told(&risc_v).contains("it is an EFI program"));
    // Neither of the two signatures alone, nor a header behind the end, makes one.
    for (offset, bytes) in [(0, *b"MX\0\0"), (0x40, *b"PX\0\0"), (0x3c, [0xff; 4])] {
        let mut other = pe(0x40, 0xaa64);
        put(&mut other, offset, &bytes);
        assert_eq!(foreign_pe(&other), None, "{offset:#x}");
    }
    assert_eq!(foreign_pe(&pe(0x40, 0xaa64)[..0x45]), None, "cut off");
}

/// Linux: arch/arm64/booting.rst, arch/arm/boot/compressed/head.S, arch/x86/boot.rst.
#[test]
fn kernels_of_other_processors() {
    for (offset, magic, name) in [
        (56, &b"ARM\x64"[..], "64-bit Arm"),
        (0x24, b"\x18\x28\x6f\x01", "32-bit Arm"),
        (0x202, b"HdrS", "x86"),
    ] {
        assert_eq!(
            architecture(&with(offset, magic)).as_deref(),
            Some(name),
            "{name}"
        );
        for elsewhere in [offset - 1, offset + 1] {
            assert_eq!(architecture(&with(elsewhere, magic)), None, "{name}");
        }
    }
}

#[test]
fn files_that_are_no_programs() {
    for (bytes, part) in [
        (with(0, b"MZ\0\0zimg"), "it is compressed more than once"),
        (with(0, b"\x1f\x8b\x08"), "it is compressed more than once"),
        (
            with(0, b"\x28\xb5\x2f\xfd"),
            "it is compressed more than once",
        ),
        (
            with(0, b"\xfd7zXZ\0"),
            "it is compressed by xz; unpack it first",
        ),
        (with(0, b"BZh91AY&SY"), "it is compressed by bzip2"),
        (with(0, b"\x04\x22\x4d\x18"), "it is compressed by lz4"),
        (with(0, b"\x89LZO\0\r\n\x1a\n"), "it is compressed by lzop;"),
        (with(0, b"07070100"), "it is a cpio archive"),
        (with(257, b"ustar\0"), "it is a tar archive"),
        (with(0, b"PK\x03\x04"), "it is a zip archive"),
        (with(0, b"7z\xbc\xaf\x27\x1c"), "it is a 7z archive"),
        (with(0, b"!<arch>\n"), "such as a Debian package"),
        (
            with(0, b"QFI\xfb\0\0\0\x03"),
            "a disk image in qcow2 format",
        ),
        (
            with(0x40, b"\x7f\x10\xda\xbe"),
            "a disk image in vdi format",
        ),
        (with(0, b"hsqs"), "it is a file system or a disk image"),
        (
            with(0, b"LUKS\xba\xbe\0\x02"),
            "it is a file system or a disk",
        ),
        (
            with(0, b"\xd0\x0d\xfe\xed"),
            "it is a device tree or a FIT image",
        ),
        (with(0, b"\x27\x05\x19\x56"), "it is wrapped for U-Boot"),
        (with(0x28, b"_FVH"), "it is a UEFI firmware"),
        (vec![b'a'; 100], "it is a text file"),
        (vec![0; 5000], "it begins with zeros"),
        (with(0, &[0, 0]), "it begins with zeros"),
        (vec![0xff; 5000], "it begins with ones"),
        (with(0, &[0xff; 4]), "it begins with ones"),
    ] {
        let text = told(&bytes);
        assert!(text.contains(part), "{part}: {text}");
    }
    for program in [[0, 1, 0, 0], [1, 0, 0, 0], [0xff, 0xff, 0xff, 0x7f]] {
        assert!(open(&with(0, &program), &RAM).is_ok(), "{program:x?}");
    }
}

/// A table of sections tells how long the file has to be (PE Format, "Section Table").
#[test]
fn an_image_that_is_cut_off_is_truncated() {
    // Two sections, of which the first one ends last, and a third one that is not counted.
    let mut bytes = image(0x20_0000, 0x10_0000);
    put(&mut bytes, 0, b"MZ");
    put(&mut bytes, 0x3c, &[0x40]);
    put(&mut bytes, 0x40, b"PE\0\0\x64\x50\x02\0");
    let optional = 0x70;
    // The flags beside the size of the optional header belong to no size.
    put(&mut bytes, 0x40 + 20, &[optional, 0, 0xff, 0xff]);
    let table = 0x40 + 24 + usize::from(optional);
    for (index, size, start) in [
        (0, 0x600_u32, 0xa00_u32),
        (1, 0x200, 0x800),
        (2, 1 << 20, 0),
    ] {
        put(&mut bytes, table + 40 * index + 16, &size.to_le_bytes());
        put(&mut bytes, table + 40 * index + 20, &start.to_le_bytes());
    }
    assert!(open(&bytes, &RAM).is_ok());
    assert!(open(&bytes[..0x1000], &RAM).is_ok(), "it fits exactly");
    let problem = open(&bytes[..0xfff], &RAM);
    assert_eq!(
        problem,
        Err(Problem::Truncated {
            promised: 0x1000,
            present: 0xfff
        })
    );
    // What has no such table can be of any length.
    put(&mut bytes, 0, &[0x13, 0x05]);
    assert!(open(&bytes[..0xfff], &RAM).is_ok());
}

#[test]
fn an_image_of_the_other_byte_order_is_refused() {
    let mut bytes = image(0x20_0000, 0);
    put(&mut bytes, 24, &[0b10]);
    assert!(open(&bytes, &RAM).is_ok(), "other flags are its page size");
    put(&mut bytes, 24, &[0b11]);
    assert_eq!(architecture(&bytes).as_deref(), Some("big-endian RISC-V"));
    put(&mut bytes, 24, &[0, 1]);
    assert!(open(&bytes, &RAM).is_ok());
}

#[test]
fn an_executable_that_is_cut_off_or_damaged() {
    let whole = elf(RAM.start, RAM.start);
    for (length, promised) in [(19, 64), (20, 64), (63, 64), (119, 120), (127, 128)] {
        assert_eq!(
            open(&whole[..length], &RAM),
            Err(Problem::Truncated {
                promised,
                present: length as u64
            }),
            "{length}"
        );
    }
    assert!(open(&whole[..128], &RAM).is_ok());
    // All that the header promises is there, and it is none.
    let mut header = elf_with(6, 0);
    header.truncate(64);
    assert!(told(&header).contains("headers make no sense"));
    let base = 0x8020_0000;
    for (program, part) in [
        ((LOAD, CODE, 120, base, base, 9, 8), "larger in the file"),
        (
            (LOAD, CODE, 120, base, 1 << 56, 8, 8),
            "physical addresses are virtual ones, such as 0x100000000000000",
        ),
        ((LOAD, CODE, 120, base, (1 << 56) - 8, 8, 8), "it takes"),
        (
            (LOAD, CODE, 120, base, RAM.end - 8, 8, MIB + 8),
            "it takes 65 MiB of memory and the guest has 64",
        ),
        (
            (LOAD, CODE, u64::MAX, base, base, 8, 8),
            "its header promises 18446744073709551615 bytes",
        ),
        ((NOTE, CODE, 120, base, base, 8, 8), "nothing to load"),
        (
            (LOAD, CODE, 120, base + 8, base + 8, 8, 8),
            "entry point 0x80200000 is in none of its segments",
        ),
    ] {
        let text = told(&elf_of(base, &[program]));
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Two segments at the same virtual addresses: the one with code has the entry point, whichever comes first.
#[test]
fn an_entry_point_is_in_code() {
    let (code, data) = (0x8020_0000, 0x8030_0000);
    let programs = [
        (LOAD, DATA, 64 + 2 * 56, 0x1000, data, 16, 16),
        (LOAD, CODE, 64 + 2 * 56, 0x1000, code, 16, 16),
    ];
    for turn in 0..2 {
        let mut programs = programs;
        programs.rotate_left(turn);
        let placement = open(&elf_of(0x1004, &programs), &RAM).unwrap();
        assert_eq!(placement.entry, code + 4, "{turn}");
    }
}

/// What is looked at is the code at the entry point, wherever in the file and in its segment that is.
#[test]
fn code_for_machine_mode_is_found_behind_the_start_of_a_segment() {
    let mhartid = 0xf140_2573_u32.to_le_bytes();
    let base = 0x8020_0000;
    let programs = [
        (LOAD, DATA, 176, base + 0x1000, base + 0x1000, 32, 32),
        (LOAD, CODE, 176, base, base, 64, 64),
    ];
    for (at, expected) in [(20, true), (16, false), (24, false)] {
        let mut bytes = elf_of(base + 20, &programs);
        bytes[176..].fill(0);
        put(&mut bytes, 176 + at, &mhartid);
        let refused = open(&bytes, &RAM) == Err(Problem::MachineMode);
        assert_eq!(refused, expected, "{at}");
    }
}
