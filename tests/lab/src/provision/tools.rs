//! Trees of Debian packages in the cache, and ordinary programs of this machine's own release among them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::apt::{Machine, Package, Suite};
use super::progress::{self, Size};
use super::run::which;
use super::{Error, Result};
use crate::cache::{self, create_dir, fingerprint};

/// What one entry of the cache is unpacked from.
pub(super) struct Recipe<'a> {
    /// The entry's name in the cache.
    pub(super) entry: &'a str,
    /// What the user reads.
    pub(super) title: &'a str,
    /// What to do where Debian's packages cannot be had.
    pub(super) remedy: &'a str,
    /// The suite; `None` means the machine's own.
    pub(super) suite: Option<&'a str>,
    /// The architecture; `None` means the machine's own.
    pub(super) arch: Option<&'a str>,
}

impl Recipe<'_> {
    /// The tree of the packages that `select` names, the chief one first. `details` completes the entry's key with
    /// whatever else decides what it holds; `arrange` works on the finished tree.
    pub(super) fn tree(
        &self,
        details: &[&str],
        select: impl Fn(&Suite) -> Result<Vec<Package>>,
        arrange: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        cache::obtain(self.entry, &self.request(details), |staging| {
            let machine = Machine::find(self.title, self.remedy)?;
            let name = self.suite.unwrap_or(&machine.suite);
            let suite = machine.suite(name, self.arch, self.title)?;
            let version = suite.with_lists(|suite| {
                let packages = select(suite)?;
                let chief = packages.first().ok_or_else(|| {
                    Error::unavailable(
                        self.title,
                        format!("Debian {name} does not have it"),
                        self.remedy,
                    )
                })?;
                let size = Size(packages.iter().map(|package| package.size).sum());
                let step = progress::step(
                    self.title,
                    format_args!("downloading {size} from Debian {name}"),
                );
                suite.unpack(&packages, &staging.downloads, &staging.content, &step)?;
                step.done(format_args!("{} from Debian {name}, {size}", chief.version));
                Ok(chief.version.clone())
            })?;
            arrange(&staging.content)?;
            Ok(version)
        })
    }

    /// Whether [`Recipe::tree`] would find the entry in the cache.
    pub(super) fn is_cached(&self, details: &[&str]) -> Result<bool> {
        cache::holds(self.entry, &self.request(details))
    }

    fn request(&self, details: &[&str]) -> String {
        // What runs natively depends on the machine's release and architecture, and a cache may be shared.
        let release = release_of_this_machine();
        let key = [
            self.suite.unwrap_or(&release),
            self.arch.unwrap_or(std::env::consts::ARCH),
        ];
        fingerprint(key.into_iter().chain(details.iter().copied()))
    }
}

/// The packages `names` with all they depend on, the first name leading.
pub(super) fn closure(suite: &Suite, names: &[&str]) -> Result<Vec<Package>> {
    let mut packages = suite.closure(names)?;
    packages.sort_by_key(|package| names.first() != Some(&package.name.as_str()));
    Ok(packages)
}

/// Where a tree of packages of an architecture has its libraries. The architecture is one as Rust names it.
pub(super) fn libraries(tree: &Path, arch: &str) -> PathBuf {
    tree.join(format!("usr/lib/{arch}-linux-gnu"))
}

/// The words that run `program` of a tree of packages on the tree's own C library, which may be newer than the system's, or
/// the only one: the tree's dynamic loader, told where the libraries are.
pub(super) fn by_loader(tree: &Path, arch: &str, program: &Path) -> [PathBuf; 4] {
    let libraries = libraries(tree, arch);
    let loader = match arch {
        "aarch64" => "ld-linux-aarch64.so.1",
        "riscv64" => "ld-linux-riscv64-lp64d.so.1",
        _ => "ld-linux-x86-64.so.2",
    };
    [
        libraries.join(loader),
        "--library-path".into(),
        libraries,
        program.to_owned(),
    ]
}

/// The code name in `/etc/os-release` (os-release(5)); empty where there is none.
fn release_of_this_machine() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

/// The program `name`: from `PATH` or the system's directories, else from `package` of the machine's own Debian
/// release.
pub(super) fn tool(name: &str, package: &str) -> Result<PathBuf> {
    match which(name) {
        Some(path) => Ok(path),
        None => Ok(native_tools(package, package, &[package])?.join(name)),
    }
}

/// A directory with the programs of `packages` from the machine's own Debian release, runnable where they are.
///
/// They are the machine's own release because they run on its C library: unlike a tree with an own dynamic loader, that
/// lets them run each other, as a compiler does with its assembler and linker.
pub(super) fn native_tools(entry: &str, title: &str, packages: &[&str]) -> Result<PathBuf> {
    let remedy = format!(
        "install the package {} and run this again",
        packages.join(" ")
    );
    let recipe = Recipe {
        entry,
        title,
        remedy: &remedy,
        suite: None,
        arch: None,
    };
    let select = |suite: &Suite| {
        let mut packages = closure(suite, packages)?;
        packages.retain(|package| package.name != "libc6");
        Ok(packages)
    };
    let details: Vec<_> = packages.iter().copied().chain([LAUNCHERS]).collect();
    Ok(recipe
        .tree(&details, select, write_launchers)?
        .join(LAUNCHERS))
}

/// Where a tree of tools has its [launchers](write_launchers).
const LAUNCHERS: &str = "launchers";

/// Makes a launcher for each program of the tree: a script that lets it find its libraries and data in the tree. The
/// script finds the tree by its own path, because the tree moves when it is finished.
fn write_launchers(tree: &Path) -> Result<()> {
    let launchers = tree.join(LAUNCHERS);
    create_dir(&launchers)?;
    let mut libraries = String::new();
    for parent in ["usr/lib", "lib"] {
        let directory = format!("{parent}/{}-linux-gnu", std::env::consts::ARCH);
        if tree.join(&directory).is_dir() {
            let _ = write!(libraries, "$tree/{directory}:");
        }
    }
    let mut variables =
        format!("LD_LIBRARY_PATH={libraries}$LD_LIBRARY_PATH\nexport LD_LIBRARY_PATH\n");
    // bison looks for its skeletons, and bison and flex for m4, where they were built to be installed.
    for (variable, path) in [
        ("BISON_PKGDATADIR", "usr/share/bison"),
        ("M4", "usr/bin/m4"),
    ] {
        if tree.join(path).exists() {
            let _ = write!(variables, "{variable}=$tree/{path}\nexport {variable}\n");
        }
    }
    for directory in ["usr/bin", "bin", "usr/sbin", "sbin"] {
        for entry in fs::read_dir(tree.join(directory))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let script = launchers.join(&name);
            let text = format!(
                "#!/bin/sh\ntree=${{0%/*}}/..\n{variables}exec \"$tree/{directory}/{}\" \"$@\"\n",
                name.to_string_lossy()
            );
            fs::write(&script, text).map_err(|error| Error::io("write", &script, error))?;
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&script, executable)
                .map_err(|error| Error::io("write", &script, error))?;
        }
    }
    Ok(())
}
