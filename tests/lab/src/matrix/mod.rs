//! hvrun on every kind of host: `cargo lab matrix`.
//!
//! A cell of the matrix is a nested host with an interrupt chip and a kernel. In each, a Linux guest and the test kernel run
//! (`checks.rs`), and a row of a table says what passed (`table.rs`).

mod checks;
mod table;

use std::path::Path;
use std::time::Instant;

use crate::host::{Error, Host, HostChip, HostKernel, Result};
pub use table::Table;

/// A kind of host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Its interrupt chip.
    pub chip: HostChip,
    /// Its kernel.
    pub kernel: HostKernel,
}

impl Cell {
    /// The cells with one of these chips and one of these kernels; an empty slice means all of them.
    #[must_use]
    pub fn chosen(chips: &[HostChip], kernels: &[HostKernel]) -> Vec<Self> {
        let chips = if chips.is_empty() {
            &HostChip::ALL
        } else {
            chips
        };
        let all = chips
            .iter()
            .flat_map(|&chip| HostKernel::ALL.map(|kernel| Self { chip, kernel }));
        all.filter(|cell| cell.kernel.knows(cell.chip))
            .filter(|cell| kernels.is_empty() || kernels.contains(&cell.kernel))
            .collect()
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.chip, self.kernel)
    }
}

/// What a cell is checked for. Each check but the last needs those before it, since they share a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// A Linux guest of two harts boots from its disk, with the interrupt chip that this host can give it.
    Boot,
    /// What it writes to the disk, it reads again.
    Disk,
    /// Host and guest reach each other by a tap interface.
    Network,
    /// The serial port takes commands, and the virtio console prints.
    Consoles,
    /// The guest reboots, finds its file, and powers off; hvrun ends with 0 and the file system is clean.
    Reboot,
    /// The test kernel finds what it has to find on this host.
    TestKernel,
}

impl Check {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 6] = [
        Self::Boot,
        Self::Disk,
        Self::Network,
        Self::Consoles,
        Self::Reboot,
        Self::TestKernel,
    ];
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed; with a remark for the table, or none.
    Passed(String),
    /// It failed: one line that says why.
    Failed(String),
    /// It was not made, because one before it failed.
    NotMade,
}

/// A row of the matrix.
#[derive(Debug, Clone)]
pub struct Row {
    /// The cell.
    pub cell: Cell,
    /// The release of the host's kernel, or nothing if it did not boot.
    pub release: String,
    /// Why the host did not boot, if so.
    pub host: Option<String>,
    /// In the order of [`Check::ALL`].
    pub outcomes: [Outcome; 6],
    /// How long it took, the boot of the host included.
    pub seconds: u64,
}

impl Row {
    /// Whether everything passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        let passed = |outcome: &Outcome| matches!(outcome, Outcome::Passed(_));
        self.host.is_none() && self.outcomes.iter().all(passed)
    }
}

/// Checks the hvrun of this path in these cells, one after the other. `say` is called with a line before and after each of them.
///
/// A cell that fails does not keep the others from being checked.
pub fn run(cells: &[Cell], hvrun: &Path, say: &dyn Fn(&str)) -> Table {
    let mut rows = Vec::new();
    for (number, &cell) in cells.iter().enumerate() {
        say(&format!("{cell} ({} of {}) ...", number + 1, cells.len()));
        let row = row(cell, hvrun);
        let result = if row.passed() { "ok" } else { "FAILED" };
        say(&format!("{cell}: {result}, {} s", row.seconds));
        rows.push(row);
    }
    Table { rows }
}

fn row(cell: Cell, hvrun: &Path) -> Row {
    let started = Instant::now();
    let mut row = Row {
        cell,
        release: String::new(),
        host: None,
        outcomes: std::array::from_fn(|_| Outcome::NotMade),
        seconds: 0,
    };
    match boot(cell) {
        Ok((host, release)) => {
            row.release = release;
            row.outcomes = checks::all(&host, cell, hvrun);
        }
        Err(error) => row.host = Some(reason(&error)),
    }
    row.seconds = started.elapsed().as_secs();
    row
}

fn boot(cell: Cell) -> Result<(Host, String)> {
    // vhost_net brings taps with it.
    let config = cell.kernel.config(cell.chip)?.module("vhost_net").quietly();
    let host = Host::boot(config)?;
    let release = host.exec(["uname", "-r"]).check(checks::STEP)?;
    let release = release.stdout_text();
    Ok((host, release))
}

/// An error in one line.
fn reason(error: &Error) -> String {
    let summary = error.summary().lines().next().unwrap_or_default();
    match error.logs() {
        Some(logs) => format!("{summary} (logs: {})", logs.display()),
        None => summary.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_chosen_by_chip_and_kernel() {
        let names = |chips: &[HostChip], kernels: &[HostKernel]| {
            let cells = Cell::chosen(chips, kernels);
            let names: Vec<_> = cells.iter().map(Cell::to_string).collect();
            names.join(", ")
        };
        assert_eq!(
            names(&[], &[]),
            "plic oldest, plic stable, plic newest, aia stable, aia newest, aia-files stable, aia-files newest"
        );
        let (aia, newest) = ([HostChip::Aia], [HostKernel::Newest]);
        assert_eq!(names(&aia, &newest), "aia newest");
        assert_eq!(names(&aia, &[]), "aia stable, aia newest");
        assert_eq!(names(&[], &[HostKernel::Oldest]), "plic oldest");
        assert_eq!(names(&aia, &[HostKernel::Oldest]), "");
    }
}
