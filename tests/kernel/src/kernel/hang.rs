//! A guest that does nothing any more.

use super::machine::Machine;
use super::smp;

/// Every hart spins with all interrupts disabled.
pub fn for_ever(machine: &Machine) -> ! {
    println!("hangs");
    let _ = smp::everywhere(machine, &|_| {
        loop {
            // As a guest that went wrong does: without a word to the hypervisor.
            // SAFETY: does nothing.
            unsafe { core::arch::asm!("nop", options(nomem, nostack)) };
        }
    });
    panic!("a hart does not hang")
}
