//! Debian's riscv64 kernels: hosts and guests of the lab.

use std::fs;
use std::path::{Path, PathBuf};

use super::apt::{self, Package, Suite};
use super::tools::Recipe;
use super::{Error, GUEST_ARCH, Result, STABLE, progress};

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DebianKernel {
    /// The stable release's, in `/boot` of its package.
    Stable,
    /// The newest packaged one, in `usr/lib/modules`: from the backports to the stable release or, while those cannot
    /// be had, from the release in preparation.
    Backports,
}

/// The files of a kernel.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// What a boot loader loads, in whichever format Debian ships it.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`, with the modules as Debian ships them (mostly xz-compressed) and without the indexes that
    /// depmod makes at installation; see [`modules_closure`](super::modules_closure).
    pub modules: PathBuf,
    /// What `uname -r` says on it.
    pub release: String,
}

/// The files of one of Debian's kernels.
///
/// # Errors
/// When it is not in the cache and Debian's packages cannot be had.
pub fn debian_kernel(which: DebianKernel) -> Result<KernelFiles> {
    match which {
        DebianKernel::Stable => from_suite("kernel-stable", STABLE),
        DebianKernel::Backports => newest(),
    }
}

fn newest() -> Result<KernelFiles> {
    const ENTRY: &str = "kernel-newest";
    let suites = ["trixie-backports", "testing", "sid"];
    let cached = |suite: &&&str| recipe(ENTRY, suite).is_cached(&[]).unwrap_or(false);
    if let Some(suite) = suites.iter().find(cached) {
        return from_suite(ENTRY, suite);
    }
    let mut first_error = None;
    for suite in suites {
        match from_suite(ENTRY, suite) {
            Ok(files) => return Ok(files),
            Err(error) if apt::is_unreachable(&error) => return Err(error),
            Err(error) => {
                progress::note(&error);
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::unavailable("a kernel", "no suite has it", REMEDY)))
}

const REMEDY: &str = "run this on a Debian machine";

fn recipe<'a>(entry: &'a str, suite: &'a str) -> Recipe<'a> {
    let title = if entry == "kernel-stable" {
        "Linux for riscv64 (stable)"
    } else {
        "Linux for riscv64 (newest)"
    };
    Recipe {
        entry,
        title,
        remedy: REMEDY,
        suite: Some(suite),
        arch: Some(GUEST_ARCH),
    }
}

fn from_suite(entry: &str, suite: &str) -> Result<KernelFiles> {
    let tree = recipe(entry, suite).tree(&[], packages, |tree| locate(tree).map(drop))?;
    locate(&tree)
}

/// The packages that hold the kernel which `linux-image-riscv64` stands for. What its packages are has changed: up to
/// Linux 6.12 one with everything, later one each for the image, the modules and the lists of modules.
fn packages(suite: &Suite) -> Result<Vec<Package>> {
    let mut names = vec!["linux-image-riscv64".to_owned()];
    let mut next = 0;
    while let Some(name) = names.get(next) {
        for dependency in suite.depends(name)? {
            let holds_files = [
                "linux-image-",
                "linux-binary-",
                "linux-modules-",
                "linux-base-",
            ];
            if holds_files
                .iter()
                .any(|prefix| dependency.starts_with(prefix))
                && !names.contains(&dependency)
            {
                names.push(dependency);
            }
        }
        next += 1;
    }
    suite.packages(&names)
}

/// Finds the kernel in a tree of its packages.
fn locate(tree: &Path) -> Result<KernelFiles> {
    let missing = |what| Error::malformed(tree, format!("no {what} in the kernel's packages"));
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .flat_map(|path| fs::read_dir(tree.join(path)))
        .find_map(|mut entries| entries.next()?.ok())
        .ok_or_else(|| missing("directory of modules"))?
        .path();
    let release = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let images = ["vmlinux", "vmlinuz"].map(|name| tree.join(format!("boot/{name}-{release}")));
    let image = images
        .into_iter()
        .chain([modules.join("vmlinuz")])
        .find(|path| path.is_file());
    Ok(KernelFiles {
        image: image.ok_or_else(|| missing("image"))?,
        modules,
        release,
    })
}
