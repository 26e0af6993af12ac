//! Files of each format in guests of several memories. What users name by mistake is tested where files are opened.

use alloc::string::ToString;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

mod refused;

const MIB: u64 = 1 << 20;
/// As every guest has it.
const RAM: Range<u64> = 0x8000_0000..0x8000_0000 + 64 * MIB;
/// As a guest has it that is where the host put it.
const IDENTITY: Range<u64> = 0x9030_0000..0x9030_0000 + 64 * MIB;

fn put(bytes: &mut Vec<u8>, offset: usize, value: &[u8]) {
    if bytes.len() < offset + value.len() {
        bytes.resize(offset + value.len(), 0);
    }
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// A RISC-V Image of 4096 bytes.
fn image(text_offset: u64, image_size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 4095, &[0]);
    put(&mut bytes, 8, &text_offset.to_le_bytes());
    put(&mut bytes, 16, &image_size.to_le_bytes());
    put(&mut bytes, 48, b"RISCV\0\0\0RSC\x05");
    bytes
}

/// An ELF executable for RISC-V with one segment of 8 bytes, 32 in memory, at the end of the file. Its virtual addresses are
/// 4 GiB above its physical ones.
fn elf(physical: u64, entry: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, &[2, 0, 243, 0, 1, 0, 0, 0]);
    put(&mut bytes, 24, &entry.to_le_bytes());
    put(&mut bytes, 32, &64_u64.to_le_bytes());
    put(&mut bytes, 52, &[64, 0, 56, 0, 1, 0]);
    let program = [
        1 | 5 << 32,
        120,
        physical.wrapping_add(4 << 30),
        physical,
        8,
        32,
        8,
    ];
    for (index, value) in program.into_iter().enumerate() {
        put(&mut bytes, 64 + 8 * index, &u64::to_le_bytes(value));
    }
    put(&mut bytes, 120, b"segment!");
    bytes
}

/// The same with another byte at `offset` of its header: 6 is the version, 54 the size of a program header, 56 their number.
fn elf_with(offset: usize, byte: u8) -> Vec<u8> {
    let mut bytes = elf(RAM.start, RAM.start);
    put(&mut bytes, offset, &[byte]);
    bytes
}

/// `addi a1, a1, 1; addi a1, a1, 1` and so on.
fn flat(length: usize) -> Vec<u8> {
    let mut bytes = 0x0015_8593_u32.to_le_bytes().repeat(length.div_ceil(4));
    bytes.truncate(length);
    bytes
}

fn open(bytes: &[u8], ram: &Range<u64>) -> Result<Placement, Problem> {
    place(bytes, ram)
}

fn whole(length: u64, address: u64) -> Vec<Segment> {
    Vec::from([Segment {
        offset: 0,
        length,
        address,
    }])
}

#[test]
fn an_image_is_placed_from_a_megapage_of_ram() {
    for (ram, start) in [(RAM, 0x8020_0000), (IDENTITY, 0x9060_0000)] {
        let placement = open(&image(0x20_0000, 0x18_0000), &ram).unwrap();
        assert_eq!(placement.segments, whole(4096, start));
        assert_eq!(placement.entry, start);
        assert_eq!(placement.occupied, start..start + 0x18_0000);
    }
}

#[test]
fn a_flat_binary_is_placed_where_firmware_would_start_it() {
    for (ram, start) in [(RAM, 0x8020_0000), (IDENTITY, 0x9040_0000)] {
        let placement = open(&flat(10_000), &ram).unwrap();
        assert_eq!(placement.segments, whole(10_000, start));
        assert_eq!(placement.entry, start);
        assert_eq!(placement.occupied, start..start + 10_000);
    }
}

#[test]
fn an_executable_is_placed_where_it_says() {
    let placement = open(&elf(0x8040_0000, 0x1_8040_0004), &RAM).unwrap();
    let segment = Segment {
        offset: 120,
        length: 8,
        address: 0x8040_0000,
    };
    assert_eq!(placement.segments, [segment]);
    assert_eq!(placement.entry, 0x8040_0004);
    assert_eq!(placement.occupied, 0x8040_0000..0x8040_0020);
    let problem = open(&elf(0x8040_0000, 0x8040_0000), &IDENTITY).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "the ELF file wants to be at 0x80400000, and the guest's memory begins at 0x90300000; link it to 0x90400000"
    );
}

#[test]
fn an_executable_for_address_zero_is_placed_as_an_image() {
    for (ram, start) in [(RAM, 0x8020_0000), (IDENTITY, 0x9040_0000)] {
        let placement = open(&elf(0, 4 << 30), &ram).unwrap();
        assert_eq!((placement.entry, placement.occupied.start), (start, start));
    }
}

/// One program header of an ELF executable: type, flags, offset, virtual and physical address, size in the file, in memory.
type Program = (u32, u32, u64, u64, u64, u64, u64);

/// An ELF executable with these program headers and 64 bytes behind them.
fn elf_of(entry: u64, programs: &[Program]) -> Vec<u8> {
    let mut bytes = elf(0, entry);
    bytes.truncate(64);
    put(&mut bytes, 56, &[u8::try_from(programs.len()).unwrap(), 0]);
    for (kind, flags, offset, virt, phys, in_file, in_memory) in programs {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for value in [offset, virt, phys, in_file, in_memory, &8] {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes.extend([0x55; 64]);
    bytes
}

const LOAD: u32 = 1;
const NOTE: u32 = 4;
const CODE: u32 = 5;
const DATA: u32 = 6;

#[test]
fn several_segments_are_placed_in_any_order() {
    let (low, high) = (0x8020_0000, 0x8030_0000);
    let offset = 64 + 3 * 56;
    let programs = [
        (LOAD, DATA, offset, high, high, 8, 0x3000),
        (LOAD, CODE, offset + 8, low, low, 16, 16),
        (LOAD, DATA, offset, low + 0x1000, low + 0x1000, 8, 0x1000),
    ];
    for turn in 0..3 {
        let mut programs = programs;
        programs.rotate_left(turn);
        let placement = open(&elf_of(low + 4, &programs), &RAM).unwrap();
        assert_eq!(placement.occupied, low..high + 0x3000, "{turn}");
        assert_eq!(placement.segments.len(), 3);
        assert_eq!(placement.entry, low + 4);
    }
    // Linked to zero, the lowest of them goes where an Image would, and the others keep their distance.
    let offset = 64 + 2 * 56;
    let programs = [
        (LOAD, DATA, offset, 0x10_0000, 0x10_0000, 8, 8),
        (LOAD, CODE, offset, 0, 0, 8, 8),
    ];
    let placement = open(&elf_of(4, &programs), &RAM).unwrap();
    assert_eq!(placement.occupied, 0x8020_0000..0x8030_0008);
    assert_eq!(placement.entry, 0x8020_0004);
}

#[test]
fn what_is_not_loaded_does_not_count() {
    let base = 0x8020_0000;
    let offset = 64 + 3 * 56;
    let programs = [
        // A note of a file that is not loaded, and a segment that takes no memory, each where no memory is.
        (NOTE, 4, offset, 0, 0, 8, 8),
        (LOAD, DATA, offset, 0, 0, 0, 0),
        (LOAD, CODE, offset, base, base, 1, 1),
    ];
    let placement = open(&elf_of(base, &programs), &RAM).unwrap();
    assert_eq!(placement.occupied, base..base + 1);
    assert_eq!(placement.segments.len(), 1);
}

/// .bss can be a segment of its own.
#[test]
fn a_segment_of_which_nothing_is_in_the_file_is_occupied() {
    let base = 0x8020_0000;
    let offset = 64 + 2 * 56;
    let programs = [
        (LOAD, CODE, offset, base, base, 16, 16),
        (LOAD, DATA, offset, base + 0x1000, base + 0x1000, 0, 4 * MIB),
    ];
    let placement = open(&elf_of(base, &programs), &RAM).unwrap();
    assert_eq!(placement.occupied, base..base + 0x1000 + 4 * MIB);
}

#[test]
fn an_entry_point_is_in_the_segment_that_begins_there() {
    // The first segment ends where the second one begins, but for their physical addresses.
    let (first, second) = (0x8020_0000, 0x8040_0000);
    let offset = 64 + 2 * 56;
    let programs = [
        (LOAD, CODE, offset, 0x1000, first, 16, 0x1000),
        (LOAD, CODE, offset, 0x2000, second, 16, 0x1000),
    ];
    assert_eq!(
        open(&elf_of(0x2000, &programs), &RAM).unwrap().entry,
        second
    );
    let last = open(&elf_of(0x1fff, &programs), &RAM).unwrap().entry;
    assert_eq!(last, first + 0xfff);
}

#[test]
fn what_fits_exactly_fits() {
    let room = 62 * MIB;
    let placement = open(&image(0x20_0000, room), &RAM).unwrap();
    assert_eq!(placement.occupied.end, RAM.end);
    assert!(open(&image(0x20_0000, room + 1), &RAM).is_err());
    let end = RAM.end - 32;
    assert_eq!(open(&elf(end, end), &RAM).unwrap().occupied.end, RAM.end);
    assert!(open(&elf(end + 1, end + 1), &RAM).is_err());
    let small = RAM.start..RAM.start + 3 * MIB;
    let placement = open(&flat(1 << 20), &small).unwrap();
    assert_eq!(placement.occupied.end, small.end);
    assert!(open(&flat((1 << 20) + 1), &small).is_err());
}

#[test]
fn a_text_is_one_to_its_last_character() {
    let is_text = |bytes: &[u8]| {
        let problem = open(bytes, &RAM);
        problem == Err(Problem::NoProgram(NoProgram::Text))
    };
    // A character that is cut off where nobody looks any further, at each of its bytes.
    for before in 0..4 {
        let text = ["a".repeat(before), "\u{10348}".repeat(2000)].concat();
        assert!(is_text(text.as_bytes()), "{before}");
    }
    assert!(!is_text(b"ab\xff\xff and more"), "no character at all");
    assert!(!is_text(b"ab\x01 and more"));
    assert!(!is_text(b"\xf0\x90"), "nothing but a part of one");
}

#[test]
fn what_is_wrong_is_told() {
    for (bytes, text) in [
        (Vec::new(), "the file is empty"),
        (
            b"\x7fELF".to_vec(),
            "the file is truncated: its header promises 64 bytes and 4 are there; copy or build it again",
        ),
        (
            elf_with(6, 0),
            "the ELF file's headers make no sense; copy or build it again",
        ),
        (
            elf_with(54, 32),
            "the ELF file's headers make no sense; copy or build it again",
        ),
        (
            elf_with(56, 9),
            "the file is truncated: its header promises 568 bytes and 128 are there; copy or build it again",
        ),
        (
            image(0x20_0000, 63 * MIB),
            "it takes 65 MiB of memory and the guest has 64",
        ),
        (
            flat(63 << 20),
            "it takes 65 MiB of memory and the guest has 64",
        ),
        (
            b"a text".to_vec(),
            "it is a text file; name a kernel for 64-bit RISC-V",
        ),
    ] {
        assert_eq!(open(&bytes, &RAM).unwrap_err().to_string(), text);
    }
}

#[test]
fn no_memory_is_too_little() {
    for ram in [RAM.start..RAM.start, u64::MAX - 1..u64::MAX] {
        for bytes in [image(0x20_0000, 0), flat(100), elf(0, 0)] {
            let problem = open(&bytes, &ram).unwrap_err();
            assert!(matches!(problem, Problem::TooLarge { .. }), "{problem}");
        }
    }
}

proptest! {
    /// Whatever a file holds, it is placed inside RAM or refused.
    #[test]
    fn damaged_files_stay_inside_ram(
        kind in 0..3_usize,
        at in 0..192_usize,
        value: [u8; 8],
        length in 0..600_usize,
        start in prop_oneof![Just(RAM.start), any::<u64>()],
        size in prop_oneof![Just(64 * MIB), any::<u64>()],
    ) {
        let mut bytes = match kind {
            0 => image(0x20_0000, 0x1000),
            1 => elf(0x8020_0000, 0x8020_0000),
            _ => flat(600),
        };
        put(&mut bytes, at, &value);
        bytes.truncate(length);
        let ram = start..start.saturating_add(size);
        if let Ok(placement) = open(&bytes, &ram) {
            let occupied = placement.occupied;
            prop_assert!(ram.start <= occupied.start && occupied.end <= ram.end);
            prop_assert!(occupied.contains(&placement.entry));
            for Segment { offset, length, address } in placement.segments {
                prop_assert!(occupied.start <= address);
                prop_assert!(address.checked_add(length).unwrap() <= occupied.end);
                prop_assert!(offset.checked_add(length).unwrap() <= bytes.len() as u64);
            }
        }
    }
}

/// `csrr a0, mhartid`, as programs for machine mode begin, wherever the format has the first instruction.
#[test]
fn programs_for_machine_mode_are_refused() {
    let mhartid = 0xf140_2573_u32.to_le_bytes();
    let mut elf = elf(0x8000_0000, 0x8000_0000);
    put(&mut elf, 120, &mhartid);
    let mut image = image(0x20_0000, 0);
    put(&mut image, 0, &mhartid);
    let mut flat = flat(100);
    put(&mut flat, 0, &mhartid);
    for bytes in [elf, image, flat] {
        assert_eq!(open(&bytes, &RAM), Err(Problem::MachineMode));
    }
}

#[test]
fn a_uefi_firmware_volume_is_refused() {
    let mut volume = flat(4096);
    put(&mut volume, 0x28, b"_FVH");
    let problem = open(&volume, &RAM).unwrap_err().to_string();
    assert!(problem.contains("EDK2"), "{problem}");
}
