//! The IRQ line between a device and the interrupt chip.

/// An interrupt request line, as a device sees it.
///
/// The line keeps the level that the device last set. It leads to one source of an interrupt chip: a level for a PLIC in
/// userspace, or an irqfd for a chip in the kernel. An irqfd transmits only the rising edge, so a device with several causes
/// for its interrupt calls `set_level(true)` again for each new cause while the line is high. An implementation must treat a
/// repeated `true` as no change (PLIC) or as one more edge (irqfd).
///
/// A device may call this with its own state locked: an implementation must not call back into the device.
pub trait IrqLine: Send + Sync {
    /// Drives the line: `true` asserts the interrupt, `false` withdraws it.
    fn set_level(&self, asserted: bool);
}
