//! Instructions where they do not belong: waits, page tables of others, devices reached by anything but a plain load or store,
//! fetches from devices, and what is illegal.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::calls::wake_soon;
use super::registers::{load, store};
use super::{Adversary, State};
use crate::kernel::csr::{EXTERNAL, SOFTWARE};
use crate::kernel::trap::MAX_HARTS;

/// Whether a hart sleeps for ever, which one in a boot may.
static ASLEEP: AtomicBool = AtomicBool::new(false);

fn wait() {
    // SAFETY: waits, and does nothing else.
    unsafe { asm!("wfi", options(nomem, nostack)) };
}

/// Waits for an interrupt, with some enabled; and once with none.
pub fn waits(me: &mut Adversary) {
    if me.chance.one_in(64)
        && !me.is_boot_hart()
        && me.machine.harts.len() > 2
        && !ASLEEP.swap(true, Relaxed)
    {
        csr_write!("sie", 0);
        me.leave(State::Out);
        wait();
        me.come_back();
        return;
    }
    csr_write!("sie", me.chance.any() as usize & (SOFTWARE | EXTERNAL));
    wake_soon(me);
    wait();
}

/// Page tables, one for each hart.
#[repr(C, align(4096))]
struct Root([u64; 512]);

static mut ROOTS: [Root; MAX_HARTS] = [const { Root([0; 512]) }; MAX_HARTS];

/// A load and a store by a page table where there is no memory.
pub fn foreign_tables(me: &mut Adversary) {
    const SV39: usize = 8 << 60;
    const VALID: u64 = 1;
    const LEAF: u64 = 0b1100_1111;
    const INDEX: usize = 200;
    const PAGE: usize = 4096;
    let roots = (&raw mut ROOTS).cast::<u64>();
    let page_number = |address: usize| (address >> 12 << 10) as u64;
    // SAFETY: this hart alone uses its table, and translation is off.
    let root = unsafe { roots.add(512 * me.index) };
    for gigabyte in 0..4 {
        // SAFETY: as above.
        unsafe {
            root.add(gigabyte)
                .write_volatile(page_number(gigabyte << 30) | LEAF)
        };
    }
    let table = me.places.nowhere(&mut me.chance) & !(PAGE - 1);
    let table = table & ((1 << 56) - 1);
    // SAFETY: as above.
    unsafe { root.add(INDEX).write_volatile(page_number(table) | VALID) };
    let satp = SV39 | root as usize >> 12;
    let address = (INDEX << 30) + 8 * me.chance.below(1 << 20);
    // SAFETY: the table maps the lower part of the address space to itself, the kernel included.
    unsafe { asm!("csrw satp, {}", "sfence.vma", in(reg) satp, options(nostack)) };
    match me.chance.one_in(2) {
        true => drop(load(address, 8)),
        false => store(address, 8, me.chance.any()),
    }
    // SAFETY: back to what was before.
    unsafe { asm!("csrw satp, zero", "sfence.vma", options(nostack)) };
}

/// A device or nothing, by atomics, floating point, vectors, cache blocks, and addresses that are not aligned.
pub fn odd_accesses(me: &mut Adversary) {
    let address = match me.chance.one_in(2) {
        true => me.places.register(&mut me.chance),
        false => me.places.nowhere(&mut me.chance),
    };
    let kind = me.chance.below(8);
    // SAFETY: no memory of Rust's is there. It traps or reaches a device, which keeps to the memory that it may have.
    unsafe {
        match kind {
            0 => {
                asm!("amoadd.d {}, {}, ({})", out(reg) _, in(reg) 1, in(reg) address, options(nostack))
            }
            1 => {
                asm!("amoswap.w {}, {}, ({})", out(reg) _, in(reg) 1, in(reg) address, options(nostack))
            }
            2 => {
                asm!("lr.d {0}, ({1})", "sc.d {0}, {0}, ({1})", out(reg) _, in(reg) address, options(nostack))
            }
            3 => asm!("fld ft0, 0({})", in(reg) address, out("ft0") _, options(nostack)),
            4 => asm!("fsd fs0, 0({})", in(reg) address, options(nostack)),
            // vsetivli zero, 8, e8, m1, ta, ma; vle8.v v0, (a0); vse8.v v0, (a0)
            5 => {
                asm!(".4byte 0xcc047057", ".4byte 0x02050007", ".4byte 0x02050027", in("a0") address, options(nostack))
            }
            // cbo.zero (a0); cbo.inval (a0)
            6 => {
                asm!(".4byte 0x0045200f", ".4byte 0x0005200f", in("a0") address, options(nostack))
            }
            _ => {
                let (width, aside) = (me.chance.of(&[2, 4, 8]), 1 + me.chance.below(7));
                match me.chance.one_in(2) {
                    true => drop(load(address + aside, width)),
                    false => store(address + aside, width, me.chance.any()),
                }
            }
        }
    }
}

/// Jumps to devices and to nothing. The trap's handler goes on where a return would.
pub fn fetches(me: &mut Adversary) {
    let address = match me.chance.one_in(2) {
        true => me.places.register(&mut me.chance),
        false => me.places.nowhere(&mut me.chance),
    };
    // SAFETY: nothing can be fetched there; as after any call, what a callee may change is not relied on.
    unsafe {
        asm!("jalr ra, 0({})", in(reg) address, out("ra") _, clobber_abi("C"), options(nostack));
    }
}

/// The code that is executed of random bits, a return behind it. Each hart has its own.
#[repr(C, align(16))]
struct Code([u32; 4]);

static mut CODE: [Code; MAX_HARTS] = [const { Code([0; 4]) }; MAX_HARTS];

/// Instructions of no or another's extension, and accesses to any CSR but those that this kernel lives by.
pub fn illegal(me: &mut Adversary) {
    const RETURN: u32 = 0x8067;
    const SYSTEM: u32 = 0x73;
    /// custom-0 to custom-3, and those reserved.
    const OTHERS: [u32; 7] = [0x0b, 0x2b, 0x5b, 0x7b, 0x6b, 0x77, 0x1f];
    /// stvec, sepc, satp; sstatus; seed is the firmware's to answer.
    const KEPT: [u32; 4] = [0x105, 0x141, 0x180, 0x100];
    /// t0, and t1 for the source.
    const REGISTERS: u32 = 5 << 7 | 6 << 15;
    let random = me.chance.any() as u32;
    let word = match me.chance.one_in(3) {
        true => random & 0xfff0_7000 | REGISTERS | me.chance.of(&OTHERS),
        false => {
            let csr = random >> 20;
            let function = me.chance.of(&[1, 2, 3]);
            if KEPT.contains(&csr) {
                return;
            }
            csr << 20 | function << 12 | REGISTERS | SYSTEM
        }
    };
    let codes = (&raw mut CODE).cast::<u32>();
    // SAFETY: the first word changes t0 or a CSR that nothing here relies on, or traps; the second returns. This hart alone
    // writes there.
    unsafe {
        let code = codes.add(4 * me.index);
        code.write_volatile(word);
        code.add(1).write_volatile(RETURN);
        asm!("fence.i", "jalr ra, 0({})", in(reg) code, out("ra") _, in("t1") me.chance.any(), clobber_abi("C"), options(nostack));
    }
}
