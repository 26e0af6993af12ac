//! The machine as a flattened device tree (Devicetree Specification 0.4), in the terms of Linux's bindings
//! (`Documentation/devicetree/bindings` there; the binding is named at each node). Node names and values follow QEMU's
//! `virt` board where the bindings leave a choice.
//!
//! One function writes one node. Those of devices are values that each kind of device makes ([`node`](crate::node)): a new kind is
//! no change here.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use vm_fdt::FdtWriter;

use crate::addr::GuestPhysAddr;
use crate::layout;
use crate::machine::{InterruptController, Machine};

use devices::Devices;

mod cpus;
mod devices;
pub mod given;
mod interrupts;

#[cfg(test)]
mod tests;

/// Why a machine has no device tree.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No hart, or more than the memory map has room for.
    #[error("a machine has 1 to {max} harts, not {0}", max = layout::MAX_HARTS)]
    Harts(u32),
    /// No RAM, or RAM beyond the end of the address space.
    #[error("{size} bytes of RAM do not fit into the address space from {base} on")]
    Ram {
        /// Where it was to begin.
        base: GuestPhysAddr,
        /// How many bytes it was to be.
        size: u64,
    },
    /// The tree cannot be written. The causes in a machine's description are a command line with a NUL in it, and a name that no
    /// node or property can have.
    #[error("the device tree cannot be written: {0}")]
    Write(vm_fdt::Error),
}

impl From<vm_fdt::Error> for Error {
    fn from(error: vm_fdt::Error) -> Self {
        Self::Write(error)
    }
}

/// The device tree of `machine`, as the blob that a kernel is given.
///
/// # Errors
/// An [`Error`] if `machine` cannot be described.
pub fn build(machine: &Machine) -> Result<Vec<u8>, Error> {
    if !(1..=layout::MAX_HARTS).contains(&machine.harts) {
        return Err(Error::Harts(machine.harts));
    }
    let (base, size) = (machine.ram_base, machine.ram_size);
    if size == 0 || base.checked_add(size).is_none() {
        return Err(Error::Ram { base, size });
    }
    let mut tree = Tree(FdtWriter::new()?);
    let devices = Devices::of(machine);
    tree.node("", |tree| root(tree, machine, &devices))?;
    Ok(tree.0.finish()?)
}

/// Free space at the end of a guest's device tree, bytes. A boot loader enters command line and initrd in the tree in place, or
/// in a copy of the same size. It expects that there is free space, as firmware leaves it: otherwise U-Boot would overwrite its
/// own data.
pub const ROOM: usize = 8 << 10;

/// Adds [`ROOM`] behind the last block of a device tree, which its header counts in (Devicetree Specification 0.4, section 5.2,
/// `totalsize`).
pub fn add_room(blob: &mut Vec<u8>) {
    blob.resize(blob.len().saturating_add(ROOM), 0);
    // A tree is at most a few megabytes.
    let size = u32::try_from(blob.len()).unwrap_or(u32::MAX);
    if let Some(total_size) = blob.get_mut(4..8) {
        total_size.copy_from_slice(&size.to_be_bytes());
    }
}

/// The root node (dt-schema: `root-node.yaml`).
fn root(tree: &mut Tree, machine: &Machine, devices: &Devices) -> Result<(), Error> {
    tree.u32("#address-cells", 2)?;
    tree.u32("#size-cells", 2)?;
    tree.string("compatible", "riscv-virtio")?;
    tree.string("model", "riscv-virtio,hvrun")?;
    tree.node("aliases", |tree| aliases(tree, devices))?;
    tree.node("chosen", |tree| chosen(tree, machine, devices))?;
    tree.node_at("memory", machine.ram_base, |tree| memory(tree, machine))?;
    tree.node("cpus", |tree| cpus::cpus(tree, machine))?;
    tree.node("soc", |tree| soc(tree, machine, devices))?;
    tree.node("hypervisor", |tree| hypervisor(tree, machine))?;
    devices.nodes_at_root(tree, machine)
}

/// Short names of devices, which number the serial ports in Linux (dt-schema: `aliases.yaml`).
fn aliases(tree: &mut Tree, devices: &Devices) -> Result<(), Error> {
    for (number, path) in (0_u32..).zip(devices.consoles()) {
        tree.string(&format!("serial{number}"), &path)?;
    }
    Ok(())
}

/// What the boot loader tells the kernel (dt-schema: `chosen.yaml`).
fn chosen(tree: &mut Tree, machine: &Machine, devices: &Devices) -> Result<(), Error> {
    if !machine.command_line.is_empty() {
        tree.string("bootargs", &machine.command_line)?;
    }
    if let Some(console) = devices.consoles().next() {
        tree.string("stdout-path", &console)?;
    }
    if let Some(Range { start, end }) = machine.initrd {
        tree.u64("linux,initrd-start", start)?;
        tree.u64("linux,initrd-end", end)?;
    }
    if let Some(seed) = &machine.rng_seed {
        tree.bytes("rng-seed", seed)?;
    }
    Ok(())
}

/// What tells a guest that it is one. There is no binding for RISC-V; Linux has it for Xen on Arm (`arm/xen.txt`), KVM on
/// PowerPC has the same node, and systemd-detect-virt looks for it on all of them.
fn hypervisor(tree: &mut Tree, machine: &Machine) -> Result<(), Error> {
    tree.string("compatible", machine.hypervisor)
}

/// RAM (dt-schema: `memory.yaml`).
fn memory(tree: &mut Tree, machine: &Machine) -> Result<(), Error> {
    tree.string("device_type", "memory")?;
    tree.reg(machine.ram_base, machine.ram_size)
}

/// Everything at an address other than RAM, in ascending order of addresses (dt-schema: `simple-bus.yaml`).
fn soc(tree: &mut Tree, machine: &Machine, devices: &Devices) -> Result<(), Error> {
    tree.u32("#address-cells", 2)?;
    tree.u32("#size-cells", 2)?;
    tree.string("compatible", "simple-bus")?;
    tree.flag("ranges")?;
    // Both chips begin within the PLIC's window, where nothing else is.
    let (wired, messages) = (layout::PLIC_BASE, layout::IMSIC_BASE);
    devices.nodes(tree, machine, ..wired)?;
    match machine.interrupts {
        InterruptController::Plic { sources } => interrupts::plic(tree, machine, sources)?,
        InterruptController::Aia { sources, .. } => interrupts::aplic(tree, sources)?,
    }
    devices.nodes(tree, machine, wired..messages)?;
    if let InterruptController::Aia { ids, .. } = machine.interrupts {
        interrupts::imsics(tree, machine, ids)?;
    }
    devices.nodes(tree, machine, messages..)
}

/// A node that others refer to.
#[derive(Clone, Copy)]
enum Phandle {
    /// The chip that the devices' IRQ lines lead to: PLIC or APLIC.
    WiredInterrupts,
    /// The IMSICs.
    MessageInterrupts,
    /// A device, by its number among those that others refer to.
    Device(u32),
    /// A hart.
    Cpu(u32),
    /// A hart's own interrupt controller.
    CpuInterrupts(u32),
}

/// The lowest number that no hart's phandles have.
const FIRST_AFTER_HARTS: u32 = 4 + 2 * layout::MAX_HARTS;

impl Phandle {
    /// The number in the tree, unique and not 0, as hart numbers are below [`layout::MAX_HARTS`].
    const fn cell(self) -> u32 {
        match self {
            Self::WiredInterrupts => 1,
            Self::MessageInterrupts => 2,
            Self::Device(0) => 3,
            Self::Device(number) => FIRST_AFTER_HARTS.saturating_add(number).saturating_sub(1),
            Self::Cpu(hart) => hart.saturating_mul(2).saturating_add(4),
            Self::CpuInterrupts(hart) => hart.saturating_mul(2).saturating_add(5),
        }
    }
}

/// The tree while it is written. Properties of a node come before its children.
struct Tree(FdtWriter);

impl Tree {
    /// A node of this name, its contents written by `body`.
    fn node(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let node = self.0.begin_node(name)?;
        body(self)?;
        Ok(self.0.end_node(node)?)
    }

    /// A node that is called after its address.
    fn node_at(
        &mut self,
        name: &str,
        address: GuestPhysAddr,
        body: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.node(&format!("{name}@{address:x}"), body)
    }

    /// Makes the node the one that `phandle` refers to.
    fn phandle(&mut self, phandle: Phandle) -> Result<(), Error> {
        Ok(self.0.property_phandle(phandle.cell())?)
    }

    /// The property of a device's registers, where addresses and sizes have two cells each.
    fn reg(&mut self, address: GuestPhysAddr, size: u64) -> Result<(), Error> {
        Ok(self.0.property_array_u64("reg", &[address.0, size])?)
    }

    fn flag(&mut self, name: &str) -> Result<(), Error> {
        Ok(self.0.property_null(name)?)
    }

    fn u32(&mut self, name: &str, value: u32) -> Result<(), Error> {
        Ok(self.0.property_u32(name, value)?)
    }

    fn u64(&mut self, name: &str, value: u64) -> Result<(), Error> {
        Ok(self.0.property_u64(name, value)?)
    }

    fn cells(&mut self, name: &str, cells: &[u32]) -> Result<(), Error> {
        Ok(self.0.property_array_u32(name, cells)?)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.0.property(name, bytes)?)
    }

    fn string(&mut self, name: &str, value: &str) -> Result<(), Error> {
        Ok(self.0.property_string(name, value)?)
    }

    fn strings<'a>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let values: Vec<String> = values.into_iter().map(ToString::to_string).collect();
        Ok(self.0.property_string_list(name, values)?)
    }
}
