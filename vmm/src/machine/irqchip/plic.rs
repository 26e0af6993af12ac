//! The PLIC of core, in userspace: devices and the guest change its state, and each change of a hart's external interrupt is
//! set at that hart's vCPU.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use hv_core::addr::GuestPhysAddr;
use hv_core::layout;
use hv_core::machine::InterruptController;
use hv_core::plic::{HartLines, Plic, map};
use hv_devices::bus::MmioDevice;
use hv_devices::interrupt::IrqLine;

use super::{Irqchip, Loss, Trigger};
use crate::Error;
use crate::kvm::InterruptPin;

/// Offset of the contexts' threshold and claim registers.
const CONTEXTS: u64 = map::CONTEXT as u64;

/// Bytes between the registers of one hart and the next, which has two contexts.
const PER_HART: u64 = map::CONTEXT_STRIDE as u64 * 2;

/// The chip of one machine.
#[derive(Clone)]
pub struct PlicChip(Arc<Shared>);

struct Shared {
    /// Its lock is also what keeps the changes of a hart's pin in the order in which they happened.
    plic: Mutex<Plic>,
    pins: Pins,
}

/// The harts' pins, by hart id.
struct Pins(Vec<InterruptPin>, Loss);

impl HartLines for &Pins {
    fn set_external(&mut self, hart: u32, asserted: bool) {
        let Some(pin) = self.0.get(hart as usize) else {
            return;
        };
        if let Err(errno) = pin.set(asserted) {
            let what = format_args!("hart {hart}'s external interrupt");
            self.1.report(what, errno);
        }
    }
}

impl PlicChip {
    /// A chip whose outputs are these harts' pins.
    pub fn new(pins: Vec<InterruptPin>) -> PlicChip {
        // As many as there are vCPUs, which KVM counts in 32 bits.
        let harts = u32::try_from(pins.len()).unwrap_or(u32::MAX);
        let plic = Mutex::new(Plic::new(harts, layout::PLIC_SOURCES));
        PlicChip(Arc::new(Shared {
            plic,
            pins: Pins(pins, Loss::default()),
        }))
    }
}

impl Shared {
    fn with<R>(&self, action: impl FnOnce(&mut Plic, &mut &Pins) -> R) -> R {
        // The chip's own operations leave its state whole whatever happens, so a poisoned lock means nothing here.
        let mut plic = self.plic.lock().unwrap_or_else(PoisonError::into_inner);
        action(&mut plic, &mut &self.pins)
    }
}

impl Irqchip for PlicChip {
    fn describe(&self) -> InterruptController {
        InterruptController::Plic {
            sources: layout::PLIC_SOURCES,
        }
    }

    fn line(&self, source: u32, _: Trigger) -> Result<Arc<dyn IrqLine>, Error> {
        Ok(Arc::new(Line {
            chip: self.0.clone(),
            source,
        }))
    }

    fn registers(&self) -> Option<(GuestPhysAddr, u64, Arc<dyn MmioDevice>)> {
        Some((layout::PLIC_BASE, layout::PLIC_SIZE, self.0.clone()))
    }
}

impl MmioDevice for Shared {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.with(|plic, pins| plic.read(offset, data, pins));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.with(|plic, pins| {
            plic.write(offset, data, pins);
            // KVM clears a hart's pending interrupts when the guest starts it (SBI HSM) or resumes from its suspension (SBI
            // SUSP), and does not notify userspace. A hart that starts sets its threshold, and a guest that resumes sets up
            // the whole chip anew: then the pins are put right.
            for hart in touched(offset, pins.0.len()).filter_map(|hart| u32::try_from(hart).ok()) {
                if plic.line(hart) {
                    pins.set_external(hart, true);
                }
            }
        });
    }
}

/// The harts whose pins a write at `offset` can change, of so many: all, unless it is to one hart's threshold or claim register.
fn touched(offset: u64, harts: usize) -> Range<u64> {
    match offset.checked_sub(CONTEXTS) {
        Some(offset) => offset / PER_HART..offset / PER_HART + 1,
        None => 0..harts as u64,
    }
}

struct Line {
    chip: Arc<Shared>,
    source: u32,
}

impl IrqLine for Line {
    fn set_level(&self, asserted: bool) {
        self.chip
            .with(|plic, pins| plic.set_source(self.source, asserted, pins));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hart_has_two_contexts_and_the_rest_is_everybodys() {
        for offset in [0, 4, 0x1000, 0x2000, CONTEXTS - 4] {
            assert_eq!(touched(offset, 3), 0..3, "{offset:#x}");
        }
        for hart in 0..3 {
            // Threshold and claim of M-mode and of S-mode.
            for register in [0, 4, 0x1000, 0x1004, 0x1ffc] {
                let offset = 0x20_0000 + 0x2000 * hart + register;
                assert_eq!(touched(offset, 3), hart..hart + 1, "{offset:#x}");
            }
        }
    }

    /// Registers of a chip without harts, as there is no vCPU here.
    #[test]
    fn its_registers_are_those_of_the_board() {
        let chip = PlicChip::new(Vec::new());
        let described = InterruptController::Plic {
            sources: layout::PLIC_SOURCES,
        };
        assert_eq!(chip.describe(), described);
        let (base, size, registers) = chip.registers().unwrap();
        assert_eq!((base, size), (layout::PLIC_BASE, layout::PLIC_SIZE));
        let word = |offset| {
            let mut data = [0xff; 4];
            registers.read(offset, &mut data);
            u32::from_le_bytes(data)
        };
        // Priority of source 10.
        registers.write(40, &7_u32.to_le_bytes());
        assert_eq!(word(40), 7);
        let line = chip.line(10, Trigger::Level).unwrap();
        for level in [true, false] {
            line.set_level(level);
            // Pending until it is claimed.
            assert_eq!(word(0x1000), 1 << 10, "{level}");
        }
        // Contexts of harts that do not exist.
        for offset in [CONTEXTS, CONTEXTS + PER_HART, layout::PLIC_SIZE - 4] {
            registers.write(offset, &u32::MAX.to_le_bytes());
            assert_eq!(word(offset), 0);
        }
    }
}
