//! The registers that only version 2 has, or has in this form (VIRTIO 1.3, section 4.2.2).

use virtio_bindings::virtio_mmio as register;

use super::Registers;
use crate::virtio::negotiation::QueueSetup;

impl Registers {
    pub(super) fn publish_modern(&self, queue: Option<&QueueSetup>) {
        let features = match shift(self.device_features_select) {
            Some(shift) => low(self.state.offered_features() >> shift),
            None => 0,
        };
        self.page
            .store(register::VIRTIO_MMIO_DEVICE_FEATURES, features);
        self.page.store(
            register::VIRTIO_MMIO_QUEUE_READY,
            queue.map_or(0, |queue| queue.ready.into()),
        );
        let regions = self.state.device().shared_memory();
        let region = regions
            .iter()
            .find(|region| u32::from(region.id) == self.shared_memory_select);
        // Length and address of a region that does not exist are all ones.
        let (length, base) =
            region.map_or((u64::MAX, u64::MAX), |region| (region.length, region.base));
        for (register, value) in [
            (register::VIRTIO_MMIO_SHM_LEN_LOW, low(length)),
            (register::VIRTIO_MMIO_SHM_LEN_HIGH, low(length >> u32::BITS)),
            (register::VIRTIO_MMIO_SHM_BASE_LOW, low(base)),
            (register::VIRTIO_MMIO_SHM_BASE_HIGH, low(base >> u32::BITS)),
        ] {
            self.page.store(register, value);
        }
    }

    pub(super) fn write_modern(&mut self, register: u32, value: u32) {
        match register {
            register::VIRTIO_MMIO_SHM_SEL => self.shared_memory_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => {
                // Features beyond bit 63 do not exist and cannot be asked for.
                if let Some(shift) = shift(self.driver_features_select) {
                    self.state.set_driver_features(shift, value);
                }
            }
            register::VIRTIO_MMIO_QUEUE_READY if value == 0 => {
                self.state.disable_queue(self.queue_select)
            }
            register::VIRTIO_MMIO_QUEUE_READY => {
                self.configure_queue(|queue| queue.ready = value & 1 != 0);
            }
            register::VIRTIO_MMIO_QUEUE_DESC_LOW => {
                self.configure_queue(|queue| set_low(&mut queue.descriptor_table, value));
            }
            register::VIRTIO_MMIO_QUEUE_DESC_HIGH => {
                self.configure_queue(|queue| set_high(&mut queue.descriptor_table, value));
            }
            register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => {
                self.configure_queue(|queue| set_low(&mut queue.available_ring, value));
            }
            register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => {
                self.configure_queue(|queue| set_high(&mut queue.available_ring, value));
            }
            register::VIRTIO_MMIO_QUEUE_USED_LOW => {
                self.configure_queue(|queue| set_low(&mut queue.used_ring, value));
            }
            register::VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.configure_queue(|queue| set_high(&mut queue.used_ring, value));
            }
            _ => {}
        }
    }
}

/// By how many bits the feature word with this number is shifted, if there is such a word.
fn shift(select: u32) -> Option<u32> {
    match select {
        0 => Some(0),
        1 => Some(u32::BITS),
        _ => None,
    }
}

/// The low half of `value`.
#[allow(clippy::cast_possible_truncation)]
fn low(value: u64) -> u32 {
    value as u32
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << u32::BITS;
}
