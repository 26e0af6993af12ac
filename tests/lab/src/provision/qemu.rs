//! A QEMU that is new enough: from the user, from `PATH`, or from Debian's packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::run::{run, which};
use super::tools::{Recipe, by_loader, closure, libraries};
use super::{Error, Result, STABLE};

/// The oldest major version whose `virt` machine emulates what the lab asks for: the H extension together with the AIA.
const OLDEST: u32 = 10;
pub(super) const PROGRAM: &str = "qemu-system-riscv64";
/// Debian's package of it.
pub(super) const PACKAGE: &str = "qemu-system-riscv";
const REMEDY: &str =
    "put a qemu-system-riscv64 of version 10 or newer on PATH, or name it in HVRUN_LAB_QEMU";

/// A usable `qemu-system-riscv64`.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    version: Version,
    /// The tree of packages it lives in, if it is not installed on the system.
    tree: Option<PathBuf>,
}

/// A version of QEMU: major, minor, micro.
type Version = (u32, u32, u32);

impl Qemu {
    /// A command that runs it, without any argument that concerns the machine.
    pub fn command(&self) -> Command {
        self.tree.as_ref().map_or_else(
            || Command::new(&self.program),
            |tree| in_tree(tree, &self.program),
        )
    }

    /// Its version: major, minor, micro.
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    fn probe(program: PathBuf, tree: Option<PathBuf>) -> Result<Self> {
        let mut qemu = Self {
            program,
            version: (0, 0, 0),
            tree,
        };
        let answer = run(qemu.command().arg("--version"))?;
        qemu.version = parse_version(&answer).ok_or_else(|| {
            Error::malformed(&qemu.program, "does not answer --version as QEMU does")
        })?;
        Ok(qemu)
    }
}

/// The QEMU named in `HVRUN_LAB_QEMU`, else one on `PATH` if it is new enough, else one from Debian's packages.
///
/// # Errors
/// When the one in `HVRUN_LAB_QEMU` does not do, or Debian's packages cannot be had.
pub fn qemu() -> Result<Qemu> {
    static FOUND: OnceLock<Qemu> = OnceLock::new();
    if let Some(qemu) = FOUND.get() {
        return Ok(qemu.clone());
    }
    find().map(|qemu| FOUND.get_or_init(|| qemu).clone())
}

fn find() -> Result<Qemu> {
    if let Some(named) = std::env::var_os("HVRUN_LAB_QEMU").filter(|value| !value.is_empty()) {
        let qemu = Qemu::probe(named.into(), None)?;
        if qemu.version.0 < OLDEST {
            let (major, minor, micro) = qemu.version;
            let why = format!("HVRUN_LAB_QEMU names version {major}.{minor}.{micro}");
            return Err(Error::unavailable("QEMU", why, REMEDY));
        }
        return Ok(qemu);
    }
    let installed = which(PROGRAM).and_then(|program| Qemu::probe(program, None).ok());
    if let Some(qemu) = installed.filter(|qemu| qemu.version.0 >= OLDEST) {
        return Ok(qemu);
    }
    let recipe = Recipe {
        entry: "qemu",
        title: "QEMU",
        remedy: REMEDY,
        suite: Some(STABLE),
        arch: None,
    };
    let tree = recipe.tree(&[], |suite| closure(suite, &[PACKAGE]), |_| Ok(()))?;
    Qemu::probe(tree.join("usr/bin").join(PROGRAM), Some(tree))
}

/// Runs `program` of a tree of packages. Firmware and modules are named, because QEMU would look for them beside its
/// executable, which the kernel says is the dynamic loader.
fn in_tree(tree: &Path, program: &Path) -> Command {
    let arch = std::env::consts::ARCH;
    let [loader, arguments @ ..] = by_loader(tree, arch, program);
    let mut command = Command::new(loader);
    command
        .args(arguments)
        .arg("-L")
        .arg(tree.join(FIRMWARE))
        .env(MODULES, libraries(tree, arch).join("qemu"));
    command
}

/// Where a tree of QEMU's packages has its firmware.
pub(super) const FIRMWARE: &str = "usr/share/qemu";

/// The variable that tells QEMU where its modules are.
pub(super) const MODULES: &str = "QEMU_MODULE_DIR";

/// Finds the version in "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)".
fn parse_version(answer: &str) -> Option<Version> {
    let mut words = answer.split_whitespace();
    words.find(|word| *word == "version")?;
    let mut numbers = words.next()?.split('.').map(|number| {
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    Some((
        numbers.next()??,
        numbers.next()??,
        numbers.next().flatten().unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_every_kind_of_build() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c) 2003-2025";
        assert_eq!(parse_version(debian), Some((10, 0, 2)));
        assert_eq!(
            parse_version("QEMU emulator version 9.2.50 (v9.2.0-1-gabc)"),
            Some((9, 2, 50))
        );
        assert_eq!(
            parse_version("QEMU emulator version 11.0rc1"),
            Some((11, 0, 0))
        );
        assert_eq!(parse_version("sh: something version else"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn newer_versions_compare_greater() {
        assert!(parse_version("version 10.0.0") > parse_version("version 9.2.4"));
        assert!(parse_version("version 10.1.0") > parse_version("version 10.0.13"));
    }
}
