//! What a session takes: downloads, builds, and the nested host, as far as possible at the same time.

use std::path::{Path, PathBuf};
use std::thread;

use hv_lab::cache;
use hv_lab::host::Host;
use hv_lab::provision::{
    self, DebianKernel, GUEST_DISK_SIZE, KernelFiles, cross_build, debian_kernel,
};

use super::{Failure, host_config, host_failure};

/// The files of the guest that boots without any argument.
#[derive(Debug)]
pub(super) struct Guest {
    /// The kernel's release.
    pub(super) release: String,
    kernel: PathBuf,
    initrd: PathBuf,
    /// Made once; what the user changes in it stays.
    pub(super) disk: PathBuf,
}

impl Guest {
    fn prepare(kernel: &KernelFiles) -> provision::Result<Self> {
        let initrd = provision::guest_initrd(kernel)?;
        let root = cache::root()?;
        let disk = root.join("guest.img");
        let lock = cache::lock(&root.join(".guest.lock"), "the guest's disk")?;
        if !disk.exists() {
            provision::guest_disk(&disk, GUEST_DISK_SIZE)?;
        }
        drop(lock);
        Ok(Self {
            release: kernel.release.clone(),
            kernel: kernel.image.clone(),
            initrd,
            disk,
        })
    }

    /// Where it boots from: the kernel, and the initrd that goes with it.
    pub(super) fn kernel_and_initrd(&self) -> (&Path, &Path) {
        (&self.kernel, &self.initrd)
    }

    /// What makes hvrun boot it.
    pub(super) fn arguments(&self) -> Result<Vec<String>, Failure> {
        let mut arguments = Vec::new();
        for (option, path) in [
            ("--kernel", &self.kernel),
            ("--initrd", &self.initrd),
            ("--disk", &self.disk),
        ] {
            arguments.push(option.to_owned());
            arguments.push(text(path)?);
        }
        Ok(arguments)
    }
}

/// A path that hvrun and the lab's protocol can be given. The cache's is one.
fn text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure {
        message: format!("lab: the path {} is not UTF-8", path.display()),
        code: super::EXIT_LAB,
    })
}

/// The default guest's files.
pub(super) fn guest() -> provision::Result<Guest> {
    Guest::prepare(&debian_kernel(DebianKernel::Stable)?)
}

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
        let downloads = scope.spawn(|| downloads().and_then(|()| guest().map(drop)));
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
