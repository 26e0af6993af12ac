//! KVM's in-kernel AIA: an APLIC in MSI mode and one IMSIC for each hart. Userspace only raises
//! interrupts; KVM does the rest.

use std::sync::Arc;

use hv_core::addr::GuestPhysAddr;
use hv_core::machine::InterruptController;
use hv_devices::bus::MmioDevice;
use hv_devices::interrupt::IrqLine;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Irqchip, Loss, Trigger};
use crate::Error;
use crate::kvm::aia::{AiaError, AiaShape, AiaStep};
use crate::kvm::{AiaFeatures, Vm};

/// The chip of one machine.
#[derive(Debug)]
pub struct Aia {
    vm: Arc<Vm>,
    shape: AiaShape,
}

impl Aia {
    /// Gives the machine its chip. Harts 0 to `harts - 1` exist and have not run.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(vm: Arc<Vm>, harts: u32) -> Result<Aia, AiaError> {
        let shape = vm.create_aia(harts)?;
        Ok(Aia { vm, shape })
    }

    /// What this host's AIA can do.
    ///
    /// # Errors
    /// KVM does not tell.
    pub fn features(&self) -> Result<AiaFeatures, AiaError> {
        Ok(AiaFeatures {
            guest_interrupt_files: self.vm.aia_uses_guest_interrupt_files()?,
            identities: self.shape.max_ids,
        })
    }
}

impl Irqchip for Aia {
    fn describe(&self) -> InterruptController {
        InterruptController::Aia {
            sources: self.shape.sources,
            ids: self.shape.ids,
        }
    }

    fn line(&self, source: u32, trigger: Trigger) -> Result<Arc<dyn IrqLine>, Error> {
        let wire = LevelLine {
            vm: self.vm.clone(),
            source,
            loss: Loss::default(),
        };
        match trigger {
            Trigger::Level => Ok(Arc::new(wire)),
            Trigger::Edge => {
                let event = EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?;
                self.vm
                    .inject_on_event(&event, source)
                    .map_err(AiaStep::ConnectEventfd.refused())?;
                Ok(Arc::new(EdgeLine { event, wire }))
            }
        }
    }

    fn registers(&self) -> Option<(GuestPhysAddr, u64, Arc<dyn MmioDevice>)> {
        None
    }
}

/// An IRQ line whose level KVM keeps. Linux's APLIC driver asks for a level-triggered source again when its handler is done,
/// and KVM raises it once more while the level is high.
struct LevelLine {
    vm: Arc<Vm>,
    source: u32,
    loss: Loss,
}

impl IrqLine for LevelLine {
    fn set_level(&self, asserted: bool) {
        if let Err(errno) = self.vm.set_line(self.source, asserted) {
            self.loss
                .report(format_args!("interrupt {}", self.source), errno);
        }
    }
}

/// An edge-triggered IRQ line, by an irqfd.
///
/// The signal injects at once, and leaves the APLIC's input high: KVM lowers it only where it injects later, from a work
/// queue (arch/riscv/kvm/vm.c, kvm_arch_set_irq_inatomic; seen on 6.12). A source of type edge-rising then never sees
/// another edge, so the line is lowered here.
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
