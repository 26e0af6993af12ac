//! The devices, of which each kind says itself what is in its nodes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Error, Phandle, Tree, interrupts};
use crate::addr::GuestPhysAddr;
use crate::machine::Machine;
use crate::node::{DeviceNode, Node, Property};

/// The devices of a machine, in ascending order of addresses.
pub(super) struct Devices<'a>(Vec<Device<'a>>);

struct Device<'a> {
    device: &'a DeviceNode,
    phandle: Phandle,
}

impl<'a> Devices<'a> {
    pub(super) fn of(machine: &'a Machine) -> Devices<'a> {
        let mut devices: Vec<&DeviceNode> = machine.devices.iter().collect();
        devices.sort_by_key(|device| device.base);
        // Those that no node refers to have no phandle, and the next one has this number.
        let mut number = 0_u32;
        let devices = devices.into_iter().map(|device| {
            let phandle = Phandle::Device(number);
            if device.node.properties.contains(&Property::Phandle) {
                number = number.saturating_add(1);
            }
            Device { device, phandle }
        });
        Devices(devices.collect())
    }

    /// The paths of the serial ports that kernels print to.
    pub(super) fn consoles(&self) -> impl Iterator<Item = String> {
        let devices = self.0.iter().map(|device| device.device);
        let consoles = devices.filter(|device| device.is_console);
        consoles.map(|device| format!("/soc/{}@{:x}", device.node.name, device.base))
    }

    /// The nodes of those whose addresses begin in this range.
    pub(super) fn nodes(
        &self,
        tree: &mut Tree,
        machine: &Machine,
        range: impl core::ops::RangeBounds<GuestPhysAddr>,
    ) -> Result<(), Error> {
        let mut devices = self.0.iter();
        devices
            .by_ref()
            .filter(|device| range.contains(&device.device.base))
            .try_for_each(|Device { device, phandle }| {
                tree.node_at(&device.node.name, device.base, |tree| {
                    properties(tree, machine, device, &device.node, *phandle)
                })
            })
    }

    /// The nodes at the root that go with them.
    pub(super) fn nodes_at_root(&self, tree: &mut Tree, machine: &Machine) -> Result<(), Error> {
        for Device { device, phandle } in &self.0 {
            for node in &device.at_root {
                tree.node(&node.name, |tree| {
                    properties(tree, machine, device, node, *phandle)
                })?;
            }
        }
        Ok(())
    }
}

/// What is in a node of `device`, which `phandle` refers to.
fn properties(
    tree: &mut Tree,
    machine: &Machine,
    device: &DeviceNode,
    node: &Node,
    phandle: Phandle,
) -> Result<(), Error> {
    node.properties
        .iter()
        .try_for_each(|property| match property {
            Property::Value(name, value) => tree.bytes(name, value),
            Property::Registers => tree.reg(device.base, device.size),
            Property::Interrupt { source, trigger } => {
                interrupts::wire(tree, machine, *source, *trigger)
            }
            Property::Phandle => tree.phandle(phandle),
            Property::Device(name) => tree.u32(name, phandle.cell()),
        })
}
