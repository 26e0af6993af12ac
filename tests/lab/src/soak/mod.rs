//! A guest under load for long: `cargo lab soak`.
//!
//! A Linux guest of four harts works with all its devices at once, while its drivers let go of devices and take them again, clients of
//! its consoles come and go, and it is paused and resumed all the time (the example `pause` of the library). In between it reboots.
//! Nothing may be lost: data, packets, interrupts. And hvrun may not grow.

mod guest;
mod table;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::host::{Error, Host, HostChip};
use guest::Guest;
pub use table::Table;

/// After so many rounds the guest reboots.
const ROUNDS_OF_A_BOOT: u64 = 3;

/// An outcome, or one line that says what is wrong.
type Checked<T = ()> = Result<T, String>;

fn text(error: &Error) -> String {
    match error.logs() {
        Some(logs) => format!("{} (logs: {})", error.summary(), logs.display()),
        None => error.summary().to_owned(),
    }
}

/// What was done on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The kind of host.
    pub chip: HostChip,
    /// How often everything was done.
    pub done: Done,
    /// What is wrong, in one line.
    pub wrong: Option<String>,
    /// How long it took.
    pub seconds: u64,
}

/// How often a guest did what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Files written, and read again later.
    pub rounds: u64,
    /// Reboots.
    pub reboots: u64,
    /// Devices that a driver let go of and took again.
    pub rebinds: u64,
    /// Packets that were answered, of as many that were sent.
    pub packets: u64,
    /// Pauses.
    pub pauses: u64,
    /// Clients of consoles that came and went.
    pub clients: u64,
    /// What hvrun took at most.
    pub peak: String,
}

/// Soaks the machine of this program, the example `pause`, on this host, for at least this long.
#[must_use]
pub fn soak(host: &Host, program: &Path, time: Duration) -> Row {
    let started = Instant::now();
    let mut done = Done::default();
    let wrong = rounds(host, program, time, &mut done).err();
    Row {
        chip: host.chip(),
        done,
        wrong,
        seconds: started.elapsed().as_secs(),
    }
}

fn rounds(host: &Host, program: &Path, time: Duration, done: &mut Done) -> Checked {
    let started = Instant::now();
    let mut guest = Guest::boot(host, program)?;
    guest.load()?;
    loop {
        guest.round(done)?;
        done.rounds += 1;
        if started.elapsed() >= time {
            break;
        }
        if done.rounds.is_multiple_of(ROUNDS_OF_A_BOOT) {
            guest.reboot()?;
            done.reboots += 1;
            guest.load()?;
        }
    }
    guest.end(done)
}
