//! What a session takes: downloads, builds, and the nested host, as far as possible at the same time.

use std::path::PathBuf;
use std::thread;

use hv_lab::host::Host;
use hv_lab::provision::{self, DebianKernel, cross_build, debian_kernel};

use super::default_guest::DefaultGuest;
use super::{Failure, host_config, host_failure};

/// Boots the nested host, and builds hvrun for it meanwhile.
pub(super) fn host_and_hvrun() -> Result<(Host, PathBuf), Failure> {
    let config = host_config()?;
    thread::scope(|scope| {
        let downloads = scope.spawn(downloads);
        // Before hvrun: the nested host waits for this one.
        cross_build("hv-lab-agent", "agent")?;
        join(downloads)?;
        let host = scope.spawn(|| Host::boot(config));
        let hvrun = cross_build("hvrun", "hvrun");
        let host = join(host).map_err(host_failure)?;
        Ok((host, hvrun?))
    })
}

/// `cargo lab setup`.
pub(super) fn everything() -> Result<u8, Failure> {
    thread::scope(|scope| {
        let downloads =
            scope.spawn(|| downloads().and_then(|()| DefaultGuest::prepare().map(drop)));
        cross_build("hv-lab-agent", "agent")?;
        cross_build("hvrun", "hvrun")?;
        provision::bare_hypervisor()?;
        provision::dtc()?;
        join(downloads)?;
        Ok(0)
    })
}

/// What the nested host is made of, apart from the lab's own programs.
fn downloads() -> provision::Result<()> {
    provision::qemu()?;
    debian_kernel(DebianKernel::Stable)?;
    provision::busybox().map(drop)
}

/// A thread's result. If it panicked, so does this one.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
