//! Small files of every kind, as seeds.

use std::io::Write;

use hv_core::isa::Isa;
use hv_core::layout;
use hv_core::machine::{Hart, InterruptController, Machine, MmuType};

fn put(bytes: &mut Vec<u8>, offset: usize, value: &[u8]) {
    if bytes.len() < offset + value.len() {
        bytes.resize(offset + value.len(), 0);
    }
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// A flat binary: `addi a1, a1, 1` over and over.
#[must_use]
pub fn flat() -> Vec<u8> {
    0x0015_8593_u32.to_le_bytes().repeat(16)
}

/// An `Image` (Linux, Documentation/arch/riscv/boot-image-header.rst), which is an EFI program as well if `is_efi`.
#[must_use]
pub fn image(is_efi: bool) -> Vec<u8> {
    let mut bytes = flat();
    put(&mut bytes, 0, b"MZ\x05\x05");
    put(&mut bytes, 8, &0x20_0000_u64.to_le_bytes());
    put(&mut bytes, 16, &0x1_0000_u64.to_le_bytes());
    put(&mut bytes, 24, &[0; 8]);
    put(&mut bytes, 32, &2_u32.to_le_bytes());
    put(&mut bytes, 48, b"RISCV\0\0\0RSC\x05");
    put(&mut bytes, 60, &64_u32.to_le_bytes());
    if is_efi {
        put(&mut bytes, 64, b"PE\0\0\x64\x50\x01\0");
        put(&mut bytes, 84, &0_u32.to_le_bytes());
        // One section: 32 bytes of the file from 128 on.
        put(&mut bytes, 104, &32_u32.to_le_bytes());
        put(&mut bytes, 108, &128_u32.to_le_bytes());
        put(&mut bytes, 159, &[0]);
    }
    bytes
}

/// An ELF executable of two segments, one of them .bss alone.
#[must_use]
pub fn elf(physical: u64, entry: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, &[2, 0, 243, 0, 1, 0, 0, 0]);
    put(&mut bytes, 24, &entry.to_le_bytes());
    put(&mut bytes, 32, &64_u64.to_le_bytes());
    put(&mut bytes, 52, &[64, 0, 56, 0, 2, 0]);
    for (n, (address, file, memory)) in [(physical, 8, 32), (physical + 0x1000, 0, 0x1000)]
        .into_iter()
        .enumerate()
    {
        let program = [1 | 7 << 32, 176, address, address, file, memory, 8];
        for (index, value) in program.into_iter().enumerate() {
            put(
                &mut bytes,
                64 + 56 * n + 8 * index,
                &u64::to_le_bytes(value),
            );
        }
    }
    put(&mut bytes, 176, b"\x93\x85\x15\0\x93\x85\x15\0");
    bytes
}

/// A gzip file.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// A zstd file.
#[must_use]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// An EFI zboot program (Linux, drivers/firmware/efi/libstub/zboot-header.S) with this payload.
#[must_use]
pub fn zboot(name: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, b"MZ\0\0zimg");
    put(&mut bytes, 8, &80_u32.to_le_bytes());
    put(
        &mut bytes,
        12,
        &u32::try_from(payload.len()).unwrap_or(0).to_le_bytes(),
    );
    put(&mut bytes, 24, name);
    put(&mut bytes, 0x3c, &64_u32.to_le_bytes());
    put(&mut bytes, 64, b"PE\0\0\x64\x50");
    put(&mut bytes, 80, payload);
    bytes
}

/// The description of a machine of one hart.
#[must_use]
pub fn machine(interrupts: InterruptController) -> Machine {
    Machine {
        harts: 1,
        hart: Hart {
            isa: Isa::from_names(["i", "m", "a"]).expect("they are extensions"),
            mmu: MmuType::Sv39,
            cbom_block_size: Some(64),
            cboz_block_size: None,
            cbop_block_size: None,
        },
        timebase_frequency: 10_000_000,
        ram_base: layout::RAM_BASE,
        ram_size: 64 << 20,
        interrupts,
        hypervisor: "linux,kvm",
        devices: hv_core::board::devices(),
        command_line: "console=ttyS0".into(),
        initrd: Some(0x8100_0000..0x8200_0000),
        rng_seed: Some([0xa7; 32]),
    }
}

/// Small device trees: that of a machine, and an empty one.
#[must_use]
pub fn device_trees() -> Vec<Vec<u8>> {
    let machines = [
        InterruptController::Plic { sources: 95 },
        InterruptController::Aia {
            sources: 63,
            ids: 63,
        },
    ];
    let mut trees: Vec<_> = machines
        .into_iter()
        .filter_map(|chip| hv_core::devicetree::build(&machine(chip)).ok())
        .collect();
    trees.extend(chosen_only());
    trees
}

/// A tree of one node, /chosen, with a seed and a command line.
#[must_use]
pub fn chosen_only() -> Option<Vec<u8>> {
    let mut tree = vm_fdt::FdtWriter::new().ok()?;
    let root = tree.begin_node("").ok()?;
    let chosen = tree.begin_node("chosen").ok()?;
    tree.property_string("bootargs", "quiet").ok()?;
    tree.property("rng-seed", &[1; 8]).ok()?;
    tree.end_node(chosen).ok()?;
    tree.end_node(root).ok()?;
    tree.finish().ok()
}
