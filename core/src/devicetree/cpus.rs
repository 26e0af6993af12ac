//! The harts.

use alloc::format;

use super::{Error, Phandle, Tree};
use crate::machine::{Machine, MmuType};

/// All harts and how they are grouped (bindings: `riscv/cpus.yaml`).
pub(super) fn cpus(tree: &mut Tree, machine: &Machine) -> Result<(), Error> {
    tree.u32("#address-cells", 1)?;
    tree.u32("#size-cells", 0)?;
    tree.u32("timebase-frequency", machine.timebase_frequency)?;
    for hart in 0..machine.harts {
        tree.node(&format!("cpu@{hart:x}"), |tree| cpu(tree, machine, hart))?;
    }
    tree.node("cpu-map", |tree| {
        tree.node("cluster0", |tree| cluster(tree, machine))
    })
}

/// One hart (bindings: `riscv/cpus.yaml` and `riscv/extensions.yaml`). `riscv,isa` is deprecated in favor of the two
/// properties after it, which kernels before 6.6 do not know.
fn cpu(tree: &mut Tree, machine: &Machine, id: u32) -> Result<(), Error> {
    let hart = &machine.hart;
    let isa = machine.guest_isa();
    tree.string("device_type", "cpu")?;
    tree.string("compatible", "riscv")?;
    tree.u32("reg", id)?;
    tree.string("status", "okay")?;
    tree.string("riscv,isa", &isa.isa_string())?;
    tree.string("riscv,isa-base", isa.base())?;
    tree.strings("riscv,isa-extensions", isa.names())?;
    if let Some(mmu) = mmu_type(hart.mmu) {
        tree.string("mmu-type", mmu)?;
    }
    let block_sizes = [
        ("zicbom", "riscv,cbom-block-size", hart.cbom_block_size),
        ("zicboz", "riscv,cboz-block-size", hart.cboz_block_size),
        ("zicbop", "riscv,cbop-block-size", hart.cbop_block_size),
    ];
    for (extension, property, size) in block_sizes {
        if let Some(size) = size.filter(|_| isa.contains(extension)) {
            tree.u32(property, size)?;
        }
    }
    tree.phandle(Phandle::Cpu(id))?;
    tree.node("interrupt-controller", |tree| {
        interrupt_controller(tree, id)
    })
}

/// The value of `mmu-type`. A hart without translation has no such property.
const fn mmu_type(mmu: MmuType) -> Option<&'static str> {
    match mmu {
        MmuType::Bare => None,
        MmuType::Sv39 => Some("riscv,sv39"),
        MmuType::Sv48 => Some("riscv,sv48"),
        MmuType::Sv57 => Some("riscv,sv57"),
    }
}

/// A hart's own interrupt controller (bindings: `interrupt-controller/riscv,cpu-intc.yaml`). Its `#address-cells` is the
/// one property in this tree that a binding does not list: dtc up to 1.6, which is Debian 12's, warns of an interrupt
/// controller without it. Zero is also what it means to leave it out.
fn interrupt_controller(tree: &mut Tree, hart: u32) -> Result<(), Error> {
    tree.string("compatible", "riscv,cpu-intc")?;
    tree.flag("interrupt-controller")?;
    tree.u32("#interrupt-cells", 1)?;
    tree.u32("#address-cells", 0)?;
    tree.phandle(Phandle::CpuInterrupts(hart))
}

/// The topology: one cluster of cores that are a hart each (dt-schema: `cpu-map.yaml`).
fn cluster(tree: &mut Tree, machine: &Machine) -> Result<(), Error> {
    for hart in 0..machine.harts {
        tree.node(&format!("core{hart}"), |tree| {
            tree.u32("cpu", Phandle::Cpu(hart).cell())
        })?;
    }
    Ok(())
}
