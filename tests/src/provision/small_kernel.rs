//! A small kernel for guests and hosts, built from Debian's kernel source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::compiler::{PREFIX, cross_compiler};
use super::cross::path_with;
use super::progress::{self, Step};
use super::run::{self, finish, run, which};
use super::tools::{Recipe, native_tools, tool};
use super::{Error, GUEST_ARCH, KernelFiles, Result, STABLE};
use crate::cache::{self, create_dir, fingerprint};

/// The kernel's configuration, which allnoconfig completes.
const CONFIG: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../resources/small-kernel.config"
));

/// Debian stable's package of the kernel source.
const SOURCE: &str = "linux-source-6.12";

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
    let compiler = cross_compiler()?;
    let path = path_with(&compiler.iter().cloned().collect::<Vec<_>>())?;
    let gcc = format!("{PREFIX}gcc");
    let compiler_version = run(Command::new(&gcc).env("PATH", path).arg("--version"))?;
    let compiler_version = compiler_version.lines().next().unwrap_or_default();
    let source = source()?;
    let version = source
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let entry = cache::obtain(
        "small-kernel",
        &fingerprint(
            [CONFIG, &version, compiler_version]
                .into_iter()
                .chain(KEPT.map(|(_, name)| name)),
        ),
        |staging| {
            let mut directories = build_tools()?;
            directories.extend(compiler);
            let step = progress::step("small kernel", "unpacking the source");
            let tree = staging.downloads.join("source");
            unpack(
                &source.join("usr/src").join(format!("{SOURCE}.tar.xz")),
                &tree,
                &step,
            )?;
            let build = Build {
                path: path_with(&directories)?,
                tree,
                output: staging.downloads.join("build"),
            };
            build.configure(&step)?;
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
    let text = fs::read_to_string(&release).map_err(|error| Error::io("read", &release, error))?;
    Ok(KernelFiles {
        image: entry.join("Image"),
        modules: entry.join("modules"),
        release: text.trim_end().to_owned(),
    })
}

/// Debian's package of the kernel source, unpacked: the entry holds a compressed archive.
fn source() -> Result<PathBuf> {
    let recipe = Recipe {
        entry: "linux-source",
        title: "Linux source",
        remedy: "run this on a Debian machine",
        suite: Some(STABLE),
        arch: Some(GUEST_ARCH),
    };
    recipe.tree(&[SOURCE], |suite| suite.packages(&[SOURCE]), |_| Ok(()))
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
    path: std::ffi::OsString,
    tree: PathBuf,
    output: PathBuf,
}

impl Build {
    /// Writes the configuration, and checks that all that it asks for came about: Kconfig says nothing of an option
    /// whose dependencies are missing.
    fn configure(&self, step: &Step) -> Result<()> {
        cache::remove_tree(&self.output)?;
        create_dir(&self.output)?;
        let wanted = self.output.join("wanted.config");
        fs::write(&wanted, CONFIG).map_err(|error| Error::io("write", &wanted, error))?;
        self.make(
            &[
                &format!("KCONFIG_ALLCONFIG={}", wanted.display()),
                "allnoconfig",
            ],
            step,
        )?;
        let config = self.output.join(".config");
        let text =
            fs::read_to_string(&config).map_err(|error| Error::io("read", &config, error))?;
        let missing: Vec<_> = ignored(CONFIG, &text).collect();
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
            what: "the small kernel".to_owned(),
            log: finished.stderr,
        })
    }
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
    fn the_configuration_has_no_option_twice() {
        let mut options: Vec<_> = CONFIG
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
            .collect();
        options.sort_unstable();
        assert!(options.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
