//! The placement of a kernel's file in memory: `Image`, ELF, flat binaries, and what is none of them.

use std::ops::Range;

use hv_core::kernel::{Placement, place};
use hv_core::placement::FreeMemory;

use crate::files;
use crate::input::{Input, Script};

/// RAM of guests: as usual, small, where the host has it, and none.
const RAMS: [Range<u64>; 6] = [
    0x8000_0000..0x8400_0000,
    0x8000_0000..0x8020_1000,
    0x9030_0000..0x9830_0000,
    0..0x100_0000,
    u64::MAX - 0x100_0000..u64::MAX,
    0x8000_0000..0x8000_0000,
];

/// Places a file.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let ram = RAMS[input.below(RAMS.len())].clone();
    let file = input.rest();
    if let Ok(placement) = place(file, &ram) {
        check(&placement, file.len() as u64, &ram);
        place_rest(&placement, &ram);
    }
}

/// What a placement promises.
///
/// # Panics
/// If it does not keep it.
pub fn check(placement: &Placement, file: u64, ram: &Range<u64>) {
    let Placement {
        segments,
        entry,
        occupied,
    } = placement;
    assert!(
        ram.start <= occupied.start && occupied.end <= ram.end,
        "{occupied:x?} of {ram:x?}"
    );
    assert!(
        occupied.contains(entry),
        "entry {entry:#x} of {occupied:x?}"
    );
    assert!(!segments.is_empty());
    for segment in segments {
        let end = segment.offset.checked_add(segment.length);
        assert!(
            end.is_some_and(|end| end <= file),
            "{segment:x?} of a file of {file} bytes"
        );
        let end = segment.address.checked_add(segment.length);
        assert!(
            occupied.start <= segment.address,
            "{segment:x?} of {occupied:x?}"
        );
        assert!(
            end.is_some_and(|end| end <= occupied.end),
            "{segment:x?} of {occupied:x?}"
        );
    }
}

/// What lies behind the kernel overlaps nothing of it.
fn place_rest(placement: &Placement, ram: &Range<u64>) {
    let mut free = FreeMemory::behind(ram, &placement.occupied);
    if let Some(piece) = free.take(0x2_0000) {
        assert!(placement.occupied.end <= piece.start && piece.end <= ram.end);
    }
}

/// A file of each format, in each memory.
pub fn seeds() -> Vec<Vec<u8>> {
    let files = [
        files::flat(),
        files::image(false),
        files::image(true),
        files::elf(0x8020_0000, 0x8020_0000),
        files::elf(0, 0),
        files::gzip(&files::flat()),
    ];
    let with_ram = |file: &Vec<u8>| Script::new().byte(0).bytes(file).done();
    let mut seeds: Vec<_> = files.iter().map(with_ram).collect();
    seeds.push(Script::new().byte(2).bytes(&files::image(true)).done());
    seeds.push(
        Script::new()
            .byte(3)
            .bytes(&files::elf(0x20_0000, 0x20_0000))
            .done(),
    );
    seeds
}
