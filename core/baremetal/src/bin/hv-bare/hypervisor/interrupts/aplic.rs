//! The supervisor domain of the host's APLIC (RISC-V AIA specification 1.0, chapter 4).

use alloc::vec::Vec;

use hv_core::addr::HostPhysAddr;

use crate::hypervisor::mmio;

/// Offsets of registers (section 4.5).
mod register {
    pub const DOMAINCFG: u64 = 0x0000;
    /// Of source 0, which does not exist.
    pub const SOURCECFG: u64 = 0x0000;
    pub const SETIPNUM: u64 = 0x1cdc;
    /// Reads the IRQ lines of sources 0 to 31, rectified by the source modes.
    pub const IN_CLRIP: u64 = 0x1d00;
    pub const SETIENUM: u64 = 0x1edc;
    pub const CLRIENUM: u64 = 0x1fdc;
    /// Of source 0, which does not exist.
    pub const TARGET: u64 = 0x3000;
    /// Of the first hart's interrupt delivery control.
    pub const IDC: u64 = 0x4000;
    pub const IDC_STRIDE: u64 = 32;
    pub const IDELIVERY: u64 = 0x00;
    pub const ITHRESHOLD: u64 = 0x08;
    pub const CLAIMI: u64 = 0x1c;
}

/// `domaincfg`: interrupts are enabled.
const DOMAIN_ENABLE: u32 = 1 << 8;
/// `domaincfg`: by messages.
const DOMAIN_MESSAGES: u32 = 1 << 2;
/// `sourcecfg`: level-sensitive, active high.
const LEVEL_HIGH: u32 = 6;
/// `target`: from the number of a hart to its bits.
const HART_SHIFT: u32 = 18;
/// `target`, direct delivery: the highest priority.
const PRIORITY: u32 = 1;
/// `claimi`: from the source's bits to its number.
const SOURCE_SHIFT: u32 = 16;

/// The chip's supervisor domain.
#[derive(Debug)]
pub struct Aplic {
    base: HostPhysAddr,
    /// The index of each hart in the domain.
    indices: Vec<u32>,
    messages: bool,
}

impl Aplic {
    /// The domain at `base`, which is to interrupt the harts itself.
    pub fn direct(base: HostPhysAddr, indices: Vec<u32>) -> Self {
        let aplic = Self {
            base,
            indices,
            messages: false,
        };
        aplic.write(register::DOMAINCFG, DOMAIN_ENABLE);
        aplic
    }

    /// The domain at `base`, which is to send messages to where the machine level has it set up to.
    pub fn messages(base: HostPhysAddr, indices: Vec<u32>) -> Self {
        let aplic = Self {
            base,
            indices,
            messages: true,
        };
        aplic.write(register::DOMAINCFG, DOMAIN_ENABLE | DOMAIN_MESSAGES);
        aplic
    }

    /// Lets `source` through to the hart at `place`; as a message, its identity is the source's number.
    pub fn route(&self, source: u32, place: usize) {
        let number = u64::from(source) * 4;
        self.write(register::SOURCECFG + number, LEVEL_HIGH);
        let what = if self.messages { source } else { PRIORITY };
        let target = self.index(place) << HART_SHIFT | what;
        self.write(register::TARGET + number, target);
        self.write(register::SETIENUM, source);
    }

    /// Lets all priorities through to the hart at `place`, in direct delivery.
    pub fn enable_hart(&self, place: usize) {
        let control = self.control(place);
        self.write(control + register::ITHRESHOLD, 0);
        self.write(control + register::IDELIVERY, 1);
    }

    /// Claims for the hart at `place`, in direct delivery. The IRQ line stays high, so the source has to be disabled.
    pub fn claim(&self, place: usize) -> Option<u32> {
        loop {
            let source = self.read(self.control(place) + register::CLAIMI) >> SOURCE_SHIFT;
            if source == 0 {
                return None;
            }
            // QEMU keeps a level pending that is high when it is claimed, and forgets to let go of it when it falls.
            if self.is_high(source) {
                self.write(register::CLRIENUM, source);
                return Some(source);
            }
        }
    }

    fn is_high(&self, source: u32) -> bool {
        let word = self.read(register::IN_CLRIP + u64::from(source / 32) * 4);
        word >> (source % 32) & 1 == 1
    }

    /// Lets `source` through again.
    pub fn enable(&self, source: u32) {
        self.write(register::SETIENUM, source);
    }

    /// Sends a message for `source` if its IRQ line is high: a level makes only one by itself (section 4.7).
    pub fn raise_if_high(&self, source: u32) {
        self.write(register::SETIPNUM, source);
    }

    fn index(&self, place: usize) -> u32 {
        self.indices.get(place).copied().unwrap_or(0)
    }

    fn control(&self, place: usize) -> u64 {
        register::IDC + u64::from(self.index(place)) * register::IDC_STRIDE
    }

    fn read(&self, offset: u64) -> u32 {
        // SAFETY: the host's device tree says that an APLIC is there; the hypervisor alone uses it.
        unsafe { mmio::read32(HostPhysAddr(self.base.0 + offset)) }
    }

    fn write(&self, offset: u64, value: u32) {
        // SAFETY: as in `read`.
        unsafe { mmio::write32(HostPhysAddr(self.base.0 + offset), value) };
    }
}
