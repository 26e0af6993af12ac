//! The sizes of machines whose figures are compared.

use std::fmt;

use super::guest::DISK;
use super::vmm::Machine;

/// In what a guest's machine differs from the usual one, which has one hart, one disk and 256 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// In nothing.
    Usual,
    /// It has so many harts.
    Harts(u32),
    /// It has so many disks.
    Disks(u32),
    /// It has so many MiB of memory.
    Memory(u32),
}

impl Size {
    /// Those that are measured beside the usual one.
    pub(super) const OTHERS: [Self; 7] = [
        Self::Harts(2),
        Self::Harts(4),
        Self::Harts(8),
        Self::Disks(8),
        Self::Memory(128),
        Self::Memory(512),
        Self::Memory(2048),
    ];

    /// Gives a machine this size.
    pub(super) fn apply(self, machine: &mut Machine) {
        machine.disks = vec![DISK.into()];
        match self {
            Self::Usual => {}
            Self::Harts(harts) => machine.cpus = harts,
            // A disk is locked by who uses it, so each is a file of its own.
            Self::Disks(disks) => {
                let further = (1..disks).map(|number| format!("{DISK}.{number}"));
                machine.disks.extend(further);
            }
            Self::Memory(mib) => machine.memory_mib = mib,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual => f.write_str("usual"),
            Self::Harts(harts) => write!(f, "{harts} harts"),
            Self::Disks(disks) => write!(f, "{disks} disks"),
            Self::Memory(mib) => write!(f, "{mib} MiB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_changes_one_thing() {
        let made = |size: Size| {
            let mut machine = Machine {
                cpus: 1,
                memory_mib: 256,
                ..Machine::default()
            };
            size.apply(&mut machine);
            (machine.cpus, machine.disks.len(), machine.memory_mib)
        };
        assert_eq!(made(Size::Usual), (1, 1, 256));
        assert_eq!(made(Size::Harts(8)), (8, 1, 256));
        assert_eq!(made(Size::Disks(8)), (1, 8, 256));
        assert_eq!(made(Size::Memory(2048)), (1, 1, 2048));
    }
}
