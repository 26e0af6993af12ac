//! The kernels that hosts of the lab run.

use super::{HostChip, HostConfig, Result, SV57_CPU, setup_error};
use crate::provision::{self, DebianKernel};

/// The kernel of a nested host, by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostKernel {
    /// Linux 6.1, the oldest that hvrun runs on. It knows no AIA.
    Oldest,
    /// Debian stable's.
    Stable,
    /// The newest that is packaged.
    Newest,
}

impl HostKernel {
    /// From the oldest to the newest.
    pub const ALL: [Self; 3] = [Self::Oldest, Self::Stable, Self::Newest];

    /// `oldest`, `stable` or `newest`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Stable => "stable",
            Self::Newest => "newest",
        }
    }

    /// Whether this kernel runs on a host with this chip.
    #[must_use]
    pub fn knows(self, chip: HostChip) -> bool {
        self != Self::Oldest || !chip.has_aia()
    }

    /// A host with this chip and kernel. With the oldest and the newest kernel, its harts have an extension that matters to
    /// KVM of that age.
    ///
    /// # Errors
    /// The kernel cannot be had.
    pub fn config(self, chip: HostChip) -> Result<HostConfig> {
        let config = HostConfig::new(chip);
        let kernel = match self {
            Self::Oldest => provision::oldest_kernel(),
            Self::Stable => return Ok(config),
            Self::Newest => provision::debian_kernel(DebianKernel::Backports),
        };
        let config = config.kernel(kernel.map_err(setup_error)?);
        Ok(match (self, chip) {
            // State enable bits, which KVM of that age does not know.
            (Self::Oldest, _) => config.cpu("rv64,h=true,sv57=off,sv48=off,smstateen=on"),
            // The usual one, but that it sets accessed and dirty bits by itself (Svadu without Svade), for guests too.
            (_, HostChip::Plic) => config.cpu("rv64,h=true,sv57=off,sv48=off,svade=off,svadu=on"),
            (_, HostChip::Aia | HostChip::AiaFiles) => config.cpu(SV57_CPU),
        })
    }
}

impl std::fmt::Display for HostKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for HostKernel {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kernel| kernel.name() == name);
        found.ok_or_else(|| {
            format!("there is no host kernel {name:?}, only `oldest`, `stable` and `newest`")
        })
    }
}
