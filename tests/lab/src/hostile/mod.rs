//! The test kernel as an adversary (`tests/kernel/src/kernel/hostile.rs`), with an honest guest beside it: `cargo lab hostile` and
//! the integration tests.
//!
//! A guest attacks everything that its machine has, on all harts, for a time. What is judged is that its hypervisor lives to the
//! guest's own end, that it takes no more of the host than before, and that the neighbour finds on its disk what it has written.

mod bare;
mod printed;
mod under_hvrun;

pub use bare::{BareChip, on_bare_metal};
use printed::Counts;
pub use printed::Honest;
pub use under_hvrun::on_host;

/// How a guest attacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attack {
    /// For how long, by the guest's clock.
    pub seconds: u64,
    /// What it does follows from this number, but for what its harts do to each other.
    pub seed: u64,
    /// Reboots in between.
    pub reboots: u64,
}

/// What ends the guest of a host's KVM with an error, instead of a trap: KVM decodes nothing but plain loads and stores that are
/// aligned, and fetches from nowhere end KVM_RUN; the lab's firmware loses a hart by an illegal instruction.
const WITHOUT_UNDER_KVM: &str = "odd+fetches+illegal";

impl Attack {
    /// The guest's command line.
    fn command_line(&self, without: &str) -> String {
        let Self {
            seconds,
            seed,
            reboots,
        } = self;
        format!("hostile={seconds},seed={seed},boots={reboots},without={without}")
    }
}

/// What came of an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survived {
    /// How often the guest did what.
    counts: Counts,
    /// What the neighbour got done.
    pub honest: Honest,
    /// What the hypervisor took at most, and how much it said; nothing on bare metal.
    pub taken: String,
}

impl std::fmt::Display for Survived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            counts,
            honest,
            taken,
        } = self;
        write!(f, "{counts}; neighbour: {honest}")?;
        match taken.is_empty() {
            true => Ok(()),
            false => write!(f, "; {taken}"),
        }
    }
}

/// An outcome, or one line that says what is wrong, and what there is to read below it.
pub type Judged<T> = Result<T, String>;
