//! The first process of a guest.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use crate::{clock, report};

/// Which modules to load, a file name in the same directory for each line.
const MODULES: &str = "/modules/load";

/// Does what the kernel's command line asks for, and switches the guest off.
pub(crate) fn run() -> ExitCode {
    // Taken first of all: it is when the kernel was done.
    let up = clock::now().unwrap_or(0);
    println!("@init {up}");
    if let Err(error) = prepare().and_then(|()| tasks()) {
        println!("@failed {error}");
    }
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    println!("@failed cannot switch off: {error}");
    ExitCode::FAILURE
}

fn prepare() -> io::Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(target)?;
        let none: Option<&str> = None;
        match mount(Some(kind), target, Some(kind), MsFlags::empty(), none) {
            // The kernel may have mounted devtmpfs itself.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let directory = Path::new(MODULES).parent().unwrap_or(Path::new("/"));
    for name in fs::read_to_string(MODULES).unwrap_or_default().lines() {
        match finit_module(
            File::open(directory.join(name))?,
            c"",
            ModuleInitFlags::empty(),
        ) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Debian's kernel goes on testing its ciphers while the first process runs already.
fn wait_for_quiet() -> io::Result<()> {
    const LOOK: Duration = Duration::from_millis(200);
    let mut before = busy_ticks()?;
    for _ in 0..100 {
        std::thread::sleep(LOOK);
        let now = busy_ticks()?;
        if now == before {
            return Ok(());
        }
        before = now;
    }
    Err(io::Error::other("the guest does not come to rest"))
}

/// How often the timer's ticks found a hart at work (proc_stat(5): all but the 4th and 5th number are).
fn busy_ticks() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let numbers = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1);
    let busy = numbers
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4));
    Ok(busy
        .filter_map(|(_, number)| number.parse::<u64>().ok())
        .sum())
}

fn tasks() -> io::Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    if line.contains("probe=") {
        wait_for_quiet()?;
    }
    for task in line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("probe="))
    {
        // A guest's addresses have a port: the only place where a word has a colon of its own, written as `+`.
        let words: Vec<String> = task.split(':').map(|word| word.replace('+', ":")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let Err(error) = report(&words) {
            println!("@failed {task}: {error}");
        }
    }
    Ok(())
}
