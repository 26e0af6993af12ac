//! Cleanup of stale vCPU timers in the harts of the host.
//!
//! Before Linux 6.17, KVM leaves a vCPU's interrupt enables and its timer in the hart that it last ran on. Once that timer
//! is due, the hart cannot wait any more: `wfi` resumes for an interrupt that is pending and enabled at any privilege
//! level (RISC-V Privileged Architecture, "Wait for Interrupt"), so an idle hart of the host spins at full speed until
//! another vCPU runs on it.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

use crate::kvm::Vcpu;
use crate::kvm::register::{Csr, Register};

/// The first Linux that takes the timer out of a hart along with the vCPU.
const MENDED: (u32, u32) = (6, 17);

/// Leaves no interrupt enabled for guests in any hart that this thread may run on. `vcpu` is one of a guest that has ended;
/// it does not run again.
pub fn clear(vcpu: &mut Vcpu) {
    let release = uname()
        .ok()
        .and_then(|host| version(host.release().to_str()?));
    if release.is_some_and(|version| version >= MENDED) {
        return;
    }
    let done = vcpu
        .write(Register::Csr(Csr::Sie), 0)
        .map_err(|error| error.to_string())
        .and_then(|()| visit_harts(vcpu).map_err(|error| error.to_string()));
    if let Err(error) = done {
        log::debug!("the guest's timer may keep a hart of the host busy: {error}");
    }
}

/// Has every hart load the registers of `vcpu`.
fn visit_harts(vcpu: &mut Vcpu) -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    for cpu in (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true)) {
        let mut one = CpuSet::new();
        one.set(cpu)?;
        // A hart that has been switched off meanwhile does not spin.
        if sched_setaffinity(this, &one).is_ok() {
            vcpu.load()?;
        }
    }
    sched_setaffinity(this, &allowed)
}

/// The first two numbers of a kernel's release, such as `6.12.57+deb13-riscv64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(version("6.12.57+deb13-riscv64"), Some((6, 12)));
        assert_eq!(version("7.2-rc3"), Some((7, 2)));
        assert_eq!(version("6"), None);
        assert_eq!(version("next"), None);
        assert!((6, 9) < MENDED && (7, 0) > MENDED);
    }
}
