//! The host's interrupt chip: each source is routed to one hart, which claims it and completes it after handling. On each
//! kind of chip, a claimed source causes no interrupt until it is completed, by whichever hart.

mod aplic;
mod imsic;
mod plic;

use hv_bare::host::{Host, Interrupts};

use aplic::Aplic;
use imsic::Imsic;
use plic::Plic;

/// The chip.
#[derive(Debug)]
pub enum Chip {
    /// A PLIC.
    Plic(Plic),
    /// An APLIC in direct delivery mode.
    AplicDirect(Aplic),
    /// An APLIC that sends messages, and the harts' IMSICs.
    AplicMessages(Aplic, Imsic),
}

impl Chip {
    /// The host's, with no source routed.
    pub fn new(host: &Host) -> Self {
        match &host.interrupts {
            Interrupts::Plic { base, contexts, .. } => {
                Self::Plic(Plic::new(*base, contexts.clone()))
            }
            Interrupts::AplicDirect { base, indices, .. } => {
                Self::AplicDirect(Aplic::direct(*base, indices.clone()))
            }
            Interrupts::AplicMessages {
                base,
                indices,
                identities,
                ..
            } => Self::AplicMessages(
                Aplic::messages(*base, indices.clone()),
                Imsic::new(*identities),
            ),
        }
    }

    /// Routes `source` to the hart at `place` among the host's, and lets it through.
    pub fn route(&self, source: u32, place: usize) {
        match self {
            Self::Plic(plic) => plic.route(source, place),
            Self::AplicDirect(aplic) | Self::AplicMessages(aplic, _) => aplic.route(source, place),
        }
    }

    /// Has the chip interrupt this hart, which is the one at `place`.
    pub fn enable_hart(&self, place: usize) {
        match self {
            Self::Plic(plic) => plic.enable_hart(place),
            Self::AplicDirect(aplic) => aplic.enable_hart(place),
            Self::AplicMessages(_, imsic) => imsic.enable_hart(),
        }
    }

    /// Claims the first of the sources that interrupt this hart, which is the one at `place`.
    pub fn claim(&self, place: usize) -> Option<u32> {
        match self {
            Self::Plic(plic) => plic.claim(place),
            Self::AplicDirect(aplic) => aplic.claim(place),
            Self::AplicMessages(_, imsic) => imsic.claim(),
        }
    }

    /// Completes `source`, which the hart at `place` claimed: if its IRQ line is still high, it interrupts again.
    pub fn complete(&self, source: u32, place: usize) {
        match self {
            Self::Plic(plic) => plic.complete(source, place),
            Self::AplicDirect(aplic) => aplic.enable(source),
            Self::AplicMessages(aplic, _) => aplic.raise_if_high(source),
        }
    }
}
