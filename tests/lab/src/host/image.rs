//! The nested host's initial file system: the agent as `/init`, busybox, and the kernel's modules.

use std::fs;
use std::path::Path;

use super::config::HostConfig;
use super::error::{Error, ErrorKind, Result};
use super::setup_error;
use crate::initramfs::Initramfs;
use crate::provision::{KernelFiles, applets, busybox, cross_build};

/// The kernel modules that the harness itself needs.
const MODULES: [&str; 4] = ["virtio_mmio", "virtio_console", "9pnet_virtio", "9p"];

/// Writes the image for a host to `destination`.
pub(super) fn write(config: &HostConfig, kernel: &KernelFiles, destination: &Path) -> Result<()> {
    let mut image = Initramfs::new();
    let agent = cross_build("hv-lab-agent", "agent").map_err(setup_error)?;
    image.file("init", 0o755, &read(&agent)?);

    let program = read(&busybox().map_err(setup_error)?)?;
    image.file("bin/busybox", 0o755, &program);
    for name in applets(&program).map_err(setup_error)? {
        if name != "busybox" {
            image.symlink(&format!("bin/{name}"), "busybox");
        }
    }
    image.symlink("sbin", "bin");
    image.file("etc/passwd", 0o644, b"root::0:0:root:/:/bin/sh\n");
    image.file("etc/group", 0o644, b"root:x:0:\n");

    let kvm = config.kvm.then_some("kvm");
    let modules: Vec<&str> = (MODULES.into_iter())
        .chain(kvm)
        .chain(config.modules.iter().map(String::as_str))
        .collect();
    image.modules(kernel, &modules).map_err(setup_error)?;

    for file in &config.files {
        let path = file.path.trim_start_matches('/');
        image.file(path, 0o755, &read(&file.source)?);
    }
    fs::write(destination, image.finish()).map_err(|error| unusable(destination, &error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Setup, format!("{}: {error}", path.display()))
}
