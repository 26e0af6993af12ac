//! Where harts enter.

use core::arch::global_asm;
use core::ops::Range;

use super::{run, smp};

/// Bytes of stack of each hart.
pub const STACK: usize = 32 * 1024;

// The boot hart enters with its id in a0 and the device tree's address in a1, interrupts disabled and translation off, as
// does a hart that SBI starts, with a1 as the starter gave it (SBI 3.0, "Function: Hart start").
global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    ".option push",
    ".option norelax",
    "    la gp, __global_pointer$",
    ".option pop",
    "    la t0, bss_start",
    "    la t1, bss_end",
    "1:  bgeu t0, t1, 2f",
    "    sd zero, 0(t0)",
    "    addi t0, t0, 8",
    "    j 1b",
    "2:  la sp, {stack}",
    "    li t0, {size}",
    "    add sp, sp, t0",
    "    mv ra, zero",
    "    tail {boot}",
    ".popsection",
    stack = sym BOOT_STACK,
    size = const STACK,
    boot = sym boot,
);

// a1 is a smp::Start, which begins with the stack.
global_asm!(
    ".pushsection .text.secondary, \"ax\"",
    ".globl secondary_start",
    "secondary_start:",
    ".option push",
    ".option norelax",
    "    la gp, __global_pointer$",
    ".option pop",
    "    ld sp, 0(a1)",
    "    mv ra, zero",
    "    tail {secondary}",
    ".popsection",
    secondary = sym smp::enter,
);

unsafe extern "C" {
    safe fn secondary_start();
}

/// Where this kernel is, with everything that it writes to.
pub fn image() -> Range<usize> {
    // SAFETY: the linker script has the second one, and the entry above is the first.
    unsafe extern "C" {
        static _start: u8;
        static bss_end: u8;
    }
    (&raw const _start) as usize..(&raw const bss_end) as usize
}

/// The address at which a hart is to be started.
pub fn secondary_entry() -> usize {
    secondary_start as *const () as usize
}

/// A hart's stack.
#[repr(C, align(16))]
pub struct Stack([u8; STACK]);

impl Stack {
    /// One that nothing is on.
    pub const fn new() -> Self {
        Self([0; STACK])
    }
}

static mut BOOT_STACK: Stack = Stack::new();

extern "C" fn boot(hart: usize, tree: *const u8) -> ! {
    run(hart, tree)
}
