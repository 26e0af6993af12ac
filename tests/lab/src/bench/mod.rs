//! The benchmarks: hvrun, QEMU by KVM and any other VMM side by side on one nested host whose clock counts instructions.
//!
//! Each subject is a file with a function that measures one VMM, and most with one that measures the floor: the same
//! without any VMM. They say what they measured to a [`Report`], and share a `Bench`, which is the host with
//! everything in its memory.

mod boot;
mod consoles;
mod disk;
mod growth;
mod guest;
mod harts;
mod network;
mod payload;
mod profile;
mod report;
mod resident;
mod size;
mod start;
mod vmm;

use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

pub use profile::{Profile, Work, profile};
pub use report::{Column, Figure, Report, Unit};
pub use size::Size;
pub use vmm::{Template, Vmm, VmmError};

use crate::host::{self, HostChip, HostConfig};
use crate::provision;
use guest::Bench;

/// Something that was to be measured and could not be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// By the nested host.
    #[error("{}", .0.summary())]
    Host(#[from] host::Error),
    /// A part of it is missing.
    #[error(transparent)]
    Provision(#[from] provision::Error),
    /// A file of this machine.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A guest or a VMM did something else than it was to do.
    #[error("{0}")]
    Unexpected(String),
}

type Result<T> = std::result::Result<T, Error>;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Start and end of a VMM whose guest does nothing.
    Start,
    /// From the guest kernel's start to its first process.
    Boot,
    /// Reads and writes.
    Disk,
    /// Output by UART, virtio console and SBI.
    Console,
    /// Timer interrupts, and interrupts between harts.
    Harts,
    /// Memory, threads and exits while the guest idles, and the size of the binary.
    Resident,
    /// TCP.
    Network,
    /// How all of these grow with vCPUs, disks and memory.
    Growth,
}

impl Subject {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Boot,
        Self::Disk,
        Self::Console,
        Self::Harts,
        Self::Resident,
        Self::Network,
        Self::Growth,
    ];

    /// What the user calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Boot => "boot",
            Self::Disk => "disk",
            Self::Console => "console",
            Self::Harts => "harts",
            Self::Resident => "resident",
            Self::Network => "network",
            Self::Growth => "growth",
        }
    }

    /// What the standard guest, which several subjects share, does for it.
    fn tasks(self) -> Vec<String> {
        match self {
            Self::Disk => disk::tasks(),
            Self::Console => consoles::tasks(),
            Self::Harts => harts::tasks(),
            Self::Resident => resident::tasks(),
            Self::Growth => {
                let others = Self::ALL.into_iter().filter(|other| *other != Self::Growth);
                others.flat_map(Self::tasks).collect()
            }
            Self::Start | Self::Boot | Self::Network => Vec::new(),
        }
    }
}

impl std::str::FromStr for Subject {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|subject| subject.name() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.map(Self::name).into();
            format!("there is no subject {name:?}, only {}", names.join(", "))
        })
    }
}

/// Measures these subjects on hosts of these kinds, at the same time: their clocks do not know of each other. `progress` is
/// told what comes next.
///
/// # Errors
/// A host does not come up, or a part of it is missing. What a single VMM cannot do is a figure that is not there, and a line
/// to `progress`.
pub fn run(
    subjects: &[Subject],
    chips: &[HostChip],
    vmms: &[Vmm],
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Report> {
    thread::scope(|scope| {
        let hosts: Vec<_> = chips
            .iter()
            .map(|chip| scope.spawn(|| on_host(subjects, *chip, vmms, progress)))
            .collect();
        let mut report = Report::default();
        for host in hosts {
            report.merge(host.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(report)
    })
}

fn on_host(
    subjects: &[Subject],
    chip: HostChip,
    vmms: &[Vmm],
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Report> {
    let mut report = Report::default();
    progress(&format!("{chip}: booting the host"));
    let bench = Bench::boot(config(chip), subjects, vmms)?;
    for (name, value) in bench.conditions()? {
        report.condition(&name, &value);
    }
    for &subject in subjects {
        progress(&format!("{chip}: {}, the floor", subject.name()));
        let mut column = report.column(chip, Column::Floor);
        let measured = match subject {
            Subject::Boot => boot::floor(&bench, &mut column),
            Subject::Disk => disk::floor(&bench, &mut column),
            Subject::Console => consoles::floor(&bench, &mut column),
            Subject::Harts => harts::floor(&bench, &mut column),
            _ => Ok(()),
        };
        if let Err(error) = measured {
            progress(&format!("{chip}: {}, the floor: {error}", subject.name()));
        }
        for vmm in bench.vmms() {
            progress(&format!("{chip}: {}, {}", subject.name(), vmm.name));
            let mut column = report.column(chip, Column::Vmm(vmm.name.clone()));
            let measured = match subject {
                Subject::Start => start::measure(&bench, vmm, &mut column),
                Subject::Boot => boot::measure(&bench, vmm, &mut column),
                Subject::Disk => disk::measure(&bench, vmm, &mut column),
                Subject::Console => consoles::measure(&bench, vmm, &mut column),
                Subject::Harts => harts::measure(&bench, vmm, &mut column),
                Subject::Resident => resident::measure(&bench, vmm, &mut column),
                Subject::Network => network::measure(&bench, vmm, &mut column),
                Subject::Growth => growth::measure(&bench, vmm, &mut column),
            };
            if let Err(error) = measured {
                progress(&format!(
                    "{chip}: {}, {}: {error}",
                    subject.name(),
                    vmm.name
                ));
            }
        }
    }
    Ok(report)
}

/// Of the hosts' memory: everything is in it, and the largest guest.
const HOST_MEMORY_MIB: u32 = 4096;

/// The host that everything is measured in.
fn config(chip: HostChip) -> HostConfig {
    HostConfig::new(chip)
        .instruction_clock()
        .memory_mib(HOST_MEMORY_MIB)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::File {
        path: path.display().to_string(),
        error,
    })
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).map_err(|error| Error::File {
        path: path.display().to_string(),
        error,
    })
}
