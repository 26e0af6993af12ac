//! What the tests have in common: the program, kernels and disks, and a guest at its prompt.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use hv_lab::host::{Console, Exec, Host, HostChip, HostKernel, SHARED_LIFETIME};
use hv_lab::provision::{self, DebianKernel, GUEST_GREETING, GUEST_PROMPT, KernelFiles};

pub use crate::guest_disk::{Disk, text};

/// Until a guest's shell is there. Two nested machines share the developer's cores, so this is far more than it takes.
pub const BOOT: Duration = Duration::from_secs(300);

/// For anything that a running guest or hvrun itself does.
pub const STEP: Duration = Duration::from_secs(480);

/// The kinds of host that differ in what hvrun does. What is to run on the third one names it.
pub const CHIPS: [HostChip; 2] = HostChip::USUAL;

/// The kinds of host that the calling test takes: both in a complete run (`cargo test -- --include-ignored`), one of them, by the
/// test's name, in a quick one.
pub fn chips() -> Vec<HostChip> {
    if std::env::args().any(|argument| argument.ends_with("ignored")) {
        return CHIPS.to_vec();
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    let sum: usize = test.bytes().map(usize::from).sum();
    let chip = CHIPS[sum % CHIPS.len()];
    println!("{test}: on {chip} alone, on all with --include-ignored");
    vec![chip]
}

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

/// A host of this kind with the newest kernel that is packaged, that all tests share.
pub fn newest_host(chip: HostChip) -> &'static Host {
    static PLIC: OnceLock<Host> = OnceLock::new();
    static AIA: OnceLock<Host> = OnceLock::new();
    static AIA_FILES: OnceLock<Host> = OnceLock::new();
    hvrun();
    let host = match chip {
        HostChip::Plic => &PLIC,
        HostChip::Aia => &AIA,
        HostChip::AiaFiles => &AIA_FILES,
    };
    host.get_or_init(|| boot(HostKernel::Newest, chip))
}

/// The host with the oldest kernel that hvrun runs on, which all tests share. It knows no AIA. Its harts have state enable
/// bits, which KVM of that age does not know.
pub fn oldest_host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    hvrun();
    HOST.get_or_init(|| boot(HostKernel::Oldest, HostChip::Plic))
}

fn boot(kernel: HostKernel, chip: HostChip) -> Host {
    let config = kernel.config(chip).unwrap();
    Host::boot(config.lifetime(Some(SHARED_LIFETIME))).unwrap()
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

/// The guest reboots, until its shell is there again.
///
/// What is waited for is the greeting of the guest's own start script. The last lines of a kernel say nothing: Linux from
/// 6.12.117 on resets its virtio devices before it prints them.
pub fn reboot(console: &mut Console) {
    console.send_line("reboot").unwrap();
    console.wait_for(GUEST_GREETING, BOOT).unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
}

/// The guest powers off, and hvrun ends with 0.
pub fn power_off(mut console: Console) {
    console.send_line("poweroff").unwrap();
    let (status, _) = console.wait_for_end(STEP).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}
