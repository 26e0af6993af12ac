//! Notifications from a virtio device to its driver, and what the driver reads then.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio as register;

use super::VirtioDevice;
use super::mmio::RegisterPage;
use crate::interrupt::IrqLine;
use crate::lock;

/// Bytes of the configuration space that are shown, more than any device has.
const CONFIG_SIZE: usize = 256;

/// Bits of the InterruptStatus register (VIRTIO 1.3, section 4.2.2, and the ISR status of section 4.1.4.5).
mod status {
    pub const USED_BUFFER: u32 = 1 << 0;
    pub const CONFIGURATION: u32 = 1 << 1;
}

/// The interrupt of one virtio-mmio device, shared by the transport, which lets the driver read and acknowledge it, and
/// the device's worker, which raises it.
///
/// The line is high while InterruptStatus is not zero. Every new used-buffer notification asserts it again even if it
/// is high already: with an in-kernel AIA the line is an irqfd that carries edges, and one that falls between the
/// driver's last look at the ring and its acknowledgement would be lost otherwise.
pub struct Interrupt {
    inner: Mutex<Inner>,
    /// Changes with `inner`, under its lock.
    page: RegisterPage,
    line: Arc<dyn IrqLine>,
    /// What messages call the device.
    name: String,
    /// A failure of this device has been reported. A guest can cause one after the other and must not fill the log.
    reported: AtomicBool,
}

#[derive(Default)]
struct Inner {
    status: u32,
    config_generation: u32,
    needs_reset: bool,
    driver_ok: bool,
}

impl Interrupt {
    pub(super) fn new(line: Arc<dyn IrqLine>, name: String, page: RegisterPage) -> Self {
        Self {
            inner: Mutex::default(),
            page,
            line,
            name,
            reported: AtomicBool::new(false),
        }
    }

    /// Tells the driver that there are new used buffers.
    pub fn notify_used(&self) {
        let mut inner = lock(&self.inner);
        self.raise(&mut inner, status::USED_BUFFER);
    }

    /// Tells the driver that `bytes` of the configuration space, those from `offset` on, have changed. They are at most an
    /// aligned word, so that no driver reads half of the change.
    pub fn notify_config(&self, offset: usize, bytes: &[u8]) {
        let mut inner = lock(&self.inner);
        self.page.write_config(offset, bytes);
        self.next_generation(&mut inner);
        self.raise(&mut inner, status::CONFIGURATION);
    }

    /// Sets DEVICE_NEEDS_RESET: the device has met something it cannot go on from, and does nothing more until the
    /// driver resets it. If the driver is ready it is told by a configuration change notification (VIRTIO 1.3,
    /// section 2.1.2). `reason` is for the log.
    pub fn needs_reset(&self, reason: &dyn Display) {
        let level = if self.reported.swap(true, Ordering::Relaxed) {
            log::Level::Debug
        } else {
            log::Level::Warn
        };
        log::log!(
            level,
            "{} stops until the guest resets it: {reason}",
            self.name
        );
        let mut inner = lock(&self.inner);
        inner.needs_reset = true;
        self.page
            .set(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        if inner.driver_ok {
            self.raise(&mut inner, status::CONFIGURATION);
        }
    }

    /// The driver has set these status bits, and `device` is what it reads in the configuration space.
    pub(super) fn publish(&self, status: u32, device: &dyn VirtioDevice) {
        let inner = lock(&self.inner);
        let needs_reset = if inner.needs_reset {
            VIRTIO_CONFIG_S_NEEDS_RESET
        } else {
            0
        };
        self.page
            .store(register::VIRTIO_MMIO_STATUS, status | needs_reset);
        let mut config = [0; CONFIG_SIZE];
        device.read_config(0, &mut config);
        self.page.write_config(0, &config);
    }

    pub(super) fn is_reset_needed(&self) -> bool {
        lock(&self.inner).needs_reset
    }

    /// The driver has set DRIVER_OK.
    pub(super) fn set_driver_ok(&self) {
        lock(&self.inner).driver_ok = true;
    }

    /// The driver acknowledges the causes in `mask`.
    pub(super) fn acknowledge(&self, mask: u32) {
        let mut inner = lock(&self.inner);
        let before = inner.status;
        self.set_status(&mut inner, before & !mask);
        if before != 0 && inner.status == 0 {
            self.line.set_level(false);
        }
    }

    /// Back to the state after power-on. The generation moves on, as the configuration may have changed since a driver
    /// last looked.
    pub(super) fn reset(&self) {
        let mut inner = lock(&self.inner);
        if inner.status != 0 {
            self.line.set_level(false);
        }
        self.set_status(&mut inner, 0);
        self.next_generation(&mut inner);
        inner.needs_reset = false;
        inner.driver_ok = false;
    }

    fn set_status(&self, inner: &mut Inner, status: u32) {
        inner.status = status;
        self.page
            .store(register::VIRTIO_MMIO_INTERRUPT_STATUS, status);
    }

    fn next_generation(&self, inner: &mut Inner) {
        inner.config_generation = inner.config_generation.wrapping_add(1);
        self.page.store(
            register::VIRTIO_MMIO_CONFIG_GENERATION,
            inner.config_generation,
        );
    }

    /// The line is driven under the lock, so that an acknowledgement and a new cause cannot drive it in the wrong order.
    fn raise(&self, inner: &mut Inner, cause: u32) {
        let status = inner.status | cause;
        self.set_status(inner, status);
        self.line.set_level(true);
    }
}
