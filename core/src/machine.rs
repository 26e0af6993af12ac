//! The description of one machine. The device tree, the bus and the interrupt chip are all built from this description, so
//! that they cannot disagree.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::GuestPhysAddr;
use crate::isa::Isa;
use crate::node::DeviceNode;

/// Everything about a machine that its guest can observe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How many harts; their ids are 0 to `harts - 1`.
    pub harts: u32,
    /// What each hart is: all harts are alike.
    pub hart: Hart,
    /// Frequency of the `time` CSR in Hz.
    pub timebase_frequency: u32,
    /// Where RAM begins: [`crate::layout::RAM_BASE`], unless a hypervisor cannot place it there.
    pub ram_base: GuestPhysAddr,
    /// Size of RAM in bytes, from there upwards.
    pub ram_size: u64,
    /// Which interrupt chip the machine has.
    pub interrupts: InterruptController,
    /// Whose machine it is, as the `compatible` of the node `/hypervisor`; what guests know of is `linux,kvm` and `xen,xen`.
    pub hypervisor: &'static str,
    /// The devices: those of [`board`](crate::board), and what else there is.
    pub devices: Vec<DeviceNode>,
    /// The kernel's command line; empty for none.
    pub command_line: String,
    /// Where the initial RAM disk lies, in guest-physical addresses.
    pub initrd: Option<Range<u64>>,
    /// Entropy for the guest's random number generator, from the host's. Fresh for every boot.
    pub rng_seed: Option<[u8; 32]>,
}

impl Machine {
    /// The ISA that the guest's device tree names. The harts of a machine with a PLIC have no IMSIC, so the AIA extensions of
    /// the host's harts are left out.
    #[must_use]
    pub fn guest_isa(&self) -> Isa {
        match self.interrupts {
            InterruptController::Plic { .. } => self.hart.isa.without(&["smaia", "ssaia"]),
            InterruptController::Aia { .. } => self.hart.isa.clone(),
        }
    }
}

/// What one hart is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hart {
    /// Its ISA extensions.
    pub isa: Isa,
    /// The largest address-translation mode it has.
    pub mmu: MmuType,
    /// Bytes in a cache block of Zicbom's management instructions.
    pub cbom_block_size: Option<u32>,
    /// Bytes in a cache block of Zicboz's zeroing instruction.
    pub cboz_block_size: Option<u32>,
    /// Bytes in a cache block of Zicbop's prefetch instructions.
    pub cbop_block_size: Option<u32>,
}

/// The largest mode that a hart's `satp` CSR can take (privileged specification, section 12.1.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmuType {
    /// No translation at all.
    Bare,
    /// 39-bit virtual addresses, three levels.
    Sv39,
    /// 48-bit virtual addresses, four levels.
    Sv48,
    /// 57-bit virtual addresses, five levels.
    Sv57,
}

/// The interrupt chip that the devices' IRQ lines lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptController {
    /// The platform-level interrupt controller, modelled in [`crate::plic`].
    Plic {
        /// The highest interrupt source; sources are 1 to this.
        sources: u32,
    },
    /// The advanced interrupt architecture: an APLIC that turns wired interrupts into messages, and one IMSIC per hart.
    Aia {
        /// The highest interrupt source of the APLIC; sources are 1 to this.
        sources: u32,
        /// The highest interrupt identity of each IMSIC; identities are 1 to this. One below a multiple of 64.
        ids: u32,
    },
}

impl InterruptController {
    /// The highest interrupt source; sources are 1 to this.
    #[must_use]
    pub const fn sources(&self) -> u32 {
        match *self {
            Self::Plic { sources } | Self::Aia { sources, .. } => sources,
        }
    }
}
