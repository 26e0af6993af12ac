//! Traps: exceptions that a test provokes, and interrupts that it waits for.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::csr::{
    self, EXTERNAL, INSTRUCTION_ACCESS_FAULT, INSTRUCTION_PAGE_FAULT, SOFTWARE, SSTATUS_FS_INITIAL,
    SSTATUS_SIE, TIMER,
};
use super::external::Claim;
use super::{mmio, timer};

/// The most harts that are used.
pub const MAX_HARTS: usize = 8;

/// What a hart's trap handler knows and counts. Its address is in the hart's `tp`.
pub struct Hart {
    id: AtomicUsize,
    /// An exception is expected, and the instruction is to be passed over.
    expecting: AtomicBool,
    trapped: AtomicBool,
    cause: AtomicUsize,
    value: AtomicUsize,
    /// Interrupts taken.
    pub software: AtomicU32,
    pub timer: AtomicU32,
    pub external: AtomicU32,
    /// The identity of the last external interrupt.
    pub identity: AtomicU32,
    /// The PLIC's claim register of this hart, or 0 if it has an IMSIC.
    claim: AtomicUsize,
}

static HARTS: [Hart; MAX_HARTS] = [const { Hart::new() }; MAX_HARTS];

/// An exception that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `scause`.
    pub cause: usize,
    /// `stval`.
    pub value: usize,
}

impl Hart {
    const fn new() -> Self {
        Self {
            id: AtomicUsize::new(0),
            expecting: AtomicBool::new(false),
            trapped: AtomicBool::new(false),
            cause: AtomicUsize::new(0),
            value: AtomicUsize::new(0),
            software: AtomicU32::new(0),
            timer: AtomicU32::new(0),
            external: AtomicU32::new(0),
            identity: AtomicU32::new(0),
            claim: AtomicUsize::new(0),
        }
    }

    /// The hart id.
    pub fn id(&self) -> usize {
        self.id.load(Relaxed)
    }

    /// Says how external interrupts are claimed on this hart.
    pub fn set_claim(&self, claim: Claim) {
        let register = match claim {
            Claim::Register(address) => address,
            Claim::Stopei => 0,
        };
        self.claim.store(register, Relaxed);
    }
}

global_asm!(
    ".pushsection .text.trap, \"ax\"",
    ".balign 4",
    ".globl trap_entry",
    "trap_entry:",
    "    addi sp, sp, -128",
    "    sd ra, 0(sp)",
    "    sd t0, 8(sp)",
    "    sd t1, 16(sp)",
    "    sd t2, 24(sp)",
    "    sd t3, 32(sp)",
    "    sd t4, 40(sp)",
    "    sd t5, 48(sp)",
    "    sd t6, 56(sp)",
    "    sd a0, 64(sp)",
    "    sd a1, 72(sp)",
    "    sd a2, 80(sp)",
    "    sd a3, 88(sp)",
    "    sd a4, 96(sp)",
    "    sd a5, 104(sp)",
    "    sd a6, 112(sp)",
    "    sd a7, 120(sp)",
    "    mv a0, sp",
    "    call {handle}",
    "    ld ra, 0(sp)",
    "    ld t0, 8(sp)",
    "    ld t1, 16(sp)",
    "    ld t2, 24(sp)",
    "    ld t3, 32(sp)",
    "    ld t4, 40(sp)",
    "    ld t5, 48(sp)",
    "    ld t6, 56(sp)",
    "    ld a0, 64(sp)",
    "    ld a1, 72(sp)",
    "    ld a2, 80(sp)",
    "    ld a3, 88(sp)",
    "    ld a4, 96(sp)",
    "    ld a5, 104(sp)",
    "    ld a6, 112(sp)",
    "    ld a7, 120(sp)",
    "    addi sp, sp, 128",
    "    sret",
    ".popsection",
    handle = sym handle,
);

unsafe extern "C" {
    safe fn trap_entry();
}

/// Makes this the hart with this index and id, with traps handled and all interrupts disabled.
pub fn enter(index: usize, id: usize) -> &'static Hart {
    let hart = &HARTS[index];
    hart.id.store(id, Relaxed);
    hart.expecting.store(false, Relaxed);
    // SAFETY: nothing else uses tp, which Rust leaves to the system.
    unsafe { asm!("mv tp, {}", in(reg) hart, options(nostack)) };
    csr_clear!("sstatus", SSTATUS_SIE);
    csr_set!("sstatus", SSTATUS_FS_INITIAL);
    csr_write!("sie", 0);
    csr_write!("stvec", trap_entry as *const () as usize);
    hart
}

/// The hart that this runs on.
pub fn this_hart() -> &'static Hart {
    let hart: *const Hart;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, tp", out(reg) hart, options(nomem, nostack, preserves_flags)) };
    // SAFETY: `enter` put the address of a static there before anything else ran.
    unsafe { &*hart }
}

/// The hart with this index.
pub fn hart(index: usize) -> &'static Hart {
    &HARTS[index]
}

/// Whether exceptions that nobody expects are passed over, on all harts, and each interrupt is taken once.
static TOLERANT: AtomicBool = AtomicBool::new(false);

/// From now on nothing is unexpected: an exception's instruction is passed over, or the jump that led to it, and an interrupt
/// disables itself.
pub fn tolerate() {
    TOLERANT.store(true, Relaxed);
}

/// Ends whatever a test has left on this hart: no interrupt is enabled, and none of those that can be taken back is pending.
pub fn quiet() {
    csr_clear!("sstatus", SSTATUS_SIE);
    csr_write!("sie", 0);
    csr_clear!("sip", SOFTWARE);
    timer::stop();
}

/// Runs `action`, in which at most one instruction traps; that instruction is then passed over.
pub fn attempt<R>(action: impl FnOnce() -> R) -> Result<R, Exception> {
    let hart = this_hart();
    hart.trapped.store(false, Relaxed);
    hart.expecting.store(true, Relaxed);
    let result = action();
    hart.expecting.store(false, Relaxed);
    if hart.trapped.load(Relaxed) {
        Err(Exception {
            cause: hart.cause.load(Relaxed),
            value: hart.value.load(Relaxed),
        })
    } else {
        Ok(result)
    }
}

extern "C" fn handle(frame: &[usize; 16]) {
    const INTERRUPT: usize = 1 << (usize::BITS - 1);
    let cause = csr_read!("scause");
    let hart = this_hart();
    let tolerant = TOLERANT.load(Relaxed);
    if cause & INTERRUPT == 0 {
        match tolerant {
            true => pass_over(frame, cause),
            false => exception(hart, cause),
        }
        return;
    }
    let interrupt = 1_usize.checked_shl(u32::from(cause.to_le_bytes()[0]));
    if let (true, Some(interrupt)) = (tolerant, interrupt) {
        csr_clear!("sie", interrupt);
    }
    match interrupt {
        Some(SOFTWARE) => {
            csr_clear!("sip", SOFTWARE);
            hart.software.fetch_add(1, Relaxed);
        }
        Some(TIMER) => {
            timer::stop();
            hart.timer.fetch_add(1, Relaxed);
        }
        Some(EXTERNAL) => external(hart),
        _ if tolerant => {}
        _ => unexpected(cause),
    }
}

/// Goes on behind the instruction that trapped, or, if it could not be fetched, where the call that led there returns to.
fn pass_over(frame: &[usize; 16], cause: usize) {
    match (cause, frame) {
        (INSTRUCTION_ACCESS_FAULT | INSTRUCTION_PAGE_FAULT, [return_address, ..]) => {
            csr_write!("sepc", *return_address);
        }
        _ => skip_instruction(),
    }
}

/// Claims the interrupt, and leaves everything else to the test. Until that has completed it, a PLIC does not send it
/// again, nor does an IMSIC without a new message.
fn external(hart: &Hart) {
    let identity = match hart.claim.load(Relaxed) {
        0 => csr::claim_top(),
        register => mmio::read32(register),
    };
    hart.identity.store(identity, Relaxed);
    hart.external.fetch_add(1, Relaxed);
    if identity == 0 {
        // Nothing was claimed, and it would come again for ever.
        csr_clear!("sie", EXTERNAL);
    }
}

fn exception(hart: &Hart, cause: usize) {
    if !hart.expecting.load(Relaxed) {
        unexpected(cause);
    }
    hart.cause.store(cause, Relaxed);
    hart.value.store(csr_read!("stval"), Relaxed);
    hart.trapped.store(true, Relaxed);
    hart.expecting.store(false, Relaxed);
    skip_instruction();
}

fn skip_instruction() {
    let pc = csr_read!("sepc");
    // SAFETY: an instruction of the kernel's own was about to be executed there.
    let low = unsafe { (pc as *const u8).read() };
    let length = if low & 0b11 == 0b11 { 4 } else { 2 };
    csr_write!("sepc", pc.wrapping_add(length));
}

fn unexpected(cause: usize) -> ! {
    let (pc, value) = (csr_read!("sepc"), csr_read!("stval"));
    panic!(
        "hart {} trapped at {pc:#x}: cause {cause:#x}, value {value:#x}",
        this_hart().id()
    )
}
