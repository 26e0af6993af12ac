//! The host's PLIC (RISC-V PLIC Specification 1.0.0, section 3).

use alloc::vec::Vec;

use hv_core::addr::HostPhysAddr;
use hv_core::plic::map;

use crate::hypervisor::mmio;

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
        self.write(u64::from(map::PRIORITY) + u64::from(source) * 4, 1);
        let enable = u64::from(map::ENABLE) + self.context(place) * u64::from(map::ENABLE_STRIDE);
        let word = enable + u64::from(source / 32) * 4;
        self.write(word, self.read(word) | 1 << (source % 32));
    }

    /// Lets all priorities through to the hart at `place`.
    pub fn enable_hart(&self, place: usize) {
        self.write(self.registers(place) + u64::from(map::THRESHOLD), 0);
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

    fn registers(&self, place: usize) -> u64 {
        u64::from(map::CONTEXT) + self.context(place) * u64::from(map::CONTEXT_STRIDE)
    }

    fn claim_register(&self, place: usize) -> u64 {
        self.registers(place) + u64::from(map::CLAIM)
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
