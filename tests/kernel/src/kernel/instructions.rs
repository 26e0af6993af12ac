//! Instructions that trap, and the state of a hart that supervisor software may rely on.

use core::arch::asm;

use super::csr::ILLEGAL_INSTRUCTION;
use super::machine::{Chip, Machine};
use super::report::Outcome;
use super::trap::{Exception, attempt};

tests! { TESTS:
    "csr-of-m-mode-is-illegal" => m_mode,
    "csr-that-is-none-is-illegal" => none,
    "csr-of-the-hypervisor-is-illegal" => hypervisor,
    "csr-of-aia-is-illegal-without" => aia,
    "csr-seed" => seed,
    "csr-seed-read-only-is-illegal" => seed_read_only,
}

/// Reads a CSR with the destination set before: an instruction that traps leaves it as it was.
macro_rules! probe {
    ($csr:literal) => {{
        const BEFORE: usize = 0x1234_5678_9abc_def0;
        let mut value = BEFORE;
        let result = attempt(|| {
            // SAFETY: reads a register, or traps and does nothing.
            unsafe { asm!(concat!("csrr {}, ", $csr), inout(reg) value, options(nomem, nostack)) };
        });
        let result = result.map(|()| value);
        check!(result.is_ok() || value == BEFORE, "CSR {} trapped and still changed the destination", $csr);
        result
    }};
}

fn illegal(csr: &str, result: Result<usize, Exception>) -> Outcome {
    match result {
        Err(Exception {
            cause: ILLEGAL_INSTRUCTION,
            value,
        }) => {
            // stval is zero or the instruction (Privileged Architecture, "Supervisor Trap Value Register").
            check!(
                value == 0 || value & 0x7f == 0x73,
                "stval after CSR {csr} is {value:#x}"
            );
            Ok(())
        }
        Err(other) => fail!("CSR {csr} traps with cause {}", other.cause),
        Ok(value) => fail!("CSR {csr} reads {value:#x}"),
    }
}

fn m_mode(_: &Machine) -> Outcome {
    illegal("mstatus", probe!("mstatus"))?;
    illegal("mhartid", probe!("mhartid"))?;
    illegal("pmpcfg0", probe!("pmpcfg0"))
}

/// Numbers that no specification gives to anything, in the standard space of S-mode.
fn none(_: &Machine) -> Outcome {
    illegal("0x1ff", probe!("0x1ff"))?;
    illegal("0x5bf", probe!("0x5bf"))
}

fn hypervisor(machine: &Machine) -> Outcome {
    if machine.has_extension("h") {
        skip!("the harts have the H extension");
    }
    illegal("hstatus", probe!("0x600"))?;
    illegal("hgatp", probe!("0x680"))?;
    illegal("vsstatus", probe!("0x200"))
}

/// What the tree does not list is not there, whatever the host has. siselect and its like are plain registers that a
/// hypervisor cannot take from a hart that has them; stopei needs an interrupt file.
fn aia(machine: &Machine) -> Outcome {
    if machine.has_extension("ssaia") {
        skip!("the harts have Ssaia");
    }
    if matches!(machine.chip, Chip::Aia(_)) {
        fail!("there is an AIA, and no Ssaia");
    }
    illegal("stopei", probe!("0x15c"))
}

/// The entropy source (RISC-V Cryptography Extensions Volume I, "The seed CSR"): bits 31 and 30 are its state, of which
/// ES16 alone comes with entropy; bits 29 to 24 are reserved.
fn seed(machine: &Machine) -> Outcome {
    const ES16: usize = 0b10;
    const DEAD: usize = 0b11;
    let read = || {
        let mut value: usize = 0;
        attempt(|| {
            // SAFETY: reads entropy, or traps.
            unsafe { asm!("csrrw {0}, 0x015, zero", inout(reg) value, options(nomem, nostack)) };
        })
        .map(|()| value)
    };
    if !machine.has_extension("zkr") {
        return illegal("seed", read());
    }
    let mut different = 0;
    let mut last = 0;
    for _ in 0..100 {
        let value = match read() {
            Ok(value) => value,
            // M-mode can keep the CSR to itself (mseccfg.SSEED).
            Err(exception) => return illegal("seed", Err(exception)),
        };
        check_eq!(value >> 32, 0, "the upper half of seed");
        check_eq!(value >> 24 & 0x3f, 0, "seed's reserved bits");
        let state = value >> 30;
        check!(state != DEAD, "the entropy source is dead");
        if state == ES16 {
            different += usize::from(value & 0xffff != last);
            last = value & 0xffff;
        } else {
            check_eq!(value & 0xffff, 0, "entropy in another state than ES16");
        }
    }
    check!(
        different > 50,
        "entropy repeats itself: {different} of 100 values are new"
    );
    Ok(())
}

/// A read that does not write is illegal, with or without Zkr.
fn seed_read_only(_: &Machine) -> Outcome {
    illegal("seed, read-only", probe!("0x015"))
}
