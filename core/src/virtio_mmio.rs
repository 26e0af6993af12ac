//! The registers that every virtio-mmio slot of the machine has, with a device or without.
//!
//! Source: VIRTIO 1.3, section 4.2.2, "MMIO Device Register Layout". Control registers take aligned 32-bit accesses only, as
//! the specification demands of drivers; any other access to them reads zero and writes nothing.

use crate::addr::GuestPhysAddr;
use crate::layout;
use crate::node::{DeviceNode, Node, Trigger};

/// What the device tree says of a slot, with a device or without (bindings: `virtio/mmio.yaml`). An in-kernel APLIC tells nobody
/// when an interrupt has been handled, so that a level could not be raised again at the right time; there a rising edge is the
/// interrupt, of which the device makes one for each notification.
#[must_use]
pub fn node(base: GuestPhysAddr, irq: u32) -> DeviceNode {
    let node = Node::new("virtio_mmio")
        .strings("compatible", ["virtio,mmio"])
        .registers()
        .interrupt(irq, Trigger::EdgeRising);
    DeviceNode::new(base, layout::VIRTIO_STRIDE, node)
}

/// "virt", read at the start of every slot.
pub const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// "QEMU". Some guests accept no other vendor.
pub const VENDOR: u32 = u32::from_le_bytes(*b"QEMU");

/// Offset of the status register. Writing 0 to it resets the device, which then uses no memory any more.
pub const STATUS: u64 = 0x070;

/// Offsets of the other registers.
mod register {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const VENDOR_ID: u64 = 0x00c;
}

/// The guest reads at `offset` of a slot without a device: its DeviceID is zero, so that a driver passes on. Writes to one
/// do nothing.
///
/// `version` is that of the machine's other slots, 1 (legacy) or 2, as guests take an unknown one for an error.
pub fn read_empty_slot(version: u32, offset: u64, data: &mut [u8]) {
    data.fill(0);
    if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
        let value = match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => version,
            register::VENDOR_ID => VENDOR,
            _ => 0,
        };
        *data = value.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_has_no_device() {
        for version in [1, 2] {
            for offset in 0..0x1000 {
                let mut data = [0xff; 4];
                read_empty_slot(version, offset, &mut data);
                let expected = match offset {
                    0 => *b"virt",
                    4 => version.to_le_bytes(),
                    12 => *b"QEMU",
                    _ => [0; 4],
                };
                assert_eq!(data, expected, "{offset:#x}");
            }
        }
    }

    #[test]
    fn only_words_are_answered() {
        for width in [1, 2, 3, 8] {
            let mut data = [0xff; 8];
            read_empty_slot(2, 0, &mut data[..width]);
            assert_eq!(data[..width], [0; 8][..width]);
        }
    }
}
