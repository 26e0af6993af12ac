//! The one wire between a device and the interrupt chip.

/// An interrupt request line, as a device sees it.
///
/// The line is level-true: it stays where the device last put it. Behind it stands one source of an interrupt chip, a
/// level for the PLIC of the RISC-V virtual machine, or an irqfd where the chip lives in the kernel. Such an irqfd
/// carries only the rising edge, so a device with several causes behind its line calls `set_level(true)` again for each
/// new cause while the line is high; an implementation must take a repeated `true` as harmless (PLIC) or as one more
/// edge (irqfd).
///
/// A device may call this with its own state locked: an implementation must not call back into the device.
pub trait IrqLine: Send + Sync {
    /// Drives the line: `true` asserts the interrupt, `false` withdraws it.
    fn set_level(&self, asserted: bool);
}
