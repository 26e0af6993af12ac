//! The host's PLIC (RISC-V PLIC Specification 1.0.0, section 3).

use alloc::vec::Vec;

use hv_core::addr::HostPhysAddr;

use crate::hypervisor::mmio;

/// Bytes from the base to the enable bits, and of those of one context.
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
/// Bytes from the base to the contexts' registers, and of those of one context.
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;
/// Bytes from a context's threshold to its claim register.
const CLAIM: u64 = 4;

/// The chip.
#[derive(Debug)]
pub struct Plic {
    base: HostPhysAddr,
    /// The context of each hart's S-mode.
    contexts: Vec<u32>,
}

impl Plic {
    /// The chip at `base`.
    pub fn new(base: HostPhysAddr, contexts: Vec<u32>) -> Self {
        Self { base, contexts }
    }

    /// Enables `source` for the hart at `place` with the lowest priority there is.
    pub fn route(&self, source: u32, place: usize) {
        self.write(u64::from(source) * 4, 1);
        let word = ENABLE + self.context(place) * ENABLE_STRIDE + u64::from(source / 32) * 4;
        self.write(word, self.read(word) | 1 << (source % 32));
    }

    /// Lets all priorities through to the hart at `place`.
    pub fn enable_hart(&self, place: usize) {
        self.write(CONTEXT + self.context(place) * CONTEXT_STRIDE, 0);
    }

    /// Claims for the hart at `place`.
    pub fn claim(&self, place: usize) -> Option<u32> {
        let source = self.read(self.claim_register(place));
        (source != 0).then_some(source)
    }

    /// Completes what the hart at `place` claimed.
    pub fn complete(&self, source: u32, place: usize) {
        self.write(self.claim_register(place), source);
    }

    fn context(&self, place: usize) -> u64 {
        self.contexts.get(place).copied().unwrap_or(0).into()
    }

    fn claim_register(&self, place: usize) -> u64 {
        CONTEXT + self.context(place) * CONTEXT_STRIDE + CLAIM
    }

    fn read(&self, offset: u64) -> u32 {
        // SAFETY: the host's device tree says that a PLIC is there; the hypervisor alone uses it.
        unsafe { mmio::read32(HostPhysAddr(self.base.0 + offset)) }
    }

    fn write(&self, offset: u64, value: u32) {
        // SAFETY: as in `read`.
        unsafe { mmio::write32(HostPhysAddr(self.base.0 + offset), value) };
    }
}
