//! The virtio-mmio register layouts: version 2, and version 1 for drivers that know only the legacy interface.
//!
//! Source: VIRTIO 1.3, sections 4.2.2, "MMIO Device Register Layout", and 4.2.4, "Legacy interface". Control registers
//! are written by aligned 32-bit accesses only, as the specification demands of drivers; any other writes nothing. The
//! configuration space, from 0x100 on, takes any width. This module has the registers that both layouts share; those of one
//! layout are in `modern` and `legacy`.
//!
//! All readable registers are in a [`RegisterPage`], which every write and every change of the device updates. A guest that
//! reads the mapped page and one whose reads cause exits get the same values.

use std::io;
use std::sync::{Arc, Mutex};

use hv_core::virtio_mmio::{MAGIC, VENDOR};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_mmio as register;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::MmioDevice;
use crate::interrupt::IrqLine;
use crate::lock;
use crate::memory::GuestMemoryMmap;
use crate::state::RestoreError;
use crate::virtio::device::{NotifyHandler, VirtioDevice};
use crate::virtio::negotiation::{Interface, Negotiation, NegotiationState, QueueSetup};
use crate::virtio::notifier::DeviceStatus;
use interrupt::{Interrupt, InterruptState};

mod interrupt;
mod legacy;
mod modern;
mod page;

pub use interrupt::FailureListener;
pub use page::{RegisterPage, RegisterPages};

/// Offset of the QueueNotify register within a slot, in bytes. A driver writes the queue's index there, four bytes wide;
/// this is what an ioeventfd has to match.
pub const QUEUE_NOTIFY: u64 = register::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Where the device's configuration space starts.
const CONFIG: u64 = register::VIRTIO_MMIO_CONFIG as u64;

/// Which register layout a slot has, and with it which interface the device offers. A driver reads it from the Version
/// register; many know only one of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// Version 1: the legacy interface, from before VIRTIO 1.0, which does not offer VIRTIO_F_VERSION_1. QEMU's default.
    Legacy,
    /// Version 2.
    #[default]
    Modern,
}

impl Version {
    /// The Version register.
    const fn number(self) -> u32 {
        match self {
            Self::Legacy => 1,
            Self::Modern => 2,
        }
    }

    const fn interface(self) -> Interface {
        match self {
            Self::Legacy => Interface::Legacy,
            Self::Modern => Interface::Modern,
        }
    }
}

/// A virtio device in a virtio-mmio slot.
///
/// Registers answer without waiting for the device's worker, with one exception that the specification asks for: a
/// reset returns when the request that the worker has begun is done.
pub struct MmioTransport {
    // These are in `registers` as well, or belong to its device. They are what drivers touch all the time, hence outside
    // its lock.
    interrupt: Arc<Interrupt>,
    queues: Vec<Notified>,
    page: RegisterPage,
    version: Version,
    registers: Mutex<Registers>,
}

/// Where the notifications of a queue go: to the handler, and if that declines, to the kick.
struct Notified {
    handler: Option<Arc<dyn NotifyHandler>>,
    kick: Arc<EventFd>,
}

struct Registers {
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    /// The legacy GuestPageSize, as a power of two.
    page_shift: u32,
    shared_memory_select: u32,
    version: Version,
    state: Negotiation,
    interrupt: Arc<Interrupt>,
    page: RegisterPage,
}

/// What a slot with a device holds, and the device's own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioState {
    version: Version,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    page_shift: u32,
    shared_memory_select: u32,
    interrupt: InterruptState,
    negotiation: NegotiationState,
}

impl MmioTransport {
    /// Puts `device` into a slot whose registers are laid out as `version` says, that reads as `page`, and whose interrupt
    /// is `line`.
    ///
    /// # Errors
    /// If the host has no file descriptors left.
    pub fn new(
        version: Version,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        line: Arc<dyn IrqLine>,
        page: RegisterPage,
    ) -> io::Result<Self> {
        let device_id = device.device_id();
        let status = Arc::<DeviceStatus>::default();
        let interrupt = Interrupt::new(line, device.name(), page.clone(), Arc::clone(&status));
        let interrupt = Arc::new(interrupt);
        let notifier = Arc::clone(&interrupt);
        let state = Negotiation::new(version.interface(), device, memory, notifier, status)?;
        identify(&page, version, device_id);
        let registers = Registers {
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            page_shift: 0,
            shared_memory_select: 0,
            version,
            state,
            interrupt: Arc::clone(&interrupt),
            page: page.clone(),
        };
        registers.publish();
        Ok(Self {
            interrupt,
            queues: (0..)
                .zip(registers.state.kicks())
                .map(|(queue, kick)| Notified {
                    handler: registers.state.device().notify_handler(queue),
                    kick: Arc::clone(kick),
                })
                .collect(),
            page,
            version,
            registers: Mutex::new(registers),
        })
    }

    /// The event that a write of `queue` to [`QUEUE_NOTIFY`] signals, so that an ioeventfd can take its place; `None` if
    /// the device has no such queue, or if the write has to come here. It stays the same across resets.
    ///
    /// A legacy driver may use the device before it is ready (VIRTIO 1.3, section 3.1.2), and its first notification is
    /// what tells that it does: no ioeventfd takes its place.
    #[must_use]
    pub fn notify_event(&self, queue: u32) -> Option<&EventFd> {
        self.notified(queue)
            .filter(|queue| queue.handler.is_none() && self.version == Version::Modern)
            .map(|queue| queue.kick.as_ref())
    }

    /// Has `listener` told of the first time that the device sets DEVICE_NEEDS_RESET, as a guest can have it do so any number of
    /// times. Only the first listener counts.
    pub fn on_failure(&self, listener: FailureListener) {
        self.interrupt.on_failure(listener);
    }

    /// How many queues the device has: the indexes below it are those of [`notify_event`](Self::notify_event).
    #[must_use]
    pub fn queue_count(&self) -> u32 {
        u32::try_from(self.queues.len()).unwrap_or(u32::MAX)
    }

    /// Has the device stop, between two requests, until [`resume`](Self::resume). Meanwhile it touches no guest memory and
    /// raises no interrupt, and the driver must not run.
    pub fn pause(&self) {
        lock(&self.registers).state.pause();
    }

    /// Has the device go on where it was paused.
    pub fn resume(&self) {
        let mut registers = lock(&self.registers);
        registers.state.resume();
        registers.publish();
    }

    /// The state of the slot and of its device, while no vCPU runs. Pauses the device, if it is not paused, until
    /// [`resume`](Self::resume): so what it has taken from its queues is done and in guest memory, which belongs to this
    /// state.
    #[must_use]
    pub fn save(&self) -> MmioState {
        let mut registers = lock(&self.registers);
        // First, as it pauses the device, which may raise an interrupt until then.
        let negotiation = registers.state.save();
        MmioState {
            version: self.version,
            device_features_select: registers.device_features_select,
            driver_features_select: registers.driver_features_select,
            queue_select: registers.queue_select,
            page_shift: registers.page_shift,
            shared_memory_select: registers.shared_memory_select,
            interrupt: self.interrupt.save(),
            negotiation,
        }
    }

    /// Puts a saved state in place of this one, while no vCPU runs; guest memory is what it was then. The device is
    /// paused, until [`resume`](Self::resume), and the line is where it was.
    ///
    /// # Errors
    /// The state does not fit the device, or is none. All is as it was then, but that the device is paused.
    pub fn restore(&self, state: MmioState) -> Result<(), RestoreError> {
        if state.version != self.version {
            return Err(RestoreError::mismatch(format!(
                "its slots have version {} of the registers, and these {}",
                state.version.number(),
                self.version.number()
            )));
        }
        state.interrupt.check()?;
        RestoreError::unless(state.page_shift < u32::BITS, "GuestPageSize of a device")?;
        let mut registers = lock(&self.registers);
        registers.state.restore(state.negotiation)?;
        registers.device_features_select = state.device_features_select;
        registers.driver_features_select = state.driver_features_select;
        registers.queue_select = state.queue_select;
        registers.page_shift = state.page_shift;
        registers.shared_memory_select = state.shared_memory_select;
        self.interrupt.restore(state.interrupt);
        registers.publish();
        Ok(())
    }

    /// Power-on state, as if the driver had reset the device: for a reboot of the machine.
    pub fn reset(&self) {
        let mut registers = lock(&self.registers);
        registers.reset();
        registers.page_shift = 0;
        registers.publish();
    }

    fn notified(&self, queue: u32) -> Option<&Notified> {
        self.queues.get(usize::try_from(queue).ok()?)
    }

    fn notify(&self, queue: u32) {
        if let Some(Notified { handler, kick }) = self.notified(queue) {
            if self.version == Version::Legacy {
                lock(&self.registers).state.notified();
            }
            if !handler.as_ref().is_some_and(|handler| handler.notify()) {
                // It fails only if the counter overflows, and then the event is signalled already.
                let _ = kick.write(1);
            }
        }
    }
}

impl MmioDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.page.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let mut registers = lock(&self.registers);
            registers.state.device_mut().write_config(offset, data);
            registers.publish();
        } else if let (Ok(&data), Some(register)) = (<&[u8; 4]>::try_from(data), aligned(offset)) {
            let value = u32::from_le_bytes(data);
            match register {
                register::VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
                register::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
                _ => {
                    let mut registers = lock(&self.registers);
                    registers.write(register, value);
                    registers.publish();
                }
            }
        }
    }
}

/// The control register at `offset`, if it is where a 32-bit register can be.
fn aligned(offset: u64) -> Option<u32> {
    u32::try_from(offset)
        .ok()
        .filter(|offset| offset.is_multiple_of(4))
}

/// Stores the registers that never change.
fn identify(page: &RegisterPage, version: Version, device_id: u32) {
    page.store(register::VIRTIO_MMIO_MAGIC_VALUE, MAGIC);
    page.store(register::VIRTIO_MMIO_VERSION, version.number());
    page.store(register::VIRTIO_MMIO_DEVICE_ID, device_id);
    page.store(register::VIRTIO_MMIO_VENDOR_ID, VENDOR);
}

impl Registers {
    /// Stores what the guest reads of these registers, after any change of them. InterruptStatus and ConfigGeneration are the
    /// interrupt's to store.
    fn publish(&self) {
        let queue = self.state.queue(self.queue_select);
        self.page.store(
            register::VIRTIO_MMIO_QUEUE_NUM_MAX,
            queue.map_or(0, |queue| queue.max_size.into()),
        );
        match self.version {
            Version::Modern => self.publish_modern(queue),
            Version::Legacy => self.publish_legacy(queue),
        }
        self.interrupt.publish(self.state.device());
    }

    fn write(&mut self, register: u32, value: u32) {
        match register {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            register::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            register::VIRTIO_MMIO_QUEUE_NUM => {
                self.configure_queue(|queue| queue.size = value);
            }
            register::VIRTIO_MMIO_STATUS if value == 0 => self.reset(),
            register::VIRTIO_MMIO_STATUS => self.state.set_status(value),
            _ => match self.version {
                Version::Modern => self.write_modern(register, value),
                Version::Legacy => self.write_legacy(register, value),
            },
        }
    }

    fn configure_queue(&mut self, change: impl FnOnce(&mut QueueSetup)) -> bool {
        self.state.configure_queue(self.queue_select, change)
    }

    /// Back to the state after power-on, but for GuestPageSize: drivers write it once, and reset the device afterwards.
    fn reset(&mut self) {
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.shared_memory_select = 0;
        self.state.reset();
        self.interrupt.reset();
    }
}

/// A slot without a device: its DeviceID is zero, so that a driver passes on (VIRTIO 1.3, section 4.2.2).
#[derive(Clone, Debug)]
pub struct EmptySlot(RegisterPage);

impl EmptySlot {
    /// A slot that reads as `page`. Its version is that of the machine's other slots, as guests take an unknown one for an
    /// error.
    #[must_use]
    pub fn new(version: Version, page: RegisterPage) -> Self {
        identify(&page, version, 0);
        Self(page)
    }
}

impl MmioDevice for EmptySlot {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests;
