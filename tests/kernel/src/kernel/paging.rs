//! Translation by the first stage (RISC-V Privileged Architecture, "Supervisor Address Translation and Protection").

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::csr::{LOAD_PAGE_FAULT, STORE_PAGE_FAULT};
use super::machine::Machine;
use super::report::Outcome;
use super::trap::{Exception, attempt};

tests! { TESTS:
    "mmu-modes-are-as-the-tree-says" => modes,
    "mmu-accessed-and-dirty-are-as-the-tree-says" => accessed_and_dirty,
}

/// The encoding of three levels in `satp.MODE`. The modes with more levels follow it.
const SV39: usize = 8;

// Bits of a page table entry.
const VALID_READ_WRITE: u64 = 0b111;
const EXECUTE: u64 = 1 << 3;
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;

const GIB: usize = 1 << 30;

/// The part of an entry that says which GiB of physical memory it maps.
const fn gib(number: u64) -> u64 {
    number << 18 << 10
}

/// A root page table for every mode: entry 0 maps the first 1 GiB of a three-level table, and more of a deeper one, to
/// itself; entries 1 to 3 make it the first 4 GiB where there are three levels. There, another entry is free for a second
/// mapping of the third GiB, where RAM is.
#[repr(C, align(4096))]
struct Root([AtomicU64; 512]);

static ROOT: Root = {
    let mut entries = [const { AtomicU64::new(0) }; 512];
    let mut number = 0;
    while number < 4 {
        let identity = gib(number) | VALID_READ_WRITE | EXECUTE | ACCESSED | DIRTY;
        entries[number as usize] = AtomicU64::new(identity);
        number += 1;
    }
    Root(entries)
};

/// The entry of the second mapping, and the GiB that it maps.
const ALIAS: usize = 8;
const RAM: u64 = 2;

fn satp(mode: usize) -> usize {
    mode << 60 | (&raw const ROOT) as usize >> 12
}

/// The largest mode that the tree names can be set, and the next larger one cannot.
fn modes(machine: &Machine) -> Outcome {
    let Some(levels) = machine.paging_levels() else {
        skip!("the tree has no mmu-type");
    };
    let mut largest = 0;
    for mode in SV39..SV39 + 3 {
        if sets(mode) {
            largest = mode - 5;
        }
    }
    check_eq!(
        largest,
        levels,
        "the levels of page tables that satp can be set to, by the tree"
    );
    Ok(())
}

/// Whether satp takes this mode. Instructions are fetched through the page table meanwhile, so it maps the kernel.
fn sets(mode: usize) -> bool {
    let mut held: usize = 0;
    // SAFETY: in every mode, the root maps the lower part of the address space to itself, the kernel included.
    unsafe {
        asm!("sfence.vma", "csrw satp, {new}", "sfence.vma", "csrr {held}, satp", "csrw satp, zero", "sfence.vma",
            new = in(reg) satp(mode), held = inout(reg) held, options(nostack));
    }
    held == satp(mode)
}

/// Loads through the second mapping, and stores what was loaded if `store` is set. The access may trap.
fn access(address: usize, store: bool) -> Result<(), Exception> {
    let address = address % GIB + ALIAS * GIB;
    let satp = satp(SV39);
    attempt(|| {
        // SAFETY: the root maps the kernel to itself, so that code, stack and a trap's handler are where they were; the
        // access itself changes nothing.
        unsafe {
            if store {
                asm!("sfence.vma", "csrw satp, {satp}", "sd {value}, 0({address})", "csrw satp, zero", "sfence.vma",
                    satp = in(reg) satp, address = in(reg) address, value = in(reg) STORED, options(nostack));
            } else {
                asm!("sfence.vma", "csrw satp, {satp}", "ld zero, 0({address})", "csrw satp, zero", "sfence.vma",
                    satp = in(reg) satp, address = in(reg) address, options(nostack));
            }
        }
    })
}

const STORED: u64 = 0x0123_4567_89ab_cdef;

/// Who sets the bits A and D of an entry: software, after a page fault (Svade), or hardware (Svadu). Where the tree lists
/// neither, it may be either; where both, Svadu is off until firmware is asked for it (Linux,
/// Documentation/devicetree/bindings/riscv/extensions.yaml).
fn accessed_and_dirty(machine: &Machine) -> Outcome {
    static MEMORY: AtomicU64 = AtomicU64::new(0);
    let by_hardware = match (
        machine.has_extension("svade"),
        machine.has_extension("svadu"),
    ) {
        (false, false) => None,
        (svade, _) => Some(!svade),
    };
    let address = MEMORY.as_ptr() as usize;
    if address / GIB != RAM as usize {
        skip!("the kernel is not in the third GiB");
    }
    let entry = &ROOT.0[ALIAS];
    for (store, given, needed, fault) in [
        (false, 0, ACCESSED, LOAD_PAGE_FAULT),
        (true, 0, ACCESSED | DIRTY, STORE_PAGE_FAULT),
        (true, ACCESSED, ACCESSED | DIRTY, STORE_PAGE_FAULT),
    ] {
        let before = gib(RAM) | VALID_READ_WRITE | given;
        entry.store(before, Relaxed);
        MEMORY.store(0, Relaxed);
        let result = access(address, store);
        let (after, stored) = (entry.load(Relaxed), MEMORY.load(Relaxed));
        entry.store(0, Relaxed);
        match result {
            Ok(()) => {
                check!(
                    by_hardware != Some(false),
                    "there is no page fault, store: {store}, with Svade"
                );
                check_eq!(after, before | needed, "the entry that hardware updated");
                check_eq!(stored, if store { STORED } else { 0 }, "what was stored");
            }
            Err(exception) => {
                check_eq!(exception.cause, fault, "scause, store: {store}");
                check!(
                    by_hardware != Some(true),
                    "a page fault, store: {store}, with Svadu alone"
                );
                check_eq!(after, before, "the entry after a page fault");
                check_eq!(stored, 0, "what was stored");
            }
        }
    }
    Ok(())
}
