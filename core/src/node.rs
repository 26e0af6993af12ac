//! What the device tree says of a device: a value that each kind of device makes of itself, and that
//! [`devicetree`](crate::devicetree) writes without knowing the kinds.

use alloc::string::String;
use alloc::vec::Vec;

use crate::addr::GuestPhysAddr;

/// A device with registers: its node under `/soc`, and what else the tree says because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// First address of its registers.
    pub(crate) base: GuestPhysAddr,
    /// Size in bytes of its registers.
    pub(crate) size: u64,
    /// Its node, which is called after its address.
    pub(crate) node: Node,
    /// Nodes at the root that go with it.
    pub(crate) at_root: Vec<Node>,
    pub(crate) is_console: bool,
}

impl DeviceNode {
    /// A device whose registers are the `size` bytes from `base` on. `node` has no address in its name.
    #[must_use]
    pub const fn new(base: GuestPhysAddr, size: u64, node: Node) -> DeviceNode {
        DeviceNode {
            base,
            size,
            node,
            at_root: Vec::new(),
            is_console: false,
        }
    }

    /// Adds a node at the root that goes with it.
    #[must_use]
    pub fn at_root(mut self, node: Node) -> DeviceNode {
        self.at_root.push(node);
        self
    }

    /// Makes it a serial port that kernels print to: the first of them is `stdout-path`, and all are numbered in `/aliases`.
    #[must_use]
    pub fn console(mut self) -> DeviceNode {
        self.is_console = true;
        self
    }
}

/// A node, with its properties in the order of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) properties: Vec<Property>,
}

/// A property, or a group of them that only the whole tree determines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    /// Its name, and its value as it is in the tree.
    Value(String, Vec<u8>),
    /// `reg`: the device's registers.
    Registers,
    /// How an interrupt reaches the machine's interrupt chip.
    Interrupt { source: u32, trigger: Trigger },
    /// `phandle`, by which other nodes refer to the device.
    Phandle,
    /// A property of this name that refers to the device.
    Device(String),
}

impl Node {
    /// A node without properties.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Node {
        Node {
            name: name.into(),
            properties: Vec::new(),
        }
    }

    /// Adds a property with the value as it is in the tree: strings end with a NUL, numbers are big-endian.
    #[must_use]
    pub fn value(self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Node {
        self.with(Property::Value(name.into(), value.into()))
    }

    /// Adds a property of strings, without NULs in them.
    #[must_use]
    pub fn strings<'a>(
        self,
        name: impl Into<String>,
        strings: impl IntoIterator<Item = &'a str>,
    ) -> Node {
        let bytes = strings.into_iter().map(str::bytes);
        let bytes = bytes.flat_map(|bytes| bytes.chain([0]));
        let bytes: Vec<u8> = bytes.collect();
        self.value(name, bytes)
    }

    /// Adds a property of one number.
    #[must_use]
    pub fn cell(self, name: impl Into<String>, cell: u32) -> Node {
        self.value(name, cell.to_be_bytes())
    }

    /// Adds `reg`: the device's registers.
    #[must_use]
    pub fn registers(self) -> Node {
        self.with(Property::Registers)
    }

    /// Adds the properties of the device's interrupt: `source` of the machine's interrupt chip.
    #[must_use]
    pub fn interrupt(self, source: u32, trigger: Trigger) -> Node {
        self.with(Property::Interrupt { source, trigger })
    }

    /// Has other nodes refer to the device.
    #[must_use]
    pub fn phandle(self) -> Node {
        self.with(Property::Phandle)
    }

    /// Adds a property that refers to the device, for a node [at the root](DeviceNode::at_root). The device's own has a
    /// [`phandle`](Self::phandle).
    #[must_use]
    pub fn device(self, name: impl Into<String>) -> Node {
        self.with(Property::Device(name.into()))
    }

    fn with(mut self, property: Property) -> Node {
        self.properties.push(property);
        self
    }
}

/// The trigger type of a device's interrupt, as the second cell of an APLIC's interrupt specifier, where Linux reads one
/// of its `IRQ_TYPE` numbers (`include/dt-bindings/interrupt-controller/irq.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The interrupt is the rising edge of the IRQ line.
    EdgeRising = 1,
    /// The IRQ line is high as long as the device requests an interrupt.
    LevelHigh = 4,
}
