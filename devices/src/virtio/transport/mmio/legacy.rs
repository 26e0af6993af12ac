//! The registers that only version 1 has, or has in this form (VIRTIO 1.3, section 4.2.4), and how QEMU reads them where
//! the specification leaves a choice, because that is what guests were written against (QEMU: `hw/virtio/virtio-mmio.c`).

use virtio_bindings::virtio_mmio as register;

use super::Registers;
use crate::virtio::negotiation::QueueSetup;

impl Registers {
    pub(super) fn publish_legacy(&self, queue: Option<&QueueSetup>) {
        // There are 32 feature bits: one word.
        let features = match self.device_features_select {
            0 => u32::try_from(self.state.offered_features()).unwrap_or(0),
            _ => 0,
        };
        self.page
            .store(register::VIRTIO_MMIO_DEVICE_FEATURES, features);
        self.page.store(
            register::VIRTIO_MMIO_QUEUE_PFN,
            queue.map_or(0, |queue| queue.page),
        );
    }

    pub(super) fn write_legacy(&mut self, register: u32, value: u32) {
        match register {
            register::VIRTIO_MMIO_DRIVER_FEATURES if self.driver_features_select == 0 => {
                self.state.set_driver_features(0, value);
            }
            // A power of two. Of another value the lowest bit counts, and of zero nothing.
            register::VIRTIO_MMIO_GUEST_PAGE_SIZE => {
                self.page_shift = value.trailing_zeros() % u32::BITS
            }
            register::VIRTIO_MMIO_QUEUE_ALIGN => {
                self.configure_queue(|queue| queue.align = value);
            }
            // "When the driver stops using the queue it writes zero": on QEMU that resets the whole device, and there
            // are drivers whose only reset it is.
            register::VIRTIO_MMIO_QUEUE_PFN if value == 0 => self.reset(),
            register::VIRTIO_MMIO_QUEUE_PFN => {
                let address = u64::from(value) << self.page_shift;
                let is_new = self.configure_queue(|queue| {
                    queue.page = value;
                    queue.ready = true;
                    if queue.lay_out(address).is_none() {
                        // Impossible, which is for the start of the device to find.
                        queue.used_ring = u64::MAX;
                    }
                });
                if is_new {
                    self.state.queue_is_set_up();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
