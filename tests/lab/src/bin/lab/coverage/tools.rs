//! The LLVM tools that read what instrumented programs write.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Failure, failed};

/// Newer tools read older profiles: how many major versions are tried.
const NEWER: u32 = 4;

/// Where the tools are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tools {
    pub profdata: PathBuf,
    pub cov: PathBuf,
}

impl Tools {
    /// Those that belong to rustc; else those of its LLVM's version or newer in PATH, also by names such as `llvm-cov-22`.
    pub(super) fn find() -> Result<Self, Failure> {
        let rustc = rustc(&["-vV"])
            .and_then(|text| Rustc::parse(&text))
            .ok_or_else(|| failed("cannot tell rustc's version by 'rustc -vV'".into()))?;
        let sysroot = rustc_sysroot();
        Self::look(&rustc, sysroot.as_deref(), &path())
            .ok_or_else(|| failed(rustc.advice(is_of_rustup(sysroot.as_deref()))))
    }

    fn look(rustc: &Rustc, sysroot: Option<&Path>, path: &[PathBuf]) -> Option<Self> {
        if let Some(sysroot) = sysroot {
            let folder = sysroot.join("lib/rustlib").join(&rustc.host).join("bin");
            let tools = Self::of(&folder, "");
            if tools.exist() {
                return Some(tools);
            }
        }
        let newest = rustc.llvm.saturating_add(NEWER);
        let suffixes = (rustc.llvm..=newest).map(|version| format!("-{version}"));
        suffixes.chain([String::new()]).find_map(|suffix| {
            path.iter()
                .map(|folder| Self::of(folder, &suffix))
                .find(|tools| tools.exist() && tools.version() >= Some(rustc.llvm))
        })
    }

    fn of(folder: &Path, suffix: &str) -> Self {
        Self {
            profdata: folder.join(format!("llvm-profdata{suffix}")),
            cov: folder.join(format!("llvm-cov{suffix}")),
        }
    }

    fn exist(&self) -> bool {
        self.profdata.is_file() && self.cov.is_file()
    }

    /// The major version. A tool that does not run has none.
    fn version(&self) -> Option<u32> {
        let output = Command::new(&self.cov)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        major(&String::from_utf8(output.stdout).ok()?, "LLVM version")
    }
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
struct Rustc {
    host: String,
    /// The major version of its LLVM.
    llvm: u32,
}

impl Rustc {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let host = lines.find_map(|line| line.strip_prefix("host: "))?;
        Some(Self {
            host: host.to_owned(),
            llvm: major(text, "LLVM version:")?,
        })
    }

    fn advice(&self, rustup: bool) -> String {
        let version = self.llvm;
        let how = if rustup {
            "'rustup component add llvm-tools'".to_owned()
        } else {
            format!("package llvm-{version} or a newer one")
        };
        format!("llvm-profdata and llvm-cov of LLVM {version} or newer are not installed: {how}")
    }
}

/// The first number of the version behind `name`.
fn major(text: &str, name: &str) -> Option<u32> {
    let (_, version) = text.split_once(name)?;
    let version = version.trim_start();
    let end = version.find(|character: char| !character.is_ascii_digit())?;
    version.get(..end)?.parse().ok()
}

fn rustc(arguments: &[&str]) -> Option<String> {
    let output = Command::new("rustc")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

fn rustc_sysroot() -> Option<PathBuf> {
    Some(PathBuf::from(rustc(&["--print", "sysroot"])?.trim_end()))
}

/// Whether rustc has options that are not stable, of which the counting of branches is one.
pub(super) fn rustc_counts_branches() -> bool {
    rustc(&["-Z", "unstable-options", "--print", "sysroot"]).is_some()
}

fn is_of_rustup(sysroot: Option<&Path>) -> bool {
    sysroot.is_some_and(|sysroot| {
        sysroot
            .parent()
            .is_some_and(|parent| parent.ends_with("toolchains"))
    })
}

fn path() -> Vec<PathBuf> {
    env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const RUSTC: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nhost: riscv64gc-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";

    fn rustc() -> Rustc {
        Rustc::parse(RUSTC).unwrap()
    }

    fn install(folder: &Path, suffix: &str, version: &str) -> Tools {
        fs::create_dir_all(folder).unwrap();
        let tools = Tools::of(folder, suffix);
        for path in [&tools.profdata, &tools.cov] {
            fs::write(
                path,
                format!("#!/bin/sh\necho 'Debian LLVM version {version}'\n"),
            )
            .unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        tools
    }

    #[test]
    fn versions_are_those_of_llvm() {
        assert_eq!(rustc().llvm, 22);
        assert_eq!(rustc().host, "riscv64gc-unknown-linux-gnu");
        assert_eq!(
            major(
                "Ubuntu LLVM version 18.1.3\n  Optimized build.\n",
                "LLVM version"
            ),
            Some(18)
        );
        assert_eq!(major("gcov 4.2", "LLVM version"), None);
        assert_eq!(Rustc::parse("rustc 1.95.0\n"), None);
    }

    #[test]
    fn rustcs_own_tools_come_first_and_old_ones_never() {
        let place = tempfile::tempdir().unwrap();
        let bin = [place.path().join("first"), place.path().join("second")];
        let sysroot = place.path().join("sysroot");
        let look = || Tools::look(&rustc(), Some(&sysroot), &bin);
        assert_eq!(look(), None);
        install(&bin[0], "", "14.0.6");
        assert_eq!(look(), None, "too old");
        let plain = install(&bin[1], "", "23.1.0");
        assert_eq!(look(), Some(plain));
        let named = install(&bin[1], "-22", "22.1.8");
        assert_eq!(look(), Some(named));
        let folder = sysroot.join("lib/rustlib/riscv64gc-unknown-linux-gnu/bin");
        let own = install(&folder, "", "22.1.2");
        assert_eq!(look(), Some(own));
    }

    #[test]
    fn who_has_no_tools_is_told_how_to_get_them() {
        let toolchain = Path::new("/home/user/.rustup/toolchains/stable-riscv64gc");
        assert!(is_of_rustup(Some(toolchain)));
        assert!(!is_of_rustup(Some(Path::new("/usr"))));
        assert!(rustc().advice(true).contains("rustup component add"));
        let advice = rustc().advice(false);
        assert!(
            advice.contains("package llvm-22") && advice.lines().count() == 1,
            "{advice}"
        );
    }
}
