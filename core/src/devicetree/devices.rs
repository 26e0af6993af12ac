//! The devices.

use super::interrupts::{self, Trigger};
use super::{Error, Tree};
use crate::addr::GuestPhysAddr;
use crate::layout;
use crate::machine::Machine;

/// The serial port (bindings: `serial/8250.yaml`).
pub(super) fn serial(tree: &mut Tree, machine: &Machine) -> Result<(), Error> {
    tree.node_at("serial", layout::UART_BASE, |tree| {
        tree.string("compatible", "ns16550a")?;
        tree.reg(layout::UART_BASE, layout::UART_SIZE)?;
        tree.u32("clock-frequency", layout::UART_CLOCK)?;
        interrupts::wire(tree, machine, layout::UART_IRQ, Trigger::LevelHigh)
    })
}

/// One virtio-mmio transport (bindings: `virtio/mmio.yaml`). An in-kernel APLIC tells nobody when an interrupt has been
/// handled, so that a level could not be raised again at the right time; there a rising edge is the interrupt, of which
/// the device makes one for each notification.
pub(super) fn virtio_mmio(
    tree: &mut Tree,
    machine: &Machine,
    address: GuestPhysAddr,
    irq: u32,
) -> Result<(), Error> {
    tree.node_at("virtio_mmio", address, |tree| {
        tree.string("compatible", "virtio,mmio")?;
        tree.reg(address, layout::VIRTIO_STRIDE)?;
        interrupts::wire(tree, machine, irq, Trigger::EdgeRising)
    })
}
