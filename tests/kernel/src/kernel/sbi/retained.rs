//! What a hart that suspends itself with its state retained finds in its registers afterwards.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use sbi_spec::hsm::suspend_type::RETENTIVE;
use sbi_spec::hsm::{EID_HSM, HART_SUSPEND};

use super::{Answer, expect_success};
use crate::kernel::csr::{self, TIMER};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::{time, timer};

tests! { TESTS:
    "hsm-suspend-keeps-control-registers" => control,
    "hsm-suspend-keeps-floating-point" => float,
    "hsm-suspend-keeps-vectors" => vector,
}

/// Has `suspend` suspend this hart until its timer wakes it, once or more: a hart may come back for other reasons as well.
fn until_woken(mut suspend: impl FnMut() -> Outcome<Answer>) -> Outcome {
    csr_write!("sie", TIMER);
    timer::set(time::now() + time::ticks(2000));
    let mut result = Ok(());
    while result.is_ok() && !csr::pending(TIMER) {
        result = suspend().and_then(|answer| expect_success(answer, "suspending").map(drop));
    }
    csr_write!("sie", 0);
    timer::stop();
    result
}

/// Those of supervisor mode that can be written to without a consequence while interrupts are off and nothing traps.
fn control(_: &Machine) -> Outcome {
    let before = [
        csr_read!("sscratch"),
        csr_read!("stvec"),
        csr_read!("scounteren"),
        csr_read!("satp"),
    ];
    let result = until_woken(|| {
        csr_write!("sscratch", 0x1234_5678_9abc_def0);
        csr_write!("sepc", 0x8765_4320);
        csr_write!("scause", 9);
        csr_write!("stval", 0x0fed_cba9_8765_4321);
        let status = csr_read!("sstatus");
        let answer = super::call(EID_HSM, HART_SUSPEND, &[RETENTIVE as usize, 0, 0]);
        check_eq!(csr_read!("sscratch"), 0x1234_5678_9abc_def0, "sscratch");
        check_eq!(csr_read!("sepc"), 0x8765_4320, "sepc");
        check_eq!(csr_read!("scause"), 9, "scause");
        check_eq!(csr_read!("stval"), 0x0fed_cba9_8765_4321, "stval");
        check_eq!(csr_read!("sstatus"), status, "sstatus");
        check_eq!(csr_read!("sie"), TIMER, "sie");
        check_eq!(csr_read!("stvec"), before[1], "stvec");
        check_eq!(csr_read!("scounteren"), before[2], "scounteren");
        check_eq!(csr_read!("satp"), before[3], "satp");
        Ok(answer)
    });
    csr_write!("sscratch", before[0]);
    result
}

/// f0 to f31, and fcsr: a rounding mode and all flags.
fn float(_: &Machine) -> Outcome {
    const FCSR: usize = 2 << 5 | 0b1_1111;
    let before: [u64; 32] =
        core::array::from_fn(|number| 0x4009_21fb_5444_2d18 + ((number as u64) << 32));
    until_woken(|| {
        let mut after = [0_u64; 32];
        let mut fcsr = FCSR;
        let (error, value);
        // SAFETY: reads and writes the two arrays, and registers that the compiler is told of; the call changes a0 and a1 alone.
        unsafe {
            asm!(
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "fld f\\n, 8*\\n({before})",
                ".endr",
                "fscsr {fcsr}",
                "ecall",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "fsd f\\n, 8*\\n({after})",
                ".endr",
                "frcsr {fcsr}",
                "fscsr zero",
                before = in(reg) before.as_ptr(),
                after = in(reg) after.as_mut_ptr(),
                fcsr = inout(reg) fcsr,
                inout("a0") RETENTIVE as usize => error,
                inout("a1") 0_usize => value,
                in("a2") 0_usize,
                in("a6") HART_SUSPEND,
                in("a7") EID_HSM,
                out("f0") _, out("f1") _, out("f2") _, out("f3") _, out("f4") _, out("f5") _, out("f6") _, out("f7") _,
                out("f8") _, out("f9") _, out("f10") _, out("f11") _, out("f12") _, out("f13") _, out("f14") _, out("f15") _,
                out("f16") _, out("f17") _, out("f18") _, out("f19") _, out("f20") _, out("f21") _, out("f22") _, out("f23") _,
                out("f24") _, out("f25") _, out("f26") _, out("f27") _, out("f28") _, out("f29") _, out("f30") _, out("f31") _,
                options(nostack),
            );
        }
        for (number, (after, before)) in after.iter().zip(&before).enumerate() {
            check_eq!(*after, *before, "f{number}");
        }
        check_eq!(fcsr, FCSR, "fcsr");
        Ok(Answer { error, value })
    })
}

/// The largest length of a vector register here, bytes.
const MAX_VLENB: usize = 128;

/// v0 to v31, with a length, a type and a rounding mode that nobody begins with.
fn vector(machine: &Machine) -> Outcome {
    const VCSR: usize = 0b101;
    const LENGTH: usize = 3;
    const SEED: usize = 0x51;
    static FOUND: [AtomicU8; 32 * MAX_VLENB] = [const { AtomicU8::new(0) }; 32 * MAX_VLENB];
    const VECTOR_INITIAL: usize = 1 << 9;
    if !machine.has_extension("v") {
        // One that is there without being told of is not tested.
        return Ok(());
    }
    csr_set!("sstatus", VECTOR_INITIAL);
    let bytes = csr_read!("0xc22");
    check!(
        bytes <= MAX_VLENB,
        "vector registers of {bytes} bytes are more than this test has room for"
    );
    let result = until_woken(|| {
        let (error, value);
        let (expected_type, length, kind, vcsr, start): (usize, usize, usize, usize, usize);
        // SAFETY: writes the array, which is large enough, and vector registers, of which the compiler knows nothing; the call changes
        // a0 and a1 alone.
        unsafe {
            asm!(
                ".option push",
                ".option arch, +v",
                "vsetvli {t}, zero, e8, m1, ta, ma",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "addi {t}, {seed}, \\n",
                "vmv.v.x v\\n, {t}",
                ".endr",
                "vsetvli zero, {length}, e16, m2, tu, mu",
                "csrwi vcsr, 5",
                "csrr {expected}, vtype",
                "ecall",
                "csrr {start}, vstart",
                "csrr {vcsr}, vcsr",
                "csrr {length}, vl",
                "csrr {kind}, vtype",
                "csrwi vstart, 0",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "vs1r.v v\\n, ({to})",
                "add {to}, {to}, {bytes}",
                ".endr",
                ".option pop",
                t = out(reg) _,
                seed = in(reg) SEED,
                bytes = in(reg) bytes,
                to = inout(reg) FOUND.as_ptr() => _,
                length = inout(reg) LENGTH => length,
                expected = out(reg) expected_type,
                kind = out(reg) kind,
                vcsr = out(reg) vcsr,
                start = out(reg) start,
                inout("a0") RETENTIVE as usize => error,
                inout("a1") 0_usize => value,
                in("a2") 0_usize,
                in("a6") HART_SUSPEND,
                in("a7") EID_HSM,
                options(nostack),
            );
        }
        for (number, register) in FOUND.chunks_exact(bytes).take(32).enumerate() {
            for (at, byte) in register.iter().enumerate() {
                check_eq!(
                    usize::from(byte.load(Relaxed)),
                    SEED + number,
                    "byte {at} of v{number}"
                );
            }
        }
        check_eq!(length, LENGTH, "vl");
        check_eq!(kind, expected_type, "vtype");
        check_eq!(vcsr, VCSR, "vcsr");
        check_eq!(start, 0, "vstart");
        Ok(Answer { error, value })
    });
    csr_clear!("sstatus", 3 << 9);
    result
}
