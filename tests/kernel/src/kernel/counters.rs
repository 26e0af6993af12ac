//! The counters that programs in U-mode read. Firmware starts harts with `cycle`, `time` and `instret` allowed to them in
//! `scounteren`, and systems rely on it: the vDSO of Linux reads `time`.

use core::arch::asm;

use super::machine::Machine;
use super::report::Outcome;
use super::{smp, time};

tests! { TESTS:
    "counters-time-in-user-mode" => time_register,
    "counters-cycle-in-user-mode" => cycle,
    "counters-instret-in-user-mode" => instret,
}

/// `scause` of an environment call from U-mode.
const USER_CALL: usize = 8;

/// Reads a CSR in U-mode: its value, or the cause of the exception.
macro_rules! user_read {
    ($csr:literal) => {{
        /// `sstatus.SPP` and `sstatus.SPIE`.
        const FROM_SUPERVISOR: usize = 1 << 8 | 1 << 5;
        let (value, cause): (usize, usize);
        // SAFETY: no memory is touched, in either mode. Interrupts are off in S-mode and none is enabled for U-mode, whose
        // instructions are these two; both ways out of it lead to the end of the block, where stvec is as it was.
        unsafe {
            asm!(
                "csrr {old}, stvec",
                "la {address}, 3f",
                "csrw stvec, {address}",
                "la {address}, 2f",
                "csrw sepc, {address}",
                "csrc sstatus, {from}",
                "sret",
                "2:",
                concat!("csrr {value}, ", $csr),
                "ecall",
                ".balign 4",
                "3:",
                "csrw stvec, {old}",
                "csrr {cause}, scause",
                old = out(reg) _,
                address = out(reg) _,
                from = in(reg) FROM_SUPERVISOR,
                value = out(reg) value,
                cause = out(reg) cause,
                options(nostack),
            );
        }
        if cause == USER_CALL { Ok(value) } else { Err(cause) }
    }};
}

/// Has every hart do this, one after the other.
fn on_each(machine: &Machine, work: &(dyn Fn(usize) -> Outcome + Sync)) -> Outcome {
    work(0)?;
    for index in 1..machine.harts.len() {
        smp::beside(machine, index, work, || Ok(()))?;
    }
    Ok(())
}

/// A hypervisor may need a moment to set a hart up that was started, so a trap has time to become right.
fn time_register(machine: &Machine) -> Outcome {
    on_each(machine, &|index| {
        let id = machine.harts[index];
        let mut read = Err(0);
        let before = time::now();
        let allowed = time::wait_for(|| {
            read = user_read!("time");
            read.is_ok()
        });
        let after = time::now();
        check!(allowed, "it traps on hart {id}: {read:?}");
        let user = read.unwrap_or(0) as u64;
        check!(
            before <= user && user <= after,
            "hart {id} reads {user} in U-mode between {before} and {after} in S-mode"
        );
        let again = user_read!("time");
        check!(again.is_ok(), "it traps later on hart {id}: {again:?}");
        Ok(())
    })
}

fn cycle(machine: &Machine) -> Outcome {
    runs_forward(machine, || user_read!("cycle"))
}

fn instret(machine: &Machine) -> Outcome {
    runs_forward(machine, || user_read!("instret"))
}

/// A counter never runs backwards. It may stand still: where it is not implemented it reads zero.
fn runs_forward(machine: &Machine, read: fn() -> Result<usize, usize>) -> Outcome {
    on_each(machine, &|index| {
        let id = machine.harts[index];
        match (read(), read()) {
            (Ok(first), Ok(second)) => {
                check!(first <= second, "hart {id} reads {first} and then {second}");
                Ok(())
            }
            trapped => fail!("it traps on hart {id}: {trapped:?}"),
        }
    })
}
