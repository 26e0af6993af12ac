//! ELF executables: a kernel's `vmlinux`, and what other systems are linked as.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use object::LittleEndian;
use object::elf::{
    DataEncoding, ELFCLASS64, ELFDATA2LSB, EM_RISCV, FileClass, FileHeader64, Machine, PF_X,
    PT_LOAD, ProgramHeader64,
};
use object::read::ReadRef;
use object::read::elf::{FileHeader, ProgramHeader};

use super::{Placement, Problem, Segment, kernel_base};

/// No RISC-V hart has more bits of physical address than this (privileged specification, "Sv39", "Sv48" and "Sv57").
const PHYSICAL_BITS: u32 = 56;

/// Whether the file begins as an ELF file does.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Where the segments of the executable `file` go: to their physical addresses.
pub(super) fn place<'data>(
    file: impl ReadRef<'data>,
    ram: &Range<u64>,
) -> Result<Placement, Problem> {
    let present = file.len().unwrap_or(0);
    let truncated = |promised| Problem::Truncated { promised, present };
    // What is not there, or what is there and no header.
    let unreadable = |promised: u64| match promised <= present {
        true => Problem::Malformed(
            "the ELF file's headers make no sense; copy or build it again".into(),
        ),
        false => truncated(promised),
    };
    check_machine(file.read_bytes_at(0, 20).map_err(|()| truncated(64))?)?;
    let header = FileHeader64::<LittleEndian>::parse(file).map_err(|_| unreadable(64))?;
    let endian = LittleEndian;
    let programs = header.program_headers(endian, file).map_err(|_| {
        unreadable(
            header
                .e_phoff(endian)
                .saturating_add(u64::from(header.e_phnum(endian)).saturating_mul(56)),
        )
    })?;
    let loaded: Vec<_> = programs
        .iter()
        .filter(|program| program.p_type(endian) == PT_LOAD && program.p_memsz(endian) > 0)
        .collect();
    let lowest = loaded.iter().map(|program| program.p_paddr(endian)).min();
    let Some(lowest) = lowest else {
        return Err(Problem::Malformed(
            "the ELF file has nothing to load: it is no executable".into(),
        ));
    };
    // Linux's `vmlinux` is linked to physical address 0, and goes where its `Image` would.
    let base = kernel_base(ram).ok_or_else(|| Problem::too_large(u64::MAX, ram))?;
    let bias = if lowest == 0 { base } else { 0 };
    let mut segments = Vec::new();
    let mut occupied: Option<Range<u64>> = None;
    let entry = entry_point(header.e_entry(endian), &loaded).wrapping_add(bias);
    for program in loaded {
        let (offset, length) = program.file_range(endian);
        let file_end = offset
            .checked_add(length)
            .ok_or_else(|| truncated(u64::MAX))?;
        if file_end > present {
            return Err(truncated(file_end));
        }
        let size = program.p_memsz(endian);
        if length > size {
            return Err(Problem::Malformed(
                "a segment of the ELF file is larger in the file than in memory".into(),
            ));
        }
        let start = program.p_paddr(endian).saturating_add(bias);
        let end = start.saturating_add(size);
        if start >> PHYSICAL_BITS != 0 {
            return Err(Problem::Malformed(format!(
                "the ELF file's physical addresses are virtual ones, such as {start:#x}; give its sections load addresses (AT in a \
                 linker script)"
            )));
        }
        if start < ram.start {
            return Err(Problem::Malformed(format!(
                "the ELF file wants to be at {start:#x}, and the guest's memory begins at {:#x}; link it to {base:#x}",
                ram.start
            )));
        }
        if end > ram.end {
            return Err(Problem::too_large(end.saturating_sub(ram.start), ram));
        }
        occupied = Some(match occupied {
            Some(range) => range.start.min(start)..range.end.max(end),
            None => start..end,
        });
        segments.push(Segment {
            offset,
            length,
            address: start,
        });
    }
    match occupied {
        Some(occupied) if occupied.contains(&entry) => Ok(Placement {
            segments,
            entry,
            occupied,
        }),
        _ => Err(Problem::Malformed(format!(
            "the ELF file's entry point {entry:#x} is in none of its segments"
        ))),
    }
}

/// The physical address of the entry point, bias aside. `e_entry` is a virtual address in most executables, and a physical
/// one in some; harts begin with translation off. A segment that holds it decides, one with code before others.
fn entry_point(e_entry: u64, loaded: &[&ProgramHeader64<LittleEndian>]) -> u64 {
    let endian = LittleEndian;
    let translated = |program: &&ProgramHeader64<LittleEndian>| {
        let inside = e_entry.checked_sub(program.p_vaddr(endian))?;
        (inside < program.p_memsz(endian)).then(|| program.p_paddr(endian).wrapping_add(inside))
    };
    let has_code =
        |program: &&&ProgramHeader64<LittleEndian>| program.p_flags(endian).0 & PF_X.0 != 0;
    let mut with_code = loaded.iter().filter(has_code);
    with_code
        .find_map(translated)
        .or_else(|| loaded.iter().find_map(translated))
        .unwrap_or(e_entry)
}

/// Refuses what is not little-endian 64-bit RISC-V (RISC-V ELF psABI, "File Header"). `ident` is the file up to and with
/// `e_machine`.
fn check_machine(ident: &[u8]) -> Result<(), Problem> {
    let (Some(class), Some(data), Some(&[low, high])) =
        (ident.get(4), ident.get(5), ident.get(18..20))
    else {
        return Err(Problem::Truncated {
            promised: 64,
            present: ident.len() as u64,
        });
    };
    let (class, data) = (FileClass(*class), DataEncoding(*data));
    let machine = Machine(match data {
        ELFDATA2LSB => u16::from_le_bytes([low, high]),
        _ => u16::from_be_bytes([low, high]),
    });
    let wrong = match (machine, class, data) {
        (EM_RISCV, ELFCLASS64, ELFDATA2LSB) => return Ok(()),
        (EM_RISCV, ELFCLASS64, _) => "big-endian RISC-V",
        (EM_RISCV, ..) => "32-bit RISC-V",
        (object::elf::EM_386 | object::elf::EM_X86_64, ..) => "x86",
        (object::elf::EM_ARM, ..) => "32-bit Arm",
        (object::elf::EM_AARCH64, ..) => "64-bit Arm",
        (object::elf::EM_LOONGARCH, ..) => "LoongArch",
        _ => {
            return Err(Problem::WrongArchitecture(format!(
                "another processor (ELF machine {})",
                machine.0
            )));
        }
    };
    Err(Problem::WrongArchitecture(wrong.into()))
}
