//! The interrupt chips, and how a device refers to its interrupt.

use alloc::vec::Vec;

use super::{Error, Phandle, Tree};
use crate::layout;
use crate::machine::{InterruptController, Machine};
use crate::node::Trigger;

/// The supervisor external interrupt, by its number in `sip` (privileged specification, section 12.1.3).
const SUPERVISOR_EXTERNAL: u32 = 9;
/// In place of a hart's interrupt: the PLIC's context is not connected. Those of M-mode are not, for guests run in
/// S-mode.
const NOT_CONNECTED: u32 = u32::MAX;

/// The properties of a device's interrupt: the chip, the source and, for an APLIC, the trigger type. A PLIC's interrupt
/// specifier has none.
pub(super) fn wire(
    tree: &mut Tree,
    machine: &Machine,
    irq: u32,
    trigger: Trigger,
) -> Result<(), Error> {
    tree.u32("interrupt-parent", Phandle::WiredInterrupts.cell())?;
    match machine.interrupts {
        InterruptController::Plic { .. } => tree.cells("interrupts", &[irq]),
        InterruptController::Aia { .. } => tree.cells("interrupts", &[irq, trigger as u32]),
    }
}

/// The platform-level interrupt controller (bindings: `interrupt-controller/sifive,plic-1.0.0.yaml`), with two contexts
/// for each hart as [`crate::plic`] numbers them.
pub(super) fn plic(tree: &mut Tree, machine: &Machine, sources: u32) -> Result<(), Error> {
    let contexts = |hart| {
        let hart = Phandle::CpuInterrupts(hart).cell();
        [hart, NOT_CONNECTED, hart, SUPERVISOR_EXTERNAL]
    };
    let contexts: Vec<u32> = (0..machine.harts).flat_map(contexts).collect();
    tree.node_at("interrupt-controller", layout::PLIC_BASE, |tree| {
        tree.strings("compatible", ["sifive,plic-1.0.0", "riscv,plic0"])?;
        tree.reg(layout::PLIC_BASE, layout::PLIC_SIZE)?;
        tree.flag("interrupt-controller")?;
        tree.u32("#interrupt-cells", 1)?;
        tree.u32("#address-cells", 0)?;
        tree.cells("interrupts-extended", &contexts)?;
        tree.u32("riscv,ndev", sources)?;
        tree.phandle(Phandle::WiredInterrupts)
    })
}

/// The APLIC, which sends messages to the IMSICs (bindings: `interrupt-controller/riscv,aplic.yaml`).
pub(super) fn aplic(tree: &mut Tree, sources: u32) -> Result<(), Error> {
    tree.node_at("interrupt-controller", layout::APLIC_BASE, |tree| {
        tree.strings("compatible", ["qemu,aplic", "riscv,aplic"])?;
        tree.reg(layout::APLIC_BASE, layout::APLIC_SIZE)?;
        tree.flag("interrupt-controller")?;
        tree.u32("#interrupt-cells", 2)?;
        tree.u32("#address-cells", 0)?;
        tree.u32("msi-parent", Phandle::MessageInterrupts.cell())?;
        tree.u32("riscv,num-sources", sources)?;
        tree.phandle(Phandle::WiredInterrupts)
    })
}

/// The IMSICs of all harts, one page after the other (bindings: `interrupt-controller/riscv,imsics.yaml`).
pub(super) fn imsics(tree: &mut Tree, machine: &Machine, ids: u32) -> Result<(), Error> {
    let file = |hart| [Phandle::CpuInterrupts(hart).cell(), SUPERVISOR_EXTERNAL];
    let files: Vec<u32> = (0..machine.harts).flat_map(file).collect();
    tree.node_at("interrupt-controller", layout::IMSIC_BASE, |tree| {
        tree.strings("compatible", ["qemu,imsics", "riscv,imsics"])?;
        tree.reg(
            layout::IMSIC_BASE,
            layout::IMSIC_STRIDE.saturating_mul(machine.harts.into()),
        )?;
        tree.flag("interrupt-controller")?;
        tree.u32("#interrupt-cells", 0)?;
        tree.u32("#address-cells", 0)?;
        tree.flag("msi-controller")?;
        tree.u32("#msi-cells", 0)?;
        tree.cells("interrupts-extended", &files)?;
        tree.u32("riscv,num-ids", ids)?;
        tree.phandle(Phandle::MessageInterrupts)
    })
}
