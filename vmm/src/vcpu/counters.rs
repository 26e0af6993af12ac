//! The counters that a guest's user programs may read: `scounteren`.
//!
//! The SBI specification leaves the register undefined at a hart's start, but firmware (OpenSBI) allows `cycle`, `time` and
//! `instret`, as does KVM of Linux 6.12, and guests rely on it: the vDSO of Linux reads `time`, and Linux 6.12 does not set
//! the register without a PMU driver (7.2 does, in head.S). KVM of 7.1 and 7.2 clears it at each reset
//! (`kvm_riscv_vcpu_context_reset` in arch/riscv/kvm/vcpu.c), and when the guest starts a hart by SBI HSM, the reset happens
//! inside KVM_RUN: userspace is not notified. So a timer makes a vCPU's thread leave KVM_RUN, often while its hart is stopped, to
//! check whether it has been started meanwhile.

use std::time::Duration;

use crate::kvm::isa::ReadRegister;
use crate::kvm::register::{Csr, Register};
use crate::kvm::{Errno, Vcpu};

const SCOUNTEREN: Register = Register::Csr(Csr::Scounteren);

/// `cycle`, `time` and `instret`.
const ALLOWED: u64 = 0b111;

/// What the register of a stopped hart is set to. As long as it reads so, KVM has not reset the hart: a hart counts as
/// started before the reset. No guest has a reason to allow `cycle` alone.
const NOT_RESET: u64 = 0b001;

/// How often to look at a stopped hart. A guest's system takes longer from a hart's start to a program on it.
const STOPPED: Duration = Duration::from_millis(10);

/// How often to look whether a hart has stopped. It costs the guest an exit each time.
const RUNNING: Duration = Duration::from_secs(1);

/// A vCPU, for [`Watch`].
pub trait Hart: ReadRegister {
    /// Whether it waits to be started by the guest.
    fn is_stopped(&self) -> bool;
    /// Sets a register.
    ///
    /// # Errors
    /// That of `KVM_SET_ONE_REG`.
    fn set(&self, register: Register, value: u64) -> Result<(), Errno>;
}

impl Hart for Vcpu {
    fn is_stopped(&self) -> bool {
        Vcpu::is_stopped(self)
    }

    fn set(&self, register: Register, value: u64) -> Result<(), Errno> {
        self.write(register, value)
    }
}

/// Whether this host's KVM clears the register at a reset. `vcpu` has neither run nor been written to.
pub fn are_cleared(vcpu: &impl ReadRegister) -> bool {
    vcpu.read(SCOUNTEREN) == Some(0)
}

/// Allows the counters on a hart that has just been reset.
///
/// # Errors
/// That of `KVM_SET_ONE_REG`.
pub fn allow(hart: &impl Hart) -> Result<(), Errno> {
    hart.set(SCOUNTEREN, ALLOWED)
}

/// What is known of one hart.
#[derive(Debug, Default)]
pub struct Watch {
    /// It was stopped when it was last looked at, or has not been reset since.
    stopped: bool,
}

impl Watch {
    /// Looks at the hart, whose thread is outside KVM_RUN, and allows the counters if it has been started since it was last
    /// seen stopped and has not set the register itself. Answers when to look again.
    pub fn look(&mut self, hart: &impl Hart) -> Duration {
        let result = if hart.is_stopped() {
            self.stopped = true;
            hart.set(SCOUNTEREN, NOT_RESET)
        } else if self.stopped {
            match hart.read(SCOUNTEREN) {
                Some(NOT_RESET) => Ok(()),
                value => {
                    self.stopped = false;
                    if value == Some(0) {
                        allow(hart)
                    } else {
                        Ok(())
                    }
                }
            }
        } else {
            Ok(())
        };
        if let Err(error) = result {
            log::debug!("cannot set scounteren of a hart: {error}");
        }
        if self.stopped { STOPPED } else { RUNNING }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A hart as Linux 7.2's KVM has it.
    #[derive(Default)]
    struct Fake {
        stopped: Cell<bool>,
        scounteren: Cell<u64>,
    }

    impl ReadRegister for Fake {
        fn read(&self, register: Register) -> Option<u64> {
            (register == SCOUNTEREN).then(|| self.scounteren.get())
        }
    }

    impl Hart for Fake {
        fn is_stopped(&self) -> bool {
            self.stopped.get()
        }

        fn set(&self, register: Register, value: u64) -> Result<(), Errno> {
            assert_eq!(register, SCOUNTEREN);
            self.scounteren.set(value);
            Ok(())
        }
    }

    impl Fake {
        fn stopped() -> Self {
            let fake = Self::default();
            fake.stopped.set(true);
            fake
        }
    }

    #[test]
    fn whether_a_reset_clears_the_register_shows_in_a_new_vcpu() {
        let hart = Fake::default();
        assert!(are_cleared(&hart));
        hart.scounteren.set(7);
        assert!(!are_cleared(&hart), "as on Linux 6.12");
    }

    #[test]
    fn a_hart_that_was_started_is_allowed_its_counters_once() {
        let (hart, mut watch) = (Fake::stopped(), Watch::default());
        assert_eq!(watch.look(&hart), STOPPED);
        assert_eq!(watch.look(&hart), STOPPED);
        hart.stopped.set(false);
        // KVM has not carried out the reset yet.
        assert_eq!(watch.look(&hart), STOPPED);
        assert_eq!(hart.scounteren.replace(0), NOT_RESET);
        assert_eq!(watch.look(&hart), RUNNING);
        assert_eq!(hart.scounteren.get(), ALLOWED);
        // What the guest does from now on is its own business.
        hart.scounteren.set(0);
        assert_eq!(watch.look(&hart), RUNNING);
        assert_eq!(hart.scounteren.get(), 0);
        // Stopped and started once more.
        hart.stopped.set(true);
        assert_eq!(watch.look(&hart), STOPPED);
        hart.stopped.set(false);
        hart.scounteren.set(0);
        assert_eq!(watch.look(&hart), RUNNING);
        assert_eq!(hart.scounteren.get(), ALLOWED);
    }

    #[test]
    fn what_a_guest_has_set_itself_stays() {
        let (hart, mut watch) = (Fake::stopped(), Watch::default());
        watch.look(&hart);
        hart.stopped.set(false);
        hart.scounteren.set(0b010);
        assert_eq!(watch.look(&hart), RUNNING);
        assert_eq!(hart.scounteren.get(), 0b010);
    }

    #[test]
    fn a_hart_that_runs_from_the_beginning_is_left_alone() {
        let (hart, mut watch) = (Fake::default(), Watch::default());
        assert_eq!(watch.look(&hart), RUNNING);
        assert_eq!(hart.scounteren.get(), 0);
    }
}
