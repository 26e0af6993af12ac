//! The devices.

use super::interrupts::{self, Trigger};
use super::{Error, Phandle, Tree};
use crate::addr::GuestPhysAddr;
use crate::layout;
use crate::machine::{Machine, PlatformNode};

/// The test device, as a register that other nodes refer to (bindings: `mfd/syscon.yaml`).
pub(super) fn test(tree: &mut Tree) -> Result<(), Error> {
    tree.node_at("test", layout::TEST_DEVICE_BASE, |tree| {
        tree.strings("compatible", ["sifive,test1", "sifive,test0", "syscon"])?;
        tree.reg(layout::TEST_DEVICE_BASE, layout::TEST_DEVICE_SIZE)?;
        tree.phandle(Phandle::TestDevice)
    })
}

/// How to switch the machine off and to start it anew without SBI (bindings: `power/reset/syscon-poweroff.yaml` and
/// `power/reset/syscon-reboot.yaml`). Linux reboots by SBI's SRST where both are there, and switches off by
/// whichever its version asks first.
pub(super) fn power(tree: &mut Tree) -> Result<(), Error> {
    for (name, compatible, value) in [
        ("poweroff", "syscon-poweroff", layout::TEST_DEVICE_PASS),
        ("reboot", "syscon-reboot", layout::TEST_DEVICE_RESET),
    ] {
        tree.node(name, |tree| {
            tree.string("compatible", compatible)?;
            tree.u32("regmap", Phandle::TestDevice.cell())?;
            tree.u32("offset", 0)?;
            tree.u32("value", value.into())
        })?;
    }
    Ok(())
}

/// The real-time clock (bindings: `rtc/google,goldfish-rtc.txt`).
pub(super) fn rtc(tree: &mut Tree, machine: &Machine) -> Result<(), Error> {
    tree.node_at("rtc", layout::RTC_BASE, |tree| {
        tree.string("compatible", "google,goldfish-rtc")?;
        tree.reg(layout::RTC_BASE, layout::RTC_SIZE)?;
        interrupts::wire(tree, machine, layout::RTC_IRQ, Trigger::LevelHigh)
    })
}

/// A device on the platform bus, whose own properties follow its binding.
pub(super) fn platform(
    tree: &mut Tree,
    machine: &Machine,
    node: &PlatformNode,
) -> Result<(), Error> {
    tree.node_at(&node.name, node.base, |tree| {
        for (name, value) in &node.properties {
            tree.bytes(name, value)?;
        }
        tree.reg(node.base, node.size)?;
        match node.irq {
            Some(irq) => interrupts::wire(tree, machine, irq, Trigger::LevelHigh),
            None => Ok(()),
        }
    })
}

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
