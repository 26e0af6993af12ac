//! Whether memory stays as this guest wrote it, whatever others do meanwhile.

use super::machine::Machine;
use super::report::Outcome;
use super::{mmio, smp, time};

tests! { TESTS:
    "pattern-holds" => holds,
}

/// The part of RAM that is used: not the beginning, where the kernel is, and not the end, where its device tree is.
const MARGIN: usize = 32 << 20;

/// From one word to the next, bytes: every page is seen.
const STRIDE: usize = 1024;

fn word(address: usize, round: u64) -> u64 {
    (address as u64 ^ round << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes it and reads it again, over and over, on all harts, each in its own part.
fn holds(machine: &Machine) -> Outcome {
    let seconds = machine
        .argument("pattern")
        .and_then(|text| text.parse().ok());
    let Some(seconds) = seconds else {
        fail!("pattern= is to be a number of seconds");
    };
    let end = time::now().saturating_add(time::ticks(1_000_000_u64.saturating_mul(seconds)));
    let (first, last) = (machine.ram_start + MARGIN, machine.ram_end - MARGIN);
    check!(first < last, "there is too little RAM");
    let part = (last - first) / machine.harts.len() / STRIDE * STRIDE;
    println!("# the pattern is verified from now on");
    // One hart alone would see a time at which another is not done.
    smp::everywhere(machine, &|index| {
        let start = first + index * part;
        let words = || (start..start + part).step_by(STRIDE);
        let mut round = 0;
        while time::now() < end {
            round += 1;
            for address in words() {
                mmio::write64(address, word(address, round));
            }
            for address in words() {
                check_eq!(
                    mmio::read64(address),
                    word(address, round),
                    "the memory at {address:#x} in round {round}"
                );
            }
        }
        Ok(())
    })
}
