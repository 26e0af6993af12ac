//! The two interrupt chips that a guest can have, behind one interface.

mod aia;
mod plic;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hv_core::addr::GuestPhysAddr;
use hv_core::machine::InterruptController;
use hv_devices::bus::MmioDevice;
use hv_devices::interrupt::IrqLine;

use crate::Error;
use crate::config::IrqchipChoice;
use crate::kvm::Errno;

pub use aia::Aia;
pub use plic::PlicChip;

/// Calls `make` with the interrupt chip for `choice`, on a host with or without an AIA. If `choice` is automatic and KVM
/// refuses any step of creating the AIA, calls `make` again with a PLIC. Also returns the chip, which is never
/// [`IrqchipChoice::Auto`].
///
/// # Errors
/// The error of `make`, or that an AIA is requested on a host without one.
pub fn choose<T>(
    choice: IrqchipChoice,
    has_aia: bool,
    mut make: impl FnMut(IrqchipChoice) -> Result<T, Error>,
) -> Result<(T, IrqchipChoice), Error> {
    let chip = match (choice, has_aia) {
        (IrqchipChoice::Aia, false) => return Err(Error::NoAia),
        (IrqchipChoice::Plic, _) | (IrqchipChoice::Auto, false) => IrqchipChoice::Plic,
        (IrqchipChoice::Aia | IrqchipChoice::Auto, true) => IrqchipChoice::Aia,
    };
    match make(chip) {
        Err(Error::Aia(error)) if choice == IrqchipChoice::Auto => {
            let plic = IrqchipChoice::Plic;
            let made = make(plic)?;
            log::warn!("the guest gets a PLIC, as it cannot have an AIA: {error}");
            Ok((made, plic))
        }
        made => Ok((made?, chip)),
    }
}

/// The trigger type of an interrupt source, as in the guest's device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Each assertion is one interrupt. On an AIA it costs no more than an eventfd; a PLIC supports levels only.
    Edge,
    /// The interrupt stays until the device lowers its IRQ line.
    Level,
}

/// Reports the first interrupt that KVM does not accept, and no more: a guest can cause any number of them.
#[derive(Debug, Default)]
struct Loss(AtomicBool);

impl Loss {
    fn report(&self, what: std::fmt::Arguments<'_>, errno: Errno) {
        if !self.0.swap(true, Ordering::Relaxed) {
            log::error!("{what} is lost, others may be as well: {errno}");
        }
    }
}

/// An interrupt chip.
pub trait Irqchip {
    /// Its description in the guest's device tree.
    fn describe(&self) -> InterruptController;

    /// The IRQ line of source `source`.
    ///
    /// # Errors
    /// If KVM or the host refuses.
    fn line(&self, source: u32, trigger: Trigger) -> Result<Arc<dyn IrqLine>, Error>;

    /// Its registers, where they are served in userspace: base, size in bytes, and the device.
    fn registers(&self) -> Option<(GuestPhysAddr, u64, Arc<dyn MmioDevice>)>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::aia::tests::{Device, STEPS};
    use crate::kvm::aia::{AiaError, AiaStep, initialize};

    const AUTO: IrqchipChoice = IrqchipChoice::Auto;
    const AIA: IrqchipChoice = IrqchipChoice::Aia;
    const PLIC: IrqchipChoice = IrqchipChoice::Plic;

    /// The chips that machines were made with on a KVM that refuses this step of the AIA, if any, and what came out.
    fn machines(
        choice: IrqchipChoice,
        has_aia: bool,
        refused: Option<AiaStep>,
    ) -> (Vec<IrqchipChoice>, Result<IrqchipChoice, Error>) {
        let mut made = Vec::new();
        let chosen = choose(choice, has_aia, |chip| {
            made.push(chip);
            if chip == AIA {
                let refuse = |step: AiaStep| match refused {
                    Some(refused) if refused == step => Err(step.refused()(Errno(libc::EINVAL))),
                    _ => Ok(()),
                };
                refuse(AiaStep::Create)?;
                let device = Device::new(255, 2);
                let device = match refused {
                    Some(step) => device.that_refuses(step),
                    None => device,
                };
                initialize(&device, 2)?;
                refuse(AiaStep::ConnectEventfd)?;
            }
            Ok(())
        });
        (made, chosen.map(|((), chip)| chip))
    }

    #[test]
    fn a_host_without_an_aia_is_never_asked_for_one() {
        for choice in [AUTO, PLIC] {
            let (made, chosen) = machines(choice, false, None);
            assert_eq!((made, chosen.unwrap()), (vec![PLIC], PLIC));
        }
        let (made, chosen) = machines(AIA, false, None);
        assert!(made.is_empty());
        let error = chosen.unwrap_err();
        assert!(matches!(error, Error::NoAia), "{error}");
    }

    #[test]
    fn a_host_with_an_aia_gives_what_is_chosen() {
        for (choice, chip) in [(AUTO, AIA), (AIA, AIA), (PLIC, PLIC)] {
            let (made, chosen) = machines(choice, true, None);
            assert_eq!((made, chosen.unwrap()), (vec![chip], chip));
        }
    }

    #[test]
    fn whatever_step_is_refused_the_guest_gets_a_plic_or_the_user_is_told_of_it() {
        for step in STEPS.into_iter().chain([AiaStep::ConnectEventfd]) {
            let (made, chosen) = machines(AUTO, true, Some(step));
            assert_eq!((made, chosen.unwrap()), (vec![AIA, PLIC], PLIC), "{step}");

            let (made, chosen) = machines(AIA, true, Some(step));
            assert_eq!(made, [AIA], "{step}");
            let error = chosen.unwrap_err().to_string();
            let step = step.to_string();
            assert!(error.contains(&step), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn what_a_plic_would_not_help_is_no_reason_for_one() {
        let mut made = Vec::new();
        let chosen: Result<((), _), _> = choose(AUTO, true, |chip| {
            made.push(chip);
            Err(Error::NoCpus)
        });
        assert!(matches!(chosen, Err(Error::NoCpus)));
        assert_eq!(made, [AIA]);
    }

    #[test]
    fn a_plic_that_fails_as_well_is_the_error() {
        let chosen: Result<((), _), _> = choose(AUTO, true, |chip| match chip {
            AIA => Err(AiaError {
                step: AiaStep::Create,
                errno: Errno(libc::ENODEV),
            }
            .into()),
            _ => Err(Error::NoCpus),
        });
        assert!(matches!(chosen, Err(Error::NoCpus)));
    }
}
