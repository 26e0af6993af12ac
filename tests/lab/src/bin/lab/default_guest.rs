//! The default guest: what `cargo hvrun` boots if its arguments name no kernel.

use std::path::{Path, PathBuf};

use hv_lab::cache;
use hv_lab::provision::{self, DebianKernel, GUEST_DISK_SIZE, debian_kernel};

use super::Failure;

/// Names another disk than the one in the cache.
const DISK_VARIABLE: &str = "HVRUN_LAB_DISK";

/// The files of the default guest.
#[derive(Debug)]
pub(super) struct DefaultGuest {
    /// The kernel's release.
    release: String,
    kernel: PathBuf,
    initrd: PathBuf,
    /// Made once; what the user changes in it stays.
    disk: PathBuf,
}

/// Whether these arguments start a guest and name neither kernel nor firmware. Then the default guest is booted with them.
pub(super) fn is_meant(args: &hvrun_cli::Args) -> bool {
    args.command.is_none() && args.kernel.is_none() && args.firmware.is_none()
}

/// hvrun's arguments as it parses them itself. `None` if they are wrong, or ask for help or for the version: hvrun answers
/// these.
pub(super) fn parse(arguments: &[String]) -> Option<hvrun_cli::Args> {
    let words = std::iter::once("hvrun").chain(arguments.iter().map(String::as_str));
    hvrun_cli::Args::from_command_line(words.map(Into::into)).ok()
}

impl DefaultGuest {
    /// Downloads or makes what is not there yet.
    pub(super) fn prepare() -> provision::Result<Self> {
        let kernel = debian_kernel(DebianKernel::Stable)?;
        let initrd = provision::guest_initrd(&kernel)?;
        let root = cache::root()?;
        let disk = match std::env::var_os(DISK_VARIABLE) {
            Some(path) if !path.is_empty() => path.into(),
            _ => root.join("guest.img"),
        };
        let lock = cache::lock(&root.join(".guest.lock"), "the guest's disk")?;
        if !disk.exists() {
            provision::guest_disk(&disk, GUEST_DISK_SIZE)?;
        }
        drop(lock);
        Ok(Self {
            release: kernel.release,
            kernel: kernel.image,
            initrd,
            disk,
        })
    }

    /// Where it boots from: the kernel, and the initrd that goes with it.
    pub(super) fn kernel_and_initrd(&self) -> (&Path, &Path) {
        (&self.kernel, &self.initrd)
    }

    /// What makes hvrun boot it: its own arguments, then the user's. `args` is what the user's mean.
    ///
    /// Its disk comes before those of the user, so that it has the root file system. An initrd of the user's replaces its own.
    pub(super) fn arguments(
        &self,
        args: &hvrun_cli::Args,
        given: &[String],
    ) -> Result<Vec<String>, Failure> {
        let initrd = args.initrd.is_none().then_some(("--initrd", &self.initrd));
        let mut arguments = Vec::new();
        let own = [("--kernel", &self.kernel), ("--disk", &self.disk)];
        for (option, path) in own.into_iter().chain(initrd) {
            arguments.push(option.to_owned());
            arguments.push(text(option, path)?);
        }
        arguments.extend_from_slice(given);
        Ok(arguments)
    }

    /// One line that says what is booted and where.
    pub(super) fn announcement(&self, args: &hvrun_cli::Args, place: &str) -> String {
        let Self { release, disk, .. } = self;
        if args.dump_dtb.is_some() {
            return "lab: without --kernel, the device tree is that of the default guest".into();
        }
        let has_root = |line: &String| line.split(' ').any(|word| word.starts_with("root="));
        let mut from = disk.display().to_string();
        if args.initrd.is_some() {
            from = format!("your initrd, with the disk {from}");
        } else if !args.cmdline.as_ref().is_none_or(has_root) {
            from = format!("its initrd (--cmdline has no root=), with the disk {from}");
        }
        let yours = match args.disks.len() {
            0 => "",
            1 => " and yours",
            _ => " and all of yours",
        };
        format!("lab: Linux {release} from {from}{yours} {place}")
    }
}

/// A path that hvrun and the lab's protocol can be given. The cache's is one.
fn text(option: &str, path: &Path) -> Result<String, Failure> {
    // A comma would begin the options of a disk.
    let double = |text: &str| match option {
        "--disk" => text.replace(',', ",,"),
        _ => text.to_owned(),
    };
    path.to_str().map(double).ok_or_else(|| Failure {
        message: format!("lab: the path {} is not UTF-8", path.display()),
        code: super::EXIT_LAB,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn guest() -> DefaultGuest {
        DefaultGuest {
            release: "6.12".into(),
            kernel: "/k".into(),
            initrd: "/i".into(),
            disk: "/d".into(),
        }
    }

    /// The arguments of hvrun for a user's, if the default guest is what they mean.
    fn completed(line: &str) -> Option<String> {
        let given = words(line);
        let args = parse(&given)?;
        is_meant(&args).then(|| guest().arguments(&args, &given).unwrap().join(" "))
    }

    #[test]
    fn options_without_a_kernel_are_for_the_default_guest() {
        let own = "--kernel /k --disk /d --initrd /i";
        assert_eq!(completed("").unwrap(), own);
        for line in [
            "--cpus 2",
            "--memory=1G --irqchip plic",
            "--disk data.img,readonly=on",
            "--disk data.img,slot=0",
            "--console virtio --rng --no-reboot",
            "--dump-dtb -",
            "--dtb guest.dtb",
            "--cmdline quiet",
            "--cpus 2 --",
            "--log-level debug",
        ] {
            let completed = completed(line).unwrap();
            assert_eq!(completed, format!("{own} {line}"));
            // hvrun takes them.
            assert!(parse(&words(&completed)).unwrap().payload().is_ok());
        }
        let with_initrd = completed("--initrd mine.cpio --cpus 2").unwrap();
        assert_eq!(
            with_initrd,
            "--kernel /k --disk /d --initrd mine.cpio --cpus 2"
        );
    }

    #[test]
    fn all_else_is_hvruns() {
        for line in [
            "--kernel Image",
            "--kernel=Image --cpus 2",
            "--firmware u-boot.bin --disk disk.img",
            "--kernel Image --firmware u-boot.bin",
            "doctor",
            "doctor --json",
            "man",
            "completions bash",
            "--help",
            "-h",
            "--cpus 2 --version",
            // Wrong: hvrun says what is.
            "--doctor",
            "--cpus many",
            "--kernel",
            "--cpus 2 doctor",
            "-- --cpus 2",
            "-hda disk.img",
        ] {
            assert_eq!(completed(line), None, "{line}");
        }
    }

    #[test]
    fn a_comma_in_the_disks_path_is_no_option() {
        let guest = DefaultGuest {
            disk: "/a,b".into(),
            ..guest()
        };
        let arguments = guest.arguments(&parse(&[]).unwrap(), &[]).unwrap();
        let args = parse(&arguments).unwrap();
        assert_eq!(args.disks[0].kind.path, Path::new("/a,b"));
    }

    #[test]
    fn the_announcement_says_what_it_boots_from() {
        let said = |line: &str| {
            let args = parse(&words(line)).unwrap();
            guest().announcement(&args, "under hvrun")
        };
        assert_eq!(said("--cpus 2"), "lab: Linux 6.12 from /d under hvrun");
        let from_disk = said("--cmdline root=/dev/vda");
        assert_eq!(from_disk, "lab: Linux 6.12 from /d under hvrun");
        assert!(said("--cmdline quiet").contains("from its initrd (--cmdline has no root=)"));
        assert!(said("--initrd mine").contains("from your initrd"));
        assert!(said("--disk a").contains("from /d and yours under"));
        assert!(said("--dump-dtb -").contains("device tree"));
    }
}
