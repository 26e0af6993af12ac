//! Why a machine cannot have a device of the program's own.

use hv_core::layout::{PLATFORM_BASE, PLATFORM_IRQS, PLATFORM_SIZE};

/// Why a machine cannot have a device of the program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformProblem {
    /// The device tree cannot have a node or a property of that name, or has it already.
    #[error("its name, or that of a property, cannot be in the device tree")]
    Name,
    /// It has no registers, or they are not all on the platform bus.
    #[error(
        "its registers are not within {PLATFORM_BASE} and the {PLATFORM_SIZE:#x} bytes from there"
    )]
    Region,
    /// Another device has some of the addresses.
    #[error("its registers overlap those of another device")]
    Overlap,
    /// It is not one of the sources for such devices.
    #[error("its interrupt source is not within {} to {}", PLATFORM_IRQS.start(), PLATFORM_IRQS.end())]
    Irq,
    /// Another device has the interrupt source.
    #[error("its interrupt source is that of another device")]
    IrqTaken,
}
