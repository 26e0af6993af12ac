//! Devices' interrupts, through whichever chip the machine has.

use core::sync::atomic::Ordering::Relaxed;

use super::aia::aplic::{Aplic, SourceMode};
use super::aia::imsic;
use super::csr::{self, EXTERNAL};
use super::machine::{Chip, Device, Machine};
use super::plic::Context;
use super::report::Outcome;
use super::time;
use super::trap;

/// How a hart finds out what interrupts it.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// By a load from this address.
    Register(usize),
    /// By the CSR `stopei`.
    Stopei,
}

/// The identity that devices' interrupts have at an interrupt file.
const IDENTITY: u32 = 21;

/// One source's interrupt, on its way to the hart that made this.
pub struct Listener {
    source: u32,
    mode: SourceMode,
    kind: Kind,
}

enum Kind {
    Plic(Context),
    Aia(Aplic, imsic::Delivery),
}

impl Listener {
    /// Enables the device's interrupt, for the hart that this runs on.
    pub fn new(machine: &Machine, device: Device) -> Self {
        let source = device.source;
        let hart = trap::this_hart();
        let index = machine
            .harts
            .iter()
            .position(|id| *id == hart.id())
            .unwrap_or(0);
        let kind = match &machine.chip {
            Chip::Plic(plic) => {
                let context = Context::supervisor(plic, index);
                context.set_priority(source, 1);
                context.enable(source);
                // What the device asked for while nobody listened has stayed. A chip that remembers what comes between claim and
                // completion, and the one that a hypervisor puts before it, have it once each.
                for _ in 0..3 {
                    context.complete(context.claim());
                    if !time::comes(|| csr::pending(EXTERNAL)) {
                        break;
                    }
                }
                hart.set_claim(Claim::Register(context.claim_register()));
                Kind::Plic(context)
            }
            Chip::Aia(aia) => {
                let delivery = imsic::Delivery::new();
                delivery.enable(IDENTITY);
                let aplic = Aplic::new(aia);
                aplic.set_domain(true);
                aplic.configure(source, device.mode);
                aplic.set_target(source, aia.files[index].index, IDENTITY);
                aplic.enable(source);
                hart.set_claim(Claim::Stopei);
                Kind::Aia(aplic, delivery)
            }
        };
        Self {
            source,
            mode: device.mode,
            kind,
        }
    }

    /// Runs `cause`, and waits until its interrupt has been taken, once.
    pub fn expect(&self, cause: impl FnOnce()) -> Outcome {
        let hart = trap::this_hart();
        let before = hart.external.load(Relaxed);
        let taken = csr::taking(EXTERNAL, || {
            cause();
            time::wait_for(|| hart.external.load(Relaxed) != before)
        });
        check!(taken, "source {} does not interrupt", self.source);
        let expected = match self.kind {
            Kind::Plic(_) => self.source,
            Kind::Aia(..) => IDENTITY,
        };
        check_eq!(
            hart.identity.load(Relaxed),
            expected,
            "the interrupt that was claimed"
        );
        check_eq!(
            hart.external.load(Relaxed).wrapping_sub(before),
            1,
            "how often it came"
        );
        Ok(())
    }

    /// Takes the next interrupt, and returns whether one came.
    #[must_use]
    pub fn wait(&self) -> bool {
        let hart = trap::this_hart();
        let before = hart.external.load(Relaxed);
        csr::taking(EXTERNAL, || {
            time::wait_for(|| hart.external.load(Relaxed) != before)
        })
    }

    /// Whether an interrupt comes shortly, that must not.
    pub fn comes(&self) -> bool {
        time::comes(|| csr::pending(EXTERNAL))
    }

    /// Takes an interrupt that is pending, if there is one.
    pub fn drain(&self) {
        if time::comes(|| csr::pending(EXTERNAL)) {
            match &self.kind {
                Kind::Plic(context) => {
                    let claimed = context.claim();
                    context.complete(claimed);
                }
                Kind::Aia(..) => {
                    csr::claim_top();
                }
            }
        }
    }

    /// The handler is done with the device: a level that is still high interrupts again.
    pub fn complete(&self) {
        match &self.kind {
            Kind::Plic(context) => context.complete(self.source),
            Kind::Aia(aplic, _) if self.mode == SourceMode::LevelHigh => {
                aplic.set_pending(self.source)
            }
            Kind::Aia(..) => {}
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Plic(context) => {
                // Nothing that was claimed stays so.
                context.complete(self.source);
                context.set_priority(self.source, 0);
            }
            Kind::Aia(aplic, _) => aplic.configure(self.source, SourceMode::Inactive),
        }
    }
}
