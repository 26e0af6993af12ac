//! Suspensions that keep no registers: the hart resumes at an address of its choice.

use core::arch::global_asm;

/// What comes of a call.
#[repr(C)]
pub struct Suspended {
    /// [`RESUMED`], or the error of a call that returned.
    pub result: isize,
    /// The hart id that the hart resumed with.
    pub hart: usize,
}

/// No error code: the hart resumed.
pub const RESUMED: isize = 0x5355_5350;

// suspend(extension, function, kind): has the hart resume below, with the stack's address in a1.
global_asm!(
    ".pushsection .text.resume, \"ax\"",
    "suspend_and_resume:",
    "    addi sp, sp, -112",
    "    sd ra, 0(sp)",
    "    sd tp, 8(sp)",
    "    sd s0, 16(sp)",
    "    sd s1, 24(sp)",
    "    sd s2, 32(sp)",
    "    sd s3, 40(sp)",
    "    sd s4, 48(sp)",
    "    sd s5, 56(sp)",
    "    sd s6, 64(sp)",
    "    sd s7, 72(sp)",
    "    sd s8, 80(sp)",
    "    sd s9, 88(sp)",
    "    sd s10, 96(sp)",
    "    sd s11, 104(sp)",
    "    mv a7, a0",
    "    mv a6, a1",
    "    mv a0, a2",
    "    la a1, 1f",
    "    mv a2, sp",
    "    ecall",
    "    j 2f",
    "    .balign 4",
    "1:  mv sp, a1",
    "    mv a1, a0",
    "    li a0, {resumed}",
    ".option push",
    ".option norelax",
    "    la gp, __global_pointer$",
    ".option pop",
    "2:  ld ra, 0(sp)",
    "    ld tp, 8(sp)",
    "    ld s0, 16(sp)",
    "    ld s1, 24(sp)",
    "    ld s2, 32(sp)",
    "    ld s3, 40(sp)",
    "    ld s4, 48(sp)",
    "    ld s5, 56(sp)",
    "    ld s6, 64(sp)",
    "    ld s7, 72(sp)",
    "    ld s8, 80(sp)",
    "    ld s9, 88(sp)",
    "    ld s10, 96(sp)",
    "    ld s11, 104(sp)",
    "    addi sp, sp, 112",
    "    ret",
    ".popsection",
    resumed = const RESUMED,
);

unsafe extern "C" {
    safe fn suspend_and_resume(extension: usize, function: usize, kind: usize) -> Suspended;
}

/// Suspends by this function of an extension, whose parameters are the kind of suspension, the address to resume at, and
/// what is then in a1.
pub fn suspend(extension: usize, function: usize, kind: usize) -> Suspended {
    suspend_and_resume(extension, function, kind)
}
