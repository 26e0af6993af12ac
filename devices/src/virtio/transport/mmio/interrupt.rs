//! The interrupt of a virtio-mmio slot: InterruptStatus, ConfigGeneration and the IRQ line (VIRTIO 1.3, section 4.2.2).

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio as register;

use super::page::RegisterPage;
use crate::interrupt::IrqLine;
use crate::lock;
use crate::state::RestoreError;
use crate::virtio::VirtioDevice;
use crate::virtio::notifier::{DeviceStatus, Notifier};

/// Bytes of the configuration space that are shown, more than any device has.
const CONFIG_SIZE: usize = 256;

/// Bits of the InterruptStatus register (VIRTIO 1.3, section 4.2.2, and the ISR status of section 4.1.4.5).
mod status {
    pub const USED_BUFFER: u32 = 1 << 0;
    pub const CONFIGURATION: u32 = 1 << 1;
    pub const ALL: u32 = USED_BUFFER | CONFIGURATION;
}

/// The notifier of one virtio-mmio device, shared by the transport, which lets the driver read and acknowledge the
/// interrupt, and the device's threads, which raise it.
///
/// The line is high while InterruptStatus is not zero. Every new used-buffer notification asserts it again even if it
/// is high already: with an in-kernel AIA the line is an irqfd that carries edges, and one that falls between the
/// driver's last look at the ring and its acknowledgement would be lost otherwise.
pub struct Interrupt {
    status: Arc<DeviceStatus>,
    inner: Mutex<InterruptState>,
    /// Changes with `inner`, under its lock.
    page: RegisterPage,
    line: Arc<dyn IrqLine>,
    /// What messages call the device.
    name: String,
    /// A failure of this device has been reported. A guest can cause one after the other and must not fill the log.
    reported: AtomicBool,
    /// Who else hears of the first failure.
    listener: OnceLock<FailureListener>,
}

/// Is told why a device has stopped until its driver resets it. Called on one of the device's threads or a vCPU's, which it does
/// not hold up.
pub type FailureListener = Box<dyn Fn(&dyn Display) + Send + Sync>;

/// The registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterruptState {
    interrupt_status: u32,
    config_generation: u32,
}

impl InterruptState {
    /// Whether a device can have these. What came from a file may be anything.
    ///
    /// # Errors
    /// It can not.
    pub fn check(&self) -> Result<(), RestoreError> {
        RestoreError::unless(
            self.interrupt_status & !status::ALL == 0,
            "InterruptStatus of a device",
        )
    }
}

impl Interrupt {
    pub fn new(
        line: Arc<dyn IrqLine>,
        name: String,
        page: RegisterPage,
        status: Arc<DeviceStatus>,
    ) -> Self {
        Self {
            status,
            inner: Mutex::default(),
            page,
            line,
            name,
            reported: AtomicBool::new(false),
            listener: OnceLock::new(),
        }
    }

    /// Tells `listener` of the device's first failure. It is set once.
    pub fn on_failure(&self, listener: FailureListener) {
        let _ = self.listener.set(listener);
    }

    /// Stores what the driver reads of the device status and of the configuration space, which is `device`'s.
    pub fn publish(&self, device: &dyn VirtioDevice) {
        // Under the lock, so that a bit that a thread of the device's sets meanwhile is not lost.
        let inner = lock(&self.inner);
        self.page
            .store(register::VIRTIO_MMIO_STATUS, self.status.get());
        let mut config = [0; CONFIG_SIZE];
        device.read_config(0, &mut config);
        self.page.write_config(0, &config);
        drop(inner);
    }

    /// The driver acknowledges the causes in `mask`.
    pub fn acknowledge(&self, mask: u32) {
        let mut inner = lock(&self.inner);
        let before = inner.interrupt_status;
        self.set_interrupt_status(&mut inner, before & !mask);
        if before != 0 && inner.interrupt_status == 0 {
            self.line.set_level(false);
        }
    }

    /// Back to the state after power-on. The generation moves on, as the configuration may have changed since a driver
    /// last looked.
    pub fn reset(&self) {
        let mut inner = lock(&self.inner);
        if inner.interrupt_status != 0 {
            self.line.set_level(false);
        }
        self.set_interrupt_status(&mut inner, 0);
        self.next_generation(&mut inner);
    }

    /// The state, while the device is paused.
    pub fn save(&self) -> InterruptState {
        *lock(&self.inner)
    }

    /// Puts a saved state in place of this one, which was found possible. Whether the interrupt chip has seen the line's
    /// last edge is not known, so a line that is high is driven high once more: a driver takes one notification too many
    /// as harmless, and one too few it waits for.
    pub fn restore(&self, state: InterruptState) {
        let mut inner = lock(&self.inner);
        let before = inner.interrupt_status;
        self.set_interrupt_status(&mut inner, state.interrupt_status);
        inner.config_generation = state.config_generation;
        self.page.store(
            register::VIRTIO_MMIO_CONFIG_GENERATION,
            state.config_generation,
        );
        if before != 0 || state.interrupt_status != 0 {
            self.line.set_level(state.interrupt_status != 0);
        }
    }

    fn set_interrupt_status(&self, inner: &mut InterruptState, status: u32) {
        inner.interrupt_status = status;
        self.page
            .store(register::VIRTIO_MMIO_INTERRUPT_STATUS, status);
    }

    fn next_generation(&self, inner: &mut InterruptState) {
        inner.config_generation = inner.config_generation.wrapping_add(1);
        self.page.store(
            register::VIRTIO_MMIO_CONFIG_GENERATION,
            inner.config_generation,
        );
    }

    /// The line is driven under the lock, so that an acknowledgement and a new cause cannot drive it in the wrong order.
    fn raise(&self, inner: &mut InterruptState, cause: u32) {
        let status = inner.interrupt_status | cause;
        self.set_interrupt_status(inner, status);
        self.line.set_level(true);
    }
}

impl Notifier for Interrupt {
    /// The one line of a slot says nothing of queues.
    fn used(&self, _queue: u16) {
        self.raise(&mut lock(&self.inner), status::USED_BUFFER);
    }

    fn config(&self, offset: usize, bytes: &[u8]) {
        let mut inner = lock(&self.inner);
        self.page.write_config(offset, bytes);
        self.next_generation(&mut inner);
        self.raise(&mut inner, status::CONFIGURATION);
    }

    fn needs_reset(&self, reason: &dyn Display) {
        let is_first = !self.reported.swap(true, Ordering::Relaxed);
        let level = if is_first {
            log::Level::Warn
        } else {
            log::Level::Debug
        };
        log::log!(
            level,
            "{} stops until the guest resets it: {reason}",
            self.name
        );
        let mut inner = lock(&self.inner);
        let driver_is_ready = self.status.needs_reset();
        self.page
            .set(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        if driver_is_ready {
            self.raise(&mut inner, status::CONFIGURATION);
        }
        drop(inner);
        if is_first && let Some(listener) = self.listener.get() {
            listener(reason);
        }
    }
}
