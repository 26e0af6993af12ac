//! Notifications from a device to its driver (VIRTIO 1.3, section 2.3), independent of the transport.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET};

/// Sends notifications from a device to its driver. Each transport has one implementation, and each device has one value of it, which the
/// device's threads share.
pub trait Notifier: Send + Sync {
    /// There are new used buffers in this queue: a used buffer notification.
    fn used(&self, queue: u16);

    /// `bytes` of the configuration space, those from `offset` on, have changed: a configuration change notification. They
    /// are at most an aligned word, so that no driver reads half of the change.
    fn config(&self, offset: usize, bytes: &[u8]);

    /// Sets DEVICE_NEEDS_RESET: the device has met an error that it cannot recover from, and stops until the
    /// driver resets it. If the driver is ready it is told by a configuration change notification (section 2.1.2).
    /// `reason` is for the log.
    fn needs_reset(&self, reason: &dyn Display);
}

/// The device status field (section 2.1). The driver adds bits to it, and the device's threads DEVICE_NEEDS_RESET.
#[derive(Debug, Default)]
pub(super) struct DeviceStatus(AtomicU32);

impl DeviceStatus {
    /// The bits, DEVICE_NEEDS_RESET included.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Whether all of these bits are set.
    pub fn has(&self, bits: u32) -> bool {
        self.get() & bits == bits
    }

    /// The driver adds these.
    pub fn add(&self, bits: u32) {
        self.0.fetch_or(bits, Ordering::AcqRel);
    }

    /// Sets DEVICE_NEEDS_RESET. Returns whether the driver is to be told.
    pub fn needs_reset(&self) -> bool {
        let before = self
            .0
            .fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET, Ordering::AcqRel);
        before & VIRTIO_CONFIG_S_DRIVER_OK != 0
    }

    /// The device has been reset.
    pub fn clear(&self) {
        self.set(0);
    }

    /// The device has been restored.
    pub fn set(&self, bits: u32) {
        self.0.store(bits, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before DRIVER_OK there is nobody to tell (section 2.1.2).
    #[test]
    fn a_driver_is_told_of_a_reset_once_it_is_ready() {
        let status = DeviceStatus::default();
        status.add(0xb);
        assert!(!status.needs_reset());
        assert_eq!(status.get(), 0x4b);
        status.clear();
        status.add(VIRTIO_CONFIG_S_DRIVER_OK);
        assert!(!status.has(VIRTIO_CONFIG_S_NEEDS_RESET));
        for _ in 0..2 {
            assert!(status.needs_reset());
            assert!(status.has(VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_DRIVER_OK));
        }
        assert!(!status.has(VIRTIO_CONFIG_S_NEEDS_RESET | 1));
    }
}
