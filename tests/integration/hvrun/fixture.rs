//! What the tests have in common: the program, kernels and disks, and a guest at its prompt.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use hv_lab::host::{Console, Exec, Host, HostChip, HostConfig};
use hv_lab::provision::{self, DebianKernel, GUEST_PROMPT, KernelFiles};
use tempfile::TempDir;

/// Until a guest's shell is there. Two nested machines share the developer's cores, so this is far more than it takes.
pub const BOOT: Duration = Duration::from_secs(300);

/// For anything that a running guest or hvrun itself does.
pub const STEP: Duration = Duration::from_secs(240);

/// Both kinds of host.
pub const CHIPS: [HostChip; 2] = [HostChip::Plic, HostChip::Aia];

/// hvrun's binary for the nested host.
pub fn hvrun() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| provision::cross_build("hvrun", "hvrun").unwrap())
}

/// The host of this kind that all tests share.
pub fn host(chip: HostChip) -> &'static Host {
    // Built before the host boots, so that the two do not compete.
    hvrun();
    Host::shared(chip).unwrap()
}

/// A host with the newest kernel that is packaged, and a PLIC, that all tests share.
pub fn newest_host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    hvrun();
    HOST.get_or_init(|| {
        let config = HostConfig::new(HostChip::Plic).kernel(debian(DebianKernel::Backports));
        Host::boot(config).unwrap()
    })
}

/// hvrun with these arguments, on this machine's files.
pub fn command<A: Into<String>>(host: &Host, args: impl IntoIterator<Item = A>) -> Exec {
    host.local(hvrun()).unwrap().args(args)
}

/// A kernel that guests are booted with.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// Debian stable's: an Image, with its drivers in an initrd.
    Stable,
    /// Debian backports': an EFI zboot program, with its drivers in an initrd.
    Backports,
    /// The small one: its drivers built in, no initrd, no RISCV_ISA_FALLBACK.
    Small,
}

fn debian(which: DebianKernel) -> KernelFiles {
    provision::debian_kernel(which).unwrap()
}

impl Kernel {
    /// `--kernel`, and `--initrd` where it needs one.
    pub fn arguments(self) -> Vec<String> {
        let files = match self {
            Kernel::Stable => debian(DebianKernel::Stable),
            Kernel::Backports => debian(DebianKernel::Backports),
            Kernel::Small => {
                return vec![
                    "--kernel".into(),
                    text(&provision::small_kernel().unwrap().image),
                ];
            }
        };
        let initrd = provision::guest_initrd(&files).unwrap();
        vec![
            "--kernel".into(),
            text(&files.image),
            "--initrd".into(),
            text(&initrd),
        ]
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A directory with a guest's root disk in it.
pub struct Disk {
    pub directory: TempDir,
    pub image: PathBuf,
}

impl Disk {
    pub fn new() -> Disk {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("root.img");
        provision::guest_disk(&image, 64 << 20).unwrap();
        Disk { directory, image }
    }

    /// A file beside the disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn argument(&self) -> [String; 2] {
        ["--disk".into(), text(&self.image)]
    }

    /// e2fsck finds nothing to mend.
    pub fn assert_clean(&self) {
        let checked = provision::e2fsck()
            .unwrap()
            .arg("-fn")
            .arg(&self.image)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stdout)
        );
    }

    /// What a file of the guest's holds, read from the image.
    pub fn read_file(&self, path: &str) -> String {
        let read = provision::debugfs()
            .unwrap()
            .arg("-R")
            .arg(format!("cat {path}"))
            .arg(&self.image)
            .output()
            .unwrap();
        String::from_utf8(read.stdout).unwrap()
    }
}

/// hvrun on a terminal with a guest on this disk, at the shell's prompt. `more` are further arguments.
pub fn guest(host: &Host, kernel: Kernel, disk: &Disk, more: &[&str]) -> Console {
    let mut console = command(host, kernel.arguments())
        .args(disk.argument())
        .args(more.iter().copied())
        .console()
        .unwrap()
        .reject("Kernel panic")
        .reject("Oops");
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    console
}

/// The text that a command prints in the guest, which has to succeed.
pub fn run(console: &mut Console, command: &str) -> String {
    let output = console.run(command, STEP).unwrap();
    assert_eq!(output.code, 0, "`{command}`: {}", output.text);
    output.text
}

/// The guest powers off, and hvrun ends with 0.
pub fn power_off(mut console: Console) {
    console.send_line("poweroff").unwrap();
    let (status, _) = console.wait_for_end(STEP).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}
