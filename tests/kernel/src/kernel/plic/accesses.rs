//! Registers, and accesses that are odd and still made by guests.

use crate::kernel::csr::{self, EXTERNAL, LOAD_ACCESS_FAULT, STORE_ACCESS_FAULT};
use crate::kernel::machine::{Machine, PlicNode};
use crate::kernel::mmio;
use crate::kernel::report::Outcome;
use crate::kernel::time;
use crate::kernel::trap::attempt;
use crate::kernel::uart::Loopback;

use super::{
    Context, ENABLE, ENABLE_STRIDE, PENDING, THRESHOLD, context_register, enable_word, is_pending,
    plic, priority_register,
};

tests! { TESTS:
    "plic-priorities" => priorities,
    "plic-enables" => enables,
    "plic-thresholds" => thresholds,
    "plic-source-0-is-none" => source_0,
    "plic-pending-is-read-only" => pending_read_only,
    "plic-m-contexts-are-apart" => machine_contexts,
    "plic-beyond-the-last-source" => beyond_sources,
    "plic-beyond-the-last-context" => beyond_contexts,
    "plic-every-enable-word-written" => enable_area,
    "plic-wide-and-narrow-accesses" => widths,
}

/// Whether a value that was written as all ones is a mask of low bits, as a priority field is (WARL).
fn is_field(value: u32) -> bool {
    value != 0 && value & value.wrapping_add(1) == 0
}

/// The most important thing after all of these: an interrupt still arrives.
fn still_works(machine: &Machine, plic: &PlicNode) -> Outcome {
    let context = Context::supervisor(plic, 0);
    let port = Loopback::new(machine);
    let source = machine.uart.source;
    context.set_priority(source, 1);
    context.enable(source);
    port.raise()?;
    let came = time::wait_for(|| csr::pending(EXTERNAL));
    let claimed = context.claim();
    port.lower();
    context.complete(claimed);
    context.set_priority(source, 0);
    check!(came, "no interrupt arrives any more");
    check_eq!(claimed, source, "the claim");
    Ok(())
}

fn priorities(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    for source in 1..=plic.sources {
        let register = priority_register(plic.base, source);
        mmio::write32(register, u32::MAX);
        let all = mmio::read32(register);
        mmio::write32(register, 1);
        let one = mmio::read32(register);
        mmio::write32(register, 0);
        check!(
            is_field(all),
            "the priority of source {source} takes {all:#x}"
        );
        check_eq!(one, 1, "the priority of source {source}");
    }
    Ok(())
}

fn enables(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    let context = Context::supervisor(plic, 0);
    for source in 1..=plic.sources {
        context.enable(source);
        let word = mmio::read32(context.enable_word(source as usize / 32));
        context.disable(source);
        check_eq!(
            word,
            1 << (source % 32),
            "the enable word of source {source}"
        );
    }
    Ok(())
}

fn thresholds(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    for index in 0..machine.harts.len() {
        let context = Context::supervisor(plic, index);
        context.set_threshold(u32::MAX);
        let all = mmio::read32(context.register(THRESHOLD));
        context.set_threshold(2);
        let two = mmio::read32(context.register(THRESHOLD));
        check!(is_field(all), "the threshold takes {all:#x}");
        check_eq!(two, 2, "the threshold");
    }
    Ok(())
}

/// Source 0 does not exist: its priority is reserved, its pending and enable bits are hardwired to zero.
fn source_0(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    let context = Context::supervisor(plic, 0);
    mmio::write32(priority_register(plic.base, 0), 7);
    context.enable(0);
    let (enabled, pending) = (
        mmio::read32(context.enable_word(0)),
        is_pending(plic.base, 0),
    );
    let claimed = context.claim();
    mmio::write32(priority_register(plic.base, 0), 0);
    check!(!pending, "source 0 is pending");
    check_eq!(claimed, 0, "the claim");
    check_eq!(enabled & 1, 0, "the enable bit of source 0");
    Ok(())
}

fn pending_read_only(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    let words = plic.sources as usize / 32 + 1;
    for word in 0..words {
        let register = plic.base + PENDING + 4 * word;
        let before = mmio::read32(register);
        mmio::write32(register, u32::MAX);
        check_eq!(
            mmio::read32(register),
            before,
            "pending word {word} after a write"
        );
    }
    still_works(machine, plic)
}

/// Guests' start-up code writes M-mode's contexts too. Nothing of it reaches S-mode.
fn machine_contexts(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    let source = machine.uart.source;
    for (index, contexts) in plic.contexts.iter().enumerate() {
        let Some(number) = contexts.machine else {
            skip!("hart {} has no M-mode context", machine.harts[index]);
        };
        let supervisor = Context::supervisor(plic, 0);
        supervisor.set_threshold(1);
        let context = Context::new(plic, number);
        let port = Loopback::new(machine);
        context.set_priority(source, 1);
        for word in 0..32 {
            mmio::write32(context.enable_word(word), u32::MAX);
        }
        context.set_threshold(0);
        port.raise()?;
        let comes = time::comes(|| csr::pending(EXTERNAL));
        let (enabled, threshold) = (
            mmio::read32(supervisor.enable_word(0)),
            mmio::read32(supervisor.register(THRESHOLD)),
        );
        let claimed = supervisor.claim();
        port.lower();
        drop(port);
        // The request, which nobody has claimed.
        let pending = context.claim();
        context.complete(pending);
        context.set_priority(source, 0);
        check!(!comes, "an M-mode context interrupts S-mode");
        check_eq!(enabled, 0, "S-mode's enable word");
        check_eq!(threshold, 1, "S-mode's threshold");
        check_eq!(claimed, 0, "S-mode's claim of what only M-mode has enabled");
    }
    still_works(machine, plic)
}

/// Linux writes the priorities and enables of sources that are not there.
fn beyond_sources(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    let context = Context::supervisor(plic, 0);
    for source in [plic.sources + 1, plic.sources + 2, 127, 128, 512, 1023] {
        let register = priority_register(plic.base, source);
        let _ = attempt(|| mmio::write32(register, 7));
        let read = attempt(|| mmio::read32(register)).unwrap_or(0);
        check_eq!(read, 0, "the priority of source {source}");
    }
    for word in plic.sources as usize / 32 + 1..32 {
        mmio::write32(context.enable_word(word), u32::MAX);
        check_eq!(
            mmio::read32(context.enable_word(word)),
            0,
            "enable word {word}"
        );
    }
    still_works(machine, plic)
}

fn beyond_contexts(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    let last = plic
        .contexts
        .iter()
        .map(|contexts| contexts.supervisor)
        .max()
        .unwrap_or(0);
    for number in [last + 1, last + 2, 64, 1000, 15871] {
        // What is not there may also fault.
        let enable = enable_word(plic.base, number, 0);
        let _ = attempt(|| mmio::write32(enable, u32::MAX));
        let enabled = attempt(|| mmio::read32(enable)).unwrap_or(0);
        check_eq!(enabled, 0, "the enable word of context {number}");
        for offset in [0, 4, 8, 0xffc] {
            let register = context_register(plic.base, number, offset);
            let _ = attempt(|| mmio::write32(register, 1));
            let value = attempt(|| mmio::read32(register)).unwrap_or(0);
            check_eq!(value, 0, "offset {offset:#x} of context {number}");
        }
    }
    still_works(machine, plic)
}

/// RT-Thread fills the whole area of the enable words, most of which belong to no context. Here every part of the area is
/// written, and not every word, which would take long.
fn enable_area(machine: &Machine) -> Outcome {
    const STEP: usize = 31 * ENABLE_STRIDE + 0x44;
    let plic = plic(machine)?;
    let first = plic.base + PENDING;
    let last = plic.base + ENABLE + 15871 * ENABLE_STRIDE;
    for address in (first..last).step_by(STEP).chain([last]) {
        mmio::write32(address & !3, u32::MAX);
    }
    // Those that do belong to a context are enabled now, and what they enable is at priority 0.
    check!(
        !time::comes(|| csr::pending(EXTERNAL)),
        "there is an interrupt"
    );
    for contexts in &plic.contexts {
        drop(Context::new(plic, contexts.supervisor));
        if let Some(number) = contexts.machine {
            drop(Context::new(plic, number));
        }
    }
    still_works(machine, plic)
}

/// The registers are for accesses of 32 bits; what others do is left open, except that the machine goes on.
fn widths(machine: &Machine) -> Outcome {
    let plic = plic(machine)?;
    let context = Context::supervisor(plic, 0);
    for base in [
        priority_register(plic.base, 2),
        plic.base + PENDING,
        context.enable_word(0),
        context.register(0),
        plic.base + 0x1f_f000,
    ] {
        let results = [
            attempt(|| mmio::write8(base, 0)),
            attempt(|| mmio::write8(base + 3, 0)),
            attempt(|| mmio::write16(base + 2, 0)),
            attempt(|| mmio::write64(base & !7, 0)),
            attempt(|| mmio::read8(base + 1)).map(|_| ()),
            attempt(|| mmio::read16(base)).map(|_| ()),
            attempt(|| mmio::read64(base & !7)).map(|_| ()),
        ];
        for result in results {
            if let Err(exception) = result {
                check!(
                    [LOAD_ACCESS_FAULT, STORE_ACCESS_FAULT].contains(&exception.cause),
                    "an access at {base:#x} traps with cause {}",
                    exception.cause
                );
            }
        }
    }
    still_works(machine, plic)
}
