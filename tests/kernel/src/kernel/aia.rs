//! The advanced interrupt architecture (RISC-V Advanced Interrupt Architecture 1.0): APLIC and IMSICs of the supervisor
//! level.

pub mod aplic;
pub mod imsic;
pub mod wires;

use super::machine::{AiaNode, Chip, Machine};
use super::report::Outcome;

/// The AIA of a machine that has one.
fn aia(machine: &Machine) -> Outcome<&AiaNode> {
    match &machine.chip {
        Chip::Aia(aia) => Ok(aia),
        Chip::Plic(_) => skip!("the interrupt chip is a PLIC"),
    }
}
