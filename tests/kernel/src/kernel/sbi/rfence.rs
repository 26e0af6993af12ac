//! Remote fences.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use sbi_spec::rfnc::{
    EID_RFNC, REMOTE_FENCE_I, REMOTE_HFENCE_GVMA, REMOTE_HFENCE_GVMA_VMID, REMOTE_HFENCE_VVMA,
    REMOTE_HFENCE_VVMA_ASID, REMOTE_SFENCE_VMA, REMOTE_SFENCE_VMA_ASID,
};

use super::{ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, call, expect_error, expect_success};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::smp;
use crate::kernel::smp::Barrier;

tests! { TESTS:
    "rfence-fence-i" => fence_i,
    "rfence-sfence-vma" => sfence_vma,
    "rfence-of-running-harts" => running,
    "rfence-of-no-hart" => no_hart,
    "rfence-hfence-without-hypervisor" => hfence,
    "rfence-unknown-function" => unknown_function,
}

/// All harts.
const ALL: usize = usize::MAX;

fn fence_i(machine: &Machine) -> Outcome {
    expect_success(
        call(EID_RFNC, REMOTE_FENCE_I, &[0, ALL]),
        "remote_fence_i of all",
    )?;
    let one = call(EID_RFNC, REMOTE_FENCE_I, &[1, machine.harts[0]]);
    expect_success(one, "remote_fence_i of one")?;
    Ok(())
}

/// Ranges of every size, and all of the address space: start and size 0, or size -1.
fn sfence_vma(_: &Machine) -> Outcome {
    for (start, size) in [
        (0, 0),
        (0, usize::MAX),
        (0x8020_0000, 0x1000),
        (0x8020_0000, 0x4000_0000),
        (0x8020_0fff, 2),
    ] {
        let answer = call(EID_RFNC, REMOTE_SFENCE_VMA, &[0, ALL, start, size]);
        expect_success(answer, "remote_sfence_vma")?;
        let answer = call(EID_RFNC, REMOTE_SFENCE_VMA_ASID, &[0, ALL, start, size, 1]);
        expect_success(answer, "remote_sfence_vma_asid")?;
    }
    Ok(())
}

/// Harts that all fence one another come through.
fn running(machine: &Machine) -> Outcome {
    smp::several(machine)?;
    let barrier = Barrier::new(machine);
    smp::everywhere(machine, &|_| {
        barrier.wait()?;
        for _ in 0..2 {
            fence_i(machine)?;
            expect_success(
                call(EID_RFNC, REMOTE_SFENCE_VMA, &[0, ALL, 0, 0]),
                "remote_sfence_vma",
            )?;
        }
        barrier.wait()
    })?;
    remote_code(machine)
}

/// What another hart wrote is executed after it has fenced this one. The code is `li a0, N; ret`.
fn remote_code(machine: &Machine) -> Outcome {
    #[repr(align(64))]
    struct Code([AtomicU32; 2]);
    const RET: u32 = 0x0000_8067;
    static CODE: Code = Code([AtomicU32::new(0), AtomicU32::new(RET)]);
    let li = |value: u32| value << 20 | 10 << 7 | 0x13;

    let barrier = Barrier::new(machine);
    smp::everywhere(machine, &|me| {
        for round in 1..5 {
            if me == 0 {
                CODE.0[0].store(li(round), Relaxed);
                expect_success(call(EID_RFNC, REMOTE_FENCE_I, &[0, ALL]), "remote_fence_i")?;
            }
            barrier.wait()?;
            // SAFETY: the code is a function of this type, and all harts have fenced it.
            let function = unsafe {
                core::mem::transmute::<*const Code, extern "C" fn() -> u32>(&raw const CODE)
            };
            check_eq!(function(), round, "what the code of another hart returns");
            barrier.wait()?;
        }
        Ok(())
    })
}

/// A hart that is not there is an invalid parameter ("Hart list parameter").
fn no_hart(_: &Machine) -> Outcome {
    for function in [REMOTE_FENCE_I, REMOTE_SFENCE_VMA, REMOTE_SFENCE_VMA_ASID] {
        let answer = call(EID_RFNC, function, &[1, 0x7fff, 0, 0, 0]);
        expect_error(
            answer,
            ERR_INVALID_PARAM,
            "a fence of a hart that is not there",
        )?;
    }
    Ok(())
}

/// Harts without the H extension have nothing that these could fence.
fn hfence(machine: &Machine) -> Outcome {
    if machine.has_extension("h") {
        skip!("the harts have the H extension");
    }
    for function in [
        REMOTE_HFENCE_GVMA_VMID,
        REMOTE_HFENCE_GVMA,
        REMOTE_HFENCE_VVMA_ASID,
        REMOTE_HFENCE_VVMA,
    ] {
        let answer = call(EID_RFNC, function, &[0, ALL, 0, 0, 0]);
        expect_error(answer, ERR_NOT_SUPPORTED, "a fence of a hypervisor's")?;
    }
    Ok(())
}

fn unknown_function(_: &Machine) -> Outcome {
    expect_error(
        call(EID_RFNC, 0x7fff, &[]),
        ERR_NOT_SUPPORTED,
        "function 0x7fff",
    )
}
