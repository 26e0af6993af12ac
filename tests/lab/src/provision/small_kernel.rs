//! Small kernels for guests and hosts, built from Debian's kernel sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::compiler::{PREFIX, cross_compiler};
use super::cross::path_with;
use super::kernel::{last_green_source, version_of};
use super::progress::{self, Step};
use super::run::{self, finish, run, which};
use super::tools::{Recipe, native_tools, tool};
use super::{Error, GUEST_ARCH, KernelFiles, Result, STABLE};
use crate::cache::{self, create_dir, fingerprint};

/// The configuration, which allnoconfig completes.
const CONFIG: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../resources/small-kernel.config"
));

/// How that of Linux 6.1 differs.
const CONFIG_6_1: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../resources/small-kernel-6.1.config"
));

/// A small kernel: what it is built from.
struct Variant {
    /// Its entry in the cache.
    entry: &'static str,
    /// What the user reads.
    title: &'static str,
    /// Debian's package of the source.
    package: &'static str,
    /// The entry of the source in the cache.
    source: &'static str,
    /// The suite that has the package.
    suite: &'static str,
    /// An architecture of that suite: the package is for all, but a suite does not have all.
    arch: &'static str,
    /// What differs from [`CONFIG`].
    differences: &'static str,
}

const STABLE_KERNEL: Variant = Variant {
    entry: "small-kernel",
    title: "small kernel",
    package: "linux-source-6.12",
    source: "linux-source",
    suite: STABLE,
    arch: GUEST_ARCH,
    differences: "",
};

const OLDEST_KERNEL: Variant = Variant {
    entry: "small-kernel-oldest",
    title: "small kernel (oldest)",
    package: "linux-source-6.1",
    source: "linux-source-oldest",
    suite: "bookworm",
    arch: "amd64",
    differences: CONFIG_6_1,
};

/// What no build of such a kernel reads, more than half of the source. Kconfig and make files are read everywhere.
const UNREAD: [&str; 7] = [
    "*/arch/arm*/boot/dts",
    "*/drivers/gpu/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/drivers/net/*/*.[ch]",
    "*/drivers/staging/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/testing",
];

/// What is kept of a build, and under which name.
const KEPT: [(&str, &str); 3] = [
    ("arch/riscv/boot/Image", "Image"),
    ("include/config/kernel.release", "release"),
    // The names of what is built in.
    ("modules.builtin", "modules/modules.builtin"),
];

/// A small kernel with the drivers for hvrun's machine built in, and no modules: it boots from a disk without an initrd.
/// It is also a host with KVM, the only one in the lab that hands legacy console calls on to userspace.
///
/// It is built once, in some minutes, and again when its configuration, its source or the compiler changes.
///
/// # Errors
/// When the source, the compiler or the build's tools cannot be had, or the build fails.
pub fn small_kernel() -> Result<KernelFiles> {
    STABLE_KERNEL.files()
}

/// The small kernel of the oldest Linux that hvrun runs on, 6.1, for hosts: with KVM, taps, vhost-net and huge pages, and
/// without an AIA, which it does not know.
///
/// It is built as [`small_kernel`] is.
///
/// # Errors
/// As [`small_kernel`].
pub fn oldest_kernel() -> Result<KernelFiles> {
    OLDEST_KERNEL.files()
}

impl Variant {
    fn files(&self) -> Result<KernelFiles> {
        let compiler = cross_compiler()?;
        let path = path_with(&compiler.iter().cloned().collect::<Vec<_>>())?;
        let gcc = format!("{PREFIX}gcc");
        let compiler_version = run(Command::new(&gcc).env("PATH", path).arg("--version"))?;
        let compiler_version = compiler_version.lines().next().unwrap_or_default();
        let config = merged(CONFIG, self.differences);
        let source = self.source()?;
        let version = source
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let entry = cache::obtain(
            self.entry,
            &fingerprint(
                [&config, &version, compiler_version]
                    .into_iter()
                    .chain(KEPT.map(|(_, name)| name)),
            ),
            |staging| {
                let mut directories = build_tools()?;
                directories.extend(compiler);
                let step = progress::step(self.title, "unpacking the source");
                let tree = staging.downloads.join("source");
                let archive = format!("usr/src/{}.tar.xz", self.package);
                unpack(&source.join(archive), &tree, &step)?;
                let build = Build {
                    path: path_with(&directories)?,
                    tree,
                    output: staging.downloads.join("build"),
                    title: self.title,
                };
                build.configure(&config, &step)?;
                build.make(&["Image"], &step)?;
                create_dir(&staging.content.join("modules/kernel"))?;
                for (from, to) in KEPT {
                    let from = build.output.join(from);
                    fs::copy(&from, staging.content.join(to))
                        .map_err(|error| Error::io("copy", &from, error))?;
                }
                step.done("built");
                Ok(version)
            },
        )?;
        let release = entry.join("release");
        let text =
            fs::read_to_string(&release).map_err(|error| Error::io("read", &release, error))?;
        Ok(KernelFiles {
            image: entry.join("Image"),
            modules: entry.join("modules"),
            release: text.trim_end().to_owned(),
            version: version_of(&source),
            last_green: last_green_source(self.package),
        })
    }

    /// Debian's package of the kernel source, unpacked: the entry holds a compressed archive.
    fn source(&self) -> Result<PathBuf> {
        let recipe = Recipe {
            entry: self.source,
            title: "Linux source",
            remedy: "run this on a Debian machine",
            suite: Some(self.suite),
            arch: Some(self.arch),
        };
        let package = [self.package];
        recipe.tree(&package, |suite| suite.packages(&package), |_| Ok(()))
    }
}

/// Directories of the programs that a kernel build needs besides compilers, if `PATH` lacks any of them.
fn build_tools() -> Result<Vec<PathBuf>> {
    let programs = ["make", "flex", "bison", "bc"];
    if programs.iter().all(|program| which(program).is_some()) {
        return Ok(Vec::new());
    }
    Ok(vec![native_tools(
        "kernel-tools",
        "tools to build a kernel",
        &programs,
    )?])
}

fn unpack(archive: &Path, tree: &Path, step: &Step) -> Result<()> {
    cache::remove_tree(tree)?;
    create_dir(tree)?;
    let mut tar = Command::new("tar");
    tar.arg("--use-compress-program")
        .arg(tool("xz", "xz-utils")?)
        .arg("-xf")
        .arg(archive);
    tar.arg("-C").arg(tree).arg("--strip-components=1");
    tar.args(UNREAD.map(|pattern| format!("--exclude={pattern}")));
    let finished = finish(&mut tar, run::LIMIT, || step.update("unpacking the source"))?;
    finished.check(&tar).map(drop)
}

struct Build {
    title: &'static str,
    path: std::ffi::OsString,
    tree: PathBuf,
    output: PathBuf,
}

impl Build {
    /// Writes the configuration, and checks that all that it asks for came about: Kconfig says nothing of an option
    /// whose dependencies are missing.
    fn configure(&self, wanted: &str, step: &Step) -> Result<()> {
        cache::remove_tree(&self.output)?;
        create_dir(&self.output)?;
        let file = self.output.join("wanted.config");
        fs::write(&file, wanted).map_err(|error| Error::io("write", &file, error))?;
        self.make(
            &[
                &format!("KCONFIG_ALLCONFIG={}", file.display()),
                "allnoconfig",
            ],
            step,
        )?;
        let config = self.output.join(".config");
        let text =
            fs::read_to_string(&config).map_err(|error| Error::io("read", &config, error))?;
        let missing: Vec<_> = ignored(wanted, &text).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let problem = format!("Kconfig did not take {}", missing.join(", "));
        Err(Error::malformed(
            Path::new("resources/small-kernel.config"),
            problem,
        ))
    }

    fn make(&self, arguments: &[&str], step: &Step) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.env("PATH", &self.path)
            .env("LC_ALL", "C")
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL");
        // The same image wherever it is built.
        for variable in ["KBUILD_BUILD_USER", "KBUILD_BUILD_HOST"] {
            make.env(variable, "hvrun");
        }
        make.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
            .env("KBUILD_BUILD_VERSION", "1");
        make.arg(format!("-j{jobs}"))
            .arg("-C")
            .arg(&self.tree)
            .arg(format!("O={}", self.output.display()));
        make.args(["ARCH=riscv", "HOSTCC=cc"])
            .arg(format!("CROSS_COMPILE={PREFIX}"))
            .args(arguments);
        let finished = finish(&mut make, run::LIMIT, || step.update("building"))?;
        if finished.status.success() {
            return Ok(());
        }
        Err(Error::Build {
            what: format!("the {}", self.title),
            log: finished.stderr,
        })
    }
}

/// The option that a line of a configuration is about.
fn option(line: &str) -> Option<&str> {
    let unset = line
        .strip_prefix("# ")
        .and_then(|rest| rest.strip_suffix(" is not set"));
    let name = unset.or_else(|| line.split_once('=').map(|(name, _)| name));
    name.filter(|name| name.starts_with("CONFIG_"))
}

/// A configuration with those lines of another in place of its own about the same options.
fn merged(config: &str, differences: &str) -> String {
    let differs = |line: &str| {
        let name = option(line);
        name.is_some() && differences.lines().any(|other| option(other) == name)
    };
    let kept = config.lines().filter(|line| !differs(line));
    let mut merged = String::new();
    for line in kept.chain(differences.lines()) {
        merged += line;
        merged.push('\n');
    }
    merged
}

/// The lines of `wanted` that a kernel configuration does not have. An option that is off may also be absent.
fn ignored<'a>(wanted: &'a str, configuration: &'a str) -> impl Iterator<Item = &'a str> {
    let has = |line: &str| configuration.lines().any(|present| present == line);
    wanted.lines().filter(move |line| {
        match line
            .strip_prefix("# ")
            .and_then(|rest| rest.strip_suffix(" is not set"))
        {
            Some(option) => has(&format!("{option}=y")) || has(&format!("{option}=m")),
            None => line.starts_with("CONFIG_") && !has(line),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_kconfig_dropped_are_found() {
        let wanted = "# A comment.\nCONFIG_A=y\nCONFIG_B=y\n\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
        let configuration = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=y\n";
        let ignored: Vec<_> = ignored(wanted, configuration).collect();
        assert_eq!(ignored, ["CONFIG_B=y", "# CONFIG_D is not set"]);
    }

    #[test]
    fn no_configuration_has_an_option_twice() {
        for config in [CONFIG, CONFIG_6_1, &merged(CONFIG, CONFIG_6_1)] {
            let mut options: Vec<_> = config.lines().filter_map(option).collect();
            options.sort_unstable();
            for pair in options.windows(2) {
                assert_ne!(pair[0], pair[1]);
            }
        }
    }

    #[test]
    fn differences_take_the_place_of_what_they_differ_from() {
        let config = "# Words.\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n";
        let differences = "# CONFIG_A is not set\nCONFIG_C=y\nCONFIG_D=y\n";
        assert_eq!(
            merged(config, differences),
            "# Words.\nCONFIG_B=y\n# CONFIG_A is not set\nCONFIG_C=y\nCONFIG_D=y\n"
        );
        assert_eq!(merged(config, ""), config);
    }
}
