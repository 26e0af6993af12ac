//! U-Boot for supervisor mode, a firmware that boots Linux from a disk.

use std::path::PathBuf;

use super::tools::Recipe;
use super::{Error, GUEST_ARCH, Result, STABLE};

/// The files of U-Boot as Debian builds it for the supervisor mode of QEMU's `virt` board.
#[derive(Debug, Clone)]
pub struct UBoot {
    /// A flat binary.
    pub binary: PathBuf,
    /// The same as an ELF executable.
    pub executable: PathBuf,
}

/// Debian's U-Boot.
///
/// # Errors
/// When it is not in the cache and Debian's packages cannot be had.
pub fn u_boot() -> Result<UBoot> {
    let recipe = Recipe {
        entry: "u-boot",
        title: "U-Boot for riscv64",
        remedy: "run this on a Debian machine",
        suite: Some(STABLE),
        arch: Some(GUEST_ARCH),
    };
    let tree = recipe.tree(&[], |suite| suite.packages(&["u-boot-qemu"]), |_| Ok(()))?;
    let file = |name| {
        let path = tree.join("usr/lib/u-boot/qemu-riscv64_smode").join(name);
        match path.is_file() {
            true => Ok(path),
            false => Err(Error::malformed(&path, "is not in U-Boot's package")),
        }
    };
    Ok(UBoot {
        binary: file("u-boot.bin")?,
        executable: file("uboot.elf")?,
    })
}
