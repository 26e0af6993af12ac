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
    /// The version of Debian's package that it is, or was built from.
    pub version: String,
    /// The version of that package with which all tests passed the last time that somebody looked.
    pub last_green: &'static str,
}

/// What [`KernelFiles::last_green`] is: for the stable kernel and its source, for the newest one, and for the oldest source. To
/// be brought up to date when all tests pass with newer ones.
const STABLE_LAST_GREEN: &str = "6.12.117-1";
const NEWEST_LAST_GREEN: &str = "7.2.12-1";
const OLDEST_LAST_GREEN: &str = "6.1.176-1";

impl KernelFiles {
    /// Its version and the one that the tests were last green with, in one line: the first thing to know of a failure.
    #[must_use]
    pub fn pedigree(&self) -> String {
        let Self {
            version,
            last_green,
            ..
        } = self;
        match self.is_last_green() {
            true => format!("the host's Linux is {version}, which the tests were last green with"),
            false => {
                format!(
                    "the host's Linux is {version}; the tests were last green with {last_green}"
                )
            }
        }
    }

    /// Whether that is the same version.
    #[must_use]
    pub fn is_last_green(&self) -> bool {
        self.version == self.last_green
    }
}

/// The version in the name of an entry of the cache.
pub(super) fn version_of(entry: &Path) -> String {
    let name = entry.file_name().unwrap_or_default().to_string_lossy();
    let version = name.rsplit_once('-').map_or(&*name, |(version, _)| version);
    version.to_owned()
}

/// The last version of a package of the kernel's source that the tests were green with.
pub(super) fn last_green_source(package: &str) -> &'static str {
    match package {
        "linux-source-6.1" => OLDEST_LAST_GREEN,
        _ => STABLE_LAST_GREEN,
    }
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

/// The newest kernel's entry in the cache.
const NEWEST: &str = "kernel-newest";

fn newest() -> Result<KernelFiles> {
    let suites = ["trixie-backports", "testing", "sid"];
    let cached = |suite: &&&str| recipe(NEWEST, suite).is_cached(&[]).unwrap_or(false);
    if let Some(suite) = suites.iter().find(cached) {
        return from_suite(NEWEST, suite);
    }
    let mut first_error = None;
    for suite in suites {
        match from_suite(NEWEST, suite) {
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
    let mut files = locate(&tree)?;
    if entry == NEWEST {
        files.last_green = NEWEST_LAST_GREEN;
    }
    Ok(files)
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
        version: version_of(tree),
        last_green: STABLE_LAST_GREEN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrys_name_tells_the_version() {
        let entry = Path::new("/cache/kernel-stable/6.12.117-1-806143f2370e8b4b");
        assert_eq!(version_of(entry), "6.12.117-1");
        assert_eq!(version_of(Path::new("1")), "1");
    }

    #[test]
    fn the_pedigree_names_both_versions() {
        let kernel = |version: &str| KernelFiles {
            image: PathBuf::new(),
            modules: PathBuf::new(),
            release: String::new(),
            version: version.to_owned(),
            last_green: "6.12.117-1",
        };
        let newer = kernel("6.12.119-1").pedigree();
        assert!(
            newer.contains("6.12.119-1; ") && newer.ends_with("6.12.117-1"),
            "{newer}"
        );
        assert_eq!(
            kernel("6.12.117-1")
                .pedigree()
                .matches("6.12.117-1")
                .count(),
            1
        );
    }
}
