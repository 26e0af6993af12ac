//! Devices of the program's own with memory-mapped registers, on the board's platform bus.

use std::fmt;
use std::io;
use std::sync::Arc;

use hv_core::addr::GuestPhysAddr;
use hv_core::layout::{PLATFORM_BASE, PLATFORM_IRQS, PLATFORM_SIZE};
use hv_core::node::{DeviceNode, Node, Trigger};
use hv_devices::bus::MmioDevice;
use hv_devices::interrupt::IrqLine;

use crate::Error;
use crate::error::PlatformProblem;

/// The longest name of a device-tree node, in bytes (Devicetree Specification 0.4, section 2.2.1).
const LONGEST_NAME: usize = 31;

/// A device of the program's own. The guest finds it in the device tree that it is given, unless that is a file of the
/// user's ([`Config::dtb`](crate::Config::dtb)).
pub struct PlatformDevice {
    /// The name of its device-tree node, without the address.
    name: String,
    base: GuestPhysAddr,
    size: u64,
    irq: Option<u32>,
    properties: Vec<(String, Vec<u8>)>,
    power_on: Box<PowerOn>,
}

type PowerOn = dyn Fn(Option<Arc<dyn IrqLine>>) -> io::Result<Arc<dyn MmioDevice>> + Send + Sync;

impl fmt::Debug for PlatformDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("PlatformDevice");
        debug.field("node", &self.node()).finish_non_exhaustive()
    }
}

impl PlatformDevice {
    /// The first address of the platform bus, and its size in bytes.
    pub const BUS: (u64, u64) = (PLATFORM_BASE.0, PLATFORM_SIZE);
    /// The first and the last of the interrupt sources that such devices may have.
    pub const IRQS: (u32, u32) = (*PLATFORM_IRQS.start(), *PLATFORM_IRQS.end());

    /// A device whose registers are the `size` bytes from `base` on, within [`BUS`](Self::BUS). `name` is what its device-tree
    /// node is called, without the address.
    ///
    /// `power_on` makes the device for each boot of the guest, in its state after power-on. It gets the IRQ line, if the device
    /// [has one](Self::irq): a level, which the device keeps high as long as it requests an interrupt. vCPU threads call the
    /// device at the same time, and none goes on before it returns.
    pub fn new(
        name: impl Into<String>,
        base: u64,
        size: u64,
        power_on: impl Fn(Option<Arc<dyn IrqLine>>) -> io::Result<Arc<dyn MmioDevice>>
        + Send
        + Sync
        + 'static,
    ) -> PlatformDevice {
        PlatformDevice {
            name: name.into(),
            base: GuestPhysAddr(base),
            size,
            irq: None,
            properties: Vec::new(),
            power_on: Box::new(power_on),
        }
    }

    /// Gives it this interrupt source, one of [`IRQS`](Self::IRQS).
    #[must_use]
    pub fn irq(mut self, source: u32) -> PlatformDevice {
        self.irq = Some(source);
        self
    }

    /// Adds a property to its device-tree node, with the value as it is in the tree: strings end with a NUL, numbers are
    /// big-endian. Linux looks for its driver by `compatible`. `reg` and the interrupt's properties are there already.
    #[must_use]
    pub fn property(
        mut self,
        name: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> PlatformDevice {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// What the device tree says of it.
    pub(crate) fn node(&self) -> DeviceNode {
        let properties = self.properties.iter();
        let node = properties.fold(Node::new(&*self.name), |node, (name, value)| {
            node.value(name, &**value)
        });
        let node = node.registers();
        let node = match self.irq {
            Some(irq) => node.interrupt(irq, Trigger::LevelHigh),
            None => node,
        };
        DeviceNode::new(self.base, self.size, node)
    }

    /// The first address of its registers, and their size in bytes.
    pub(crate) fn registers(&self) -> (GuestPhysAddr, u64) {
        (self.base, self.size)
    }

    /// Its interrupt source, if it has one.
    pub(crate) fn source(&self) -> Option<u32> {
        self.irq
    }

    /// The device as it is when the machine is switched on.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn power_on(
        &self,
        line: Option<Arc<dyn IrqLine>>,
    ) -> io::Result<Arc<dyn MmioDevice>> {
        (self.power_on)(line)
    }
}

/// Sorts the devices by their addresses.
///
/// # Errors
/// The machine cannot have one of them.
pub(crate) fn sort(devices: &mut [PlatformDevice]) -> Result<(), Error> {
    devices.sort_by_key(|device| device.base);
    let mut free = PLATFORM_BASE.0;
    for (position, device) in devices.iter().enumerate() {
        let others = devices.iter().take(position);
        check(device, free, others).map_err(|problem| Error::PlatformDevice {
            name: device.name.clone(),
            problem,
        })?;
        free = device.base.0.saturating_add(device.size);
    }
    Ok(())
}

/// Checks a device whose addresses may begin at `free`, and which comes after `others`.
fn check<'a>(
    device: &PlatformDevice,
    free: u64,
    mut others: impl Iterator<Item = &'a PlatformDevice>,
) -> Result<(), PlatformProblem> {
    let is_name = |name: &str| {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b",._+-?#".contains(&byte);
        (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_valid)
    };
    let own = ["reg", "interrupts", "interrupt-parent"];
    let names = device.properties.iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = names.chain(own).collect();
    let is_unique = |(position, name)| !names.iter().take(position).any(|other| *other == name);
    if !is_name(&device.name)
        || !names.iter().all(|name| is_name(name))
        || !names.iter().copied().enumerate().all(is_unique)
    {
        return Err(PlatformProblem::Name);
    }
    let end = device.base.0.checked_add(device.size);
    if device.size == 0
        || device.base < PLATFORM_BASE
        || end.is_none_or(|end| end > PLATFORM_BASE.0.saturating_add(PLATFORM_SIZE))
    {
        return Err(PlatformProblem::Region);
    }
    if device.base.0 < free {
        return Err(PlatformProblem::Overlap);
    }
    match device.irq {
        Some(irq) if !PLATFORM_IRQS.contains(&irq) => Err(PlatformProblem::Irq),
        Some(irq) if others.any(|other| other.irq == Some(irq)) => Err(PlatformProblem::IrqTaken),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, base: u64, size: u64) -> PlatformDevice {
        PlatformDevice::new(name, base, size, |_| Err(io::ErrorKind::Unsupported.into()))
    }

    fn problem(devices: Vec<PlatformDevice>) -> Option<PlatformProblem> {
        let mut devices = devices;
        match sort(&mut devices) {
            Ok(()) => None,
            Err(Error::PlatformDevice { problem, .. }) => Some(problem),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn devices_lie_side_by_side_in_the_order_of_their_addresses() {
        let (start, size) = PlatformDevice::BUS;
        let mut devices = vec![
            device("c", start + size - 1, 1).irq(63),
            device("a", start, 0x100)
                .irq(36)
                .property("compatible", *b"a\0"),
            device("a", start + 0x100, size - 0x101),
        ];
        sort(&mut devices).unwrap();
        let bases: Vec<u64> = devices.iter().map(|device| device.base.0).collect();
        assert_eq!(bases, [start, start + 0x100, start + size - 1]);
        assert_eq!(problem(vec![]), None);
    }

    #[test]
    fn impossible_devices_are_refused() {
        use PlatformProblem::*;
        let (start, size) = PlatformDevice::BUS;
        for (base, length) in [
            (start - 1, 2),
            (start, 0),
            (start, size + 1),
            (start + size, 1),
            (start, u64::MAX),
            (u64::MAX, 1),
            (0x8000_0000, 8),
        ] {
            assert_eq!(problem(vec![device("a", base, length)]), Some(Region));
        }
        let two = |first, second| problem(vec![first, second]);
        assert_eq!(
            two(device("a", start + 7, 8), device("b", start, 8)),
            Some(Overlap)
        );
        for irq in [0, 1, 35, 64, u32::MAX] {
            assert_eq!(problem(vec![device("a", start, 8).irq(irq)]), Some(Irq));
        }
        let at = |base| device("a", base, 8).irq(40);
        assert_eq!(two(at(start), at(start + 8)), Some(IrqTaken));
        for name in ["", "a@1", "a/b", "nul\0", "a name", &"a".repeat(32)] {
            assert_eq!(problem(vec![device(name, start, 8)]), Some(Name), "{name}");
            let property = device("a", start, 8).property(name, *b"");
            assert_eq!(problem(vec![property]), Some(Name), "{name}");
        }
        let reg = device("a", start, 8).property("reg", *b"");
        assert_eq!(problem(vec![reg]), Some(Name));
        let twice = device("a", start, 8)
            .property("b", *b"")
            .property("b", *b"");
        assert_eq!(problem(vec![twice]), Some(Name));
    }
}
