//! The devices that every machine has: those of QEMU's `virt` board that [`layout`] has a place for.

use alloc::vec::Vec;

use crate::node::DeviceNode;
use crate::{layout, rtc, test_device, uart, virtio_mmio};

/// What the device tree says of the board's own devices: test device, real-time clock, serial port and virtio-mmio slots.
#[must_use]
pub fn devices() -> Vec<DeviceNode> {
    let fixed = [test_device::node(), rtc::node(), uart::node()];
    let slots = (0..).map_while(layout::virtio_slot);
    let slots = slots.map(|(base, irq)| virtio_mmio::node(base, irq));
    fixed.into_iter().chain(slots).collect()
}
