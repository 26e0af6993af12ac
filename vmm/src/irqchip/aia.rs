//! KVM's in-kernel AIA: an APLIC in MSI mode and one IMSIC for each hart. No interrupt passes through userspace but the
//! signal that raises it.

use std::sync::Arc;

use hv_core::addr::GuestPhysAddr;
use hv_core::layout;
use hv_core::machine::InterruptController;
use hv_devices::bus::MmioDevice;
use hv_devices::interrupt::IrqLine;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Irqchip, Trigger};
use crate::Error;
use crate::kvm::Vm;

/// The chip of one machine.
#[derive(Debug)]
pub struct Aia {
    vm: Arc<Vm>,
    ids: u32,
}

impl Aia {
    /// Gives the machine its chip. Harts 0 to `harts - 1` exist and have not run.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(vm: Arc<Vm>, harts: u32) -> Result<Aia, Error> {
        let ids = vm
            .create_aia(harts, layout::PLIC_SOURCES)
            .map_err(Error::kvm("make the guest's AIA"))?;
        Ok(Aia { vm, ids })
    }
}

impl Irqchip for Aia {
    fn describe(&self) -> InterruptController {
        InterruptController::Aia {
            sources: layout::PLIC_SOURCES,
            ids: self.ids,
        }
    }

    fn line(&self, source: u32, trigger: Trigger) -> Result<Arc<dyn IrqLine>, Error> {
        let wire = LevelLine {
            vm: self.vm.clone(),
            source,
        };
        match trigger {
            Trigger::Level => Ok(Arc::new(wire)),
            Trigger::Edge => {
                let event = EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?;
                self.vm
                    .inject_on_event(&event, source)
                    .map_err(Error::kvm("connect an interrupt to an eventfd"))?;
                Ok(Arc::new(EdgeLine { event, wire }))
            }
        }
    }

    fn registers(&self) -> Option<(GuestPhysAddr, u64, Arc<dyn MmioDevice>)> {
        None
    }
}

/// A wire whose level KVM keeps. Linux's APLIC driver asks for a level-triggered source again when its handler is done,
/// and KVM raises it once more while the level is high.
struct LevelLine {
    vm: Arc<Vm>,
    source: u32,
}

impl IrqLine for LevelLine {
    fn set_level(&self, asserted: bool) {
        if let Err(errno) = self.vm.set_line(self.source, asserted) {
            log::error!("interrupt {} is lost: {errno}", self.source);
        }
    }
}

/// A wire of which only the rising counts, by an irqfd.
///
/// The signal injects at once, and leaves the APLIC's input high: KVM lowers it only where it injects later, from a work
/// queue (arch/riscv/kvm/vm.c, kvm_arch_set_irq_inatomic; seen on 6.12). A source of type edge-rising then never sees
/// another edge, so the wire is lowered here.
struct EdgeLine {
    event: EventFd,
    wire: LevelLine,
}

impl IrqLine for EdgeLine {
    fn set_level(&self, asserted: bool) {
        if asserted {
            // It fails only when 2^64 - 2 signals wait, and then one more says nothing new.
            let _ = self.event.write(1);
            self.wire.set_level(false);
        }
    }
}
