//! The platform-level interrupt controller (RISC-V Platform-Level Interrupt Controller Specification 1.0.0).

pub mod accesses;
pub mod claims;

use super::machine::{Chip, Machine, PlicNode};
use super::mmio;
use super::report::Outcome;

// Offsets (section 3).
const PRIORITY: usize = 0;
const PENDING: usize = 0x1000;
const ENABLE: usize = 0x2000;
const ENABLE_STRIDE: usize = 0x80;
const CONTEXT: usize = 0x20_0000;
const CONTEXT_STRIDE: usize = 0x1000;
const THRESHOLD: usize = 0;
const CLAIM: usize = 4;

/// The PLIC of a machine that has one.
fn plic(machine: &Machine) -> Outcome<&PlicNode> {
    match &machine.chip {
        Chip::Plic(plic) => Ok(plic),
        Chip::Aia(_) => skip!("the interrupt chip is an AIA"),
    }
}

/// The claim register of S-mode's context of the hart with this index.
pub fn claim_register(plic: &PlicNode, index: usize) -> usize {
    context_register(plic.base, plic.contexts[index].supervisor, CLAIM)
}

/// One context, with nothing enabled and threshold 0, and so again when this is dropped.
pub struct Context {
    base: usize,
    number: usize,
    words: usize,
}

impl Context {
    /// S-mode's of the hart with this index.
    pub fn supervisor(plic: &PlicNode, index: usize) -> Self {
        Self::new(plic, plic.contexts[index].supervisor)
    }

    fn new(plic: &PlicNode, number: usize) -> Self {
        let context = Self {
            base: plic.base,
            number,
            words: plic.sources as usize / 32 + 1,
        };
        context.clear();
        context
    }

    fn clear(&self) {
        for word in 0..self.words {
            mmio::write32(self.enable_word(word), 0);
        }
        self.set_threshold(0);
    }

    fn enable_word(&self, word: usize) -> usize {
        enable_word(self.base, self.number, word)
    }

    fn register(&self, offset: usize) -> usize {
        context_register(self.base, self.number, offset)
    }

    fn change_enable(&self, source: u32, change: impl FnOnce(u32, u32) -> u32) {
        let word = self.enable_word(source as usize / 32);
        mmio::write32(word, change(mmio::read32(word), 1 << (source % 32)));
    }

    pub fn enable(&self, source: u32) {
        self.change_enable(source, |word, bit| word | bit);
    }

    fn disable(&self, source: u32) {
        self.change_enable(source, |word, bit| word & !bit);
    }

    fn set_threshold(&self, threshold: u32) {
        mmio::write32(self.register(THRESHOLD), threshold);
    }

    /// The address from which a claim is loaded.
    pub fn claim_register(&self) -> usize {
        self.register(CLAIM)
    }

    pub fn claim(&self) -> u32 {
        mmio::read32(self.claim_register())
    }

    pub fn complete(&self, source: u32) {
        mmio::write32(self.claim_register(), source);
    }

    /// The priority belongs to the source, for all contexts.
    pub fn set_priority(&self, source: u32, priority: u32) {
        mmio::write32(priority_register(self.base, source), priority);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.clear();
    }
}

fn enable_word(base: usize, context: usize, word: usize) -> usize {
    base + ENABLE + context * ENABLE_STRIDE + 4 * word
}

fn context_register(base: usize, context: usize, offset: usize) -> usize {
    base + CONTEXT + context * CONTEXT_STRIDE + offset
}

fn priority_register(base: usize, source: u32) -> usize {
    base + PRIORITY + 4 * source as usize
}

fn pending_word(base: usize, source: u32) -> u32 {
    mmio::read32(base + PENDING + 4 * (source as usize / 32))
}

fn is_pending(base: usize, source: u32) -> bool {
    pending_word(base, source) >> (source % 32) & 1 != 0
}
