//! Entry into a guest, exit from it, and the hypervisor's own traps.

use core::arch::global_asm;

use super::{console, power};

/// A guest's registers while it does not run, as `guest_enter` and `guest_exit` below know them.
#[repr(C)]
#[derive(Debug)]
pub struct Context {
    /// x0 to x31. The place of x0 holds the hypervisor's stack pointer while the guest runs.
    pub registers: [u64; 32],
    /// The program counter.
    pub pc: u64,
}

impl Context {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            registers: [0; 32],
            pc: 0,
        }
    }
}

// `sstatus` and `hstatus` say that the next sret enters the guest. They are set once, and every trap from the guest leaves
// them so. Interrupts are disabled wherever the hypervisor itself runs, so that nothing comes in between.
global_asm!(
    r#"
    .pushsection .text.vector, "ax"
    .balign 4
    .globl guest_enter
guest_enter:
    addi sp, sp, -112
    sd ra, 0(sp)
    sd s0, 8(sp)
    sd s1, 16(sp)
    sd s2, 24(sp)
    sd s3, 32(sp)
    sd s4, 40(sp)
    sd s5, 48(sp)
    sd s6, 56(sp)
    sd s7, 64(sp)
    sd s8, 72(sp)
    sd s9, 80(sp)
    sd s10, 88(sp)
    sd s11, 96(sp)
    sd sp, 0(a0)
    csrw sscratch, a0
    lla t0, guest_exit
    csrw stvec, t0
    ld t0, 256(a0)
    csrw sepc, t0
    ld x1, 8(a0)
    ld x2, 16(a0)
    ld x3, 24(a0)
    ld x4, 32(a0)
    ld x5, 40(a0)
    ld x6, 48(a0)
    ld x7, 56(a0)
    ld x8, 64(a0)
    ld x9, 72(a0)
    ld x11, 88(a0)
    ld x12, 96(a0)
    ld x13, 104(a0)
    ld x14, 112(a0)
    ld x15, 120(a0)
    ld x16, 128(a0)
    ld x17, 136(a0)
    ld x18, 144(a0)
    ld x19, 152(a0)
    ld x20, 160(a0)
    ld x21, 168(a0)
    ld x22, 176(a0)
    ld x23, 184(a0)
    ld x24, 192(a0)
    ld x25, 200(a0)
    ld x26, 208(a0)
    ld x27, 216(a0)
    ld x28, 224(a0)
    ld x29, 232(a0)
    ld x30, 240(a0)
    ld x31, 248(a0)
    ld x10, 80(a0)
    sret

    .balign 4
guest_exit:
    csrrw a0, sscratch, a0
    sd x1, 8(a0)
    sd x2, 16(a0)
    sd x3, 24(a0)
    sd x4, 32(a0)
    sd x5, 40(a0)
    sd x6, 48(a0)
    sd x7, 56(a0)
    sd x8, 64(a0)
    sd x9, 72(a0)
    sd x11, 88(a0)
    sd x12, 96(a0)
    sd x13, 104(a0)
    sd x14, 112(a0)
    sd x15, 120(a0)
    sd x16, 128(a0)
    sd x17, 136(a0)
    sd x18, 144(a0)
    sd x19, 152(a0)
    sd x20, 160(a0)
    sd x21, 168(a0)
    sd x22, 176(a0)
    sd x23, 184(a0)
    sd x24, 192(a0)
    sd x25, 200(a0)
    sd x26, 208(a0)
    sd x27, 216(a0)
    sd x28, 224(a0)
    sd x29, 232(a0)
    sd x30, 240(a0)
    sd x31, 248(a0)
    csrr t0, sscratch
    sd t0, 80(a0)
    csrr t0, sepc
    sd t0, 256(a0)
    lla t0, own_trap
    csrw stvec, t0
    ld sp, 0(a0)
    ld ra, 0(sp)
    ld s0, 8(sp)
    ld s1, 16(sp)
    ld s2, 24(sp)
    ld s3, 32(sp)
    ld s4, 40(sp)
    ld s5, 48(sp)
    ld s6, 56(sp)
    ld s7, 64(sp)
    ld s8, 72(sp)
    ld s9, 80(sp)
    ld s10, 88(sp)
    ld s11, 96(sp)
    addi sp, sp, 112
    ret

    # A trap of the hypervisor's own.
    .balign 4
    .globl own_trap
own_trap:
    csrr a0, scause
    csrr a1, sepc
    csrr a2, stval
    tail {own_trap}

    # a0: an address of the guest's. Returns in a0 what the instruction read there, and in a1 all ones, or the cause of its
    # trap. A trap overwrites what tells where the guest was; the hypervisor's own trap vector is out of the way meanwhile.
    .macro GUEST_ACCESS name, instruction
    .globl \name
    .balign 4
\name:
    csrr t2, sstatus
    csrr t3, hstatus
    lla t0, 1f
    csrrw t1, stvec, t0
    li a1, -1
    \instruction
    j 2f
    .balign 4
1:  csrr a1, scause
2:  csrw stvec, t1
    csrw hstatus, t3
    csrw sstatus, t2
    mv a0, a2
    ret
    .endm

    .option push
    .option arch, +h
    GUEST_ACCESS guest_fetch_halfword, "hlvx.hu a2, (a0)"
    GUEST_ACCESS guest_load_byte, "hlv.bu a2, (a0)"
    .option pop
    .popsection
    "#,
    own_trap = sym own_trap_handler,
);

/// What an access to a guest's memory by the guest's own addresses returned.
#[repr(C)]
struct GuestAccess {
    value: u64,
    cause: u64,
}

/// An access to a guest's memory that traps.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// As `scause` has it.
    pub cause: u64,
}

impl GuestAccess {
    const fn result(self) -> Result<u64, Fault> {
        match self.cause {
            u64::MAX => Ok(self.value),
            cause => Err(Fault { cause }),
        }
    }
}

unsafe extern "C" {
    fn guest_enter(context: *mut Context);
    safe fn guest_fetch_halfword(address: u64) -> GuestAccess;
    safe fn guest_load_byte(address: u64) -> GuestAccess;
    safe fn own_trap();
}

/// Runs the guest until it traps into the hypervisor.
pub fn enter(context: &mut Context) {
    // SAFETY: the assembly above saves what the calling convention has it save, writes to the context alone and to the stack
    // below, and comes back. What the guest does meanwhile, it does behind the second stage.
    unsafe { guest_enter(context) };
}

/// Where the hypervisor's own traps go, for `stvec`.
pub fn own_trap_address() -> u64 {
    own_trap as *const () as u64
}

/// Reads two bytes at an address of the guest's, as an instruction fetch of the mode that the guest trapped in.
pub fn fetch_halfword(address: u64) -> Result<u16, Fault> {
    let [low, high, ..] = guest_fetch_halfword(address).result()?.to_le_bytes();
    Ok(u16::from_le_bytes([low, high]))
}

/// Reads a byte at an address of the guest's, as the mode that the guest trapped in would.
pub fn load_byte(address: u64) -> Result<u8, Fault> {
    let [byte, ..] = guest_load_byte(address).result()?.to_le_bytes();
    Ok(byte)
}

extern "C" fn own_trap_handler(cause: u64, pc: u64, value: u64) -> ! {
    console::emergency(format_args!(
        "trap in the hypervisor: cause {cause:#x} at {pc:#x}, stval {value:#x}"
    ));
    power::fail()
}
