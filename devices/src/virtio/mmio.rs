//! The virtio-mmio register layout, version 2.
//!
//! Source: VIRTIO 1.3, section 4.2.2, "MMIO Device Register Layout". Control registers take aligned 32-bit accesses
//! only, as the specification demands of drivers; any other access to them reads zero and writes nothing. The
//! configuration space, from 0x100 on, takes any width.

use std::io;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio as register;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::device::VirtioDevice;
use super::interrupt::Interrupt;
use super::state::{DeviceState, QueueSetup};
use crate::bus::MmioDevice;
use crate::interrupt::IrqLine;
use crate::lock;

/// "virt", read at the start of every slot.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The layout of this file.
const VERSION: u32 = 2;
/// "QEMU". Some guests accept no other vendor.
const VENDOR: u32 = u32::from_le_bytes(*b"QEMU");

/// Offset of the QueueNotify register within a slot, in bytes. A driver writes the queue's index there, four bytes wide;
/// this is what an ioeventfd has to match.
pub const QUEUE_NOTIFY: u64 = register::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Where the device's configuration space starts.
const CONFIG: u64 = register::VIRTIO_MMIO_CONFIG as u64;

/// A virtio device in a virtio-mmio slot.
///
/// Registers answer without waiting for the device's worker, with one exception that the specification asks for: a
/// reset returns when the request that the worker has begun is done.
pub struct MmioTransport {
    // The first two are in `registers` as well. They are what drivers touch all the time, hence outside its lock.
    interrupt: Arc<Interrupt>,
    kicks: Vec<Arc<EventFd>>,
    registers: Mutex<Registers>,
}

struct Registers {
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    state: DeviceState,
}

impl MmioTransport {
    /// Puts `device` into a slot whose interrupt is `line`.
    ///
    /// # Errors
    /// If the host has no file descriptors left.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        line: Arc<dyn IrqLine>,
    ) -> io::Result<Self> {
        let state = DeviceState::new(device, memory, line, 1 << VIRTIO_F_VERSION_1)?;
        Ok(Self {
            interrupt: Arc::clone(state.interrupt()),
            kicks: state.kicks().to_vec(),
            registers: Mutex::new(Registers {
                device_features_select: 0,
                driver_features_select: 0,
                queue_select: 0,
                state,
            }),
        })
    }

    /// The event that a write of `queue` to [`QUEUE_NOTIFY`] signals, so that an ioeventfd can take its place; `None` if
    /// the device has no such queue. It stays the same across resets.
    #[must_use]
    pub fn notify_event(&self, queue: u32) -> Option<&EventFd> {
        self.kicks
            .get(usize::try_from(queue).ok()?)
            .map(AsRef::as_ref)
    }

    /// How many queues the device has: the indexes below it are those of [`notify_event`](Self::notify_event).
    #[must_use]
    pub fn queue_count(&self) -> u32 {
        u32::try_from(self.kicks.len()).unwrap_or(u32::MAX)
    }

    /// Power-on state, as if the driver had reset the device: for a reboot of the machine.
    pub fn reset(&self) {
        lock(&self.registers).reset();
    }

    fn notify(&self, queue: u32) {
        if let Some(kick) = self.notify_event(queue) {
            // It fails only if the counter overflows, and then the event is signalled already.
            let _ = kick.write(1);
        }
    }
}

impl MmioDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            lock(&self.registers)
                .state
                .device()
                .read_config(offset, data);
        } else if let (Ok(data), Some(register)) = (<&mut [u8; 4]>::try_from(data), aligned(offset))
        {
            let value = match register {
                register::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
                register::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.config_generation(),
                _ => lock(&self.registers).read(register),
            };
            *data = value.to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            lock(&self.registers)
                .state
                .device_mut()
                .write_config(offset, data);
        } else if let (Ok(&data), Some(register)) = (<&[u8; 4]>::try_from(data), aligned(offset)) {
            let value = u32::from_le_bytes(data);
            match register {
                register::VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
                register::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
                _ => lock(&self.registers).write(register, value),
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

impl Registers {
    fn read(&self, register: u32) -> u32 {
        let state = &self.state;
        match register {
            register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            register::VIRTIO_MMIO_VERSION => VERSION,
            register::VIRTIO_MMIO_DEVICE_ID => state.device().device_id(),
            register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            register::VIRTIO_MMIO_DEVICE_FEATURES => match shift(self.device_features_select) {
                Some(shift) => low(state.offered_features() >> shift),
                None => 0,
            },
            register::VIRTIO_MMIO_QUEUE_NUM_MAX => state
                .queue(self.queue_select)
                .map_or(0, |queue| queue.max_size.into()),
            register::VIRTIO_MMIO_QUEUE_READY => state
                .queue(self.queue_select)
                .map_or(0, |queue| queue.ready.into()),
            register::VIRTIO_MMIO_STATUS => state.status(),
            // No device has shared memory: length and address of a region that does not exist are all ones.
            register::VIRTIO_MMIO_SHM_LEN_LOW
            | register::VIRTIO_MMIO_SHM_LEN_HIGH
            | register::VIRTIO_MMIO_SHM_BASE_LOW
            | register::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        match register {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => {
                // Features beyond bit 63 do not exist and cannot be asked for.
                if let Some(shift) = shift(self.driver_features_select) {
                    self.state.set_driver_features(shift, value);
                }
            }
            register::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            register::VIRTIO_MMIO_QUEUE_NUM => self.configure_queue(|queue| queue.size = value),
            register::VIRTIO_MMIO_QUEUE_READY if value == 0 => {
                self.state.disable_queue(self.queue_select)
            }
            register::VIRTIO_MMIO_QUEUE_READY => {
                self.configure_queue(|queue| queue.ready = value & 1 != 0)
            }
            register::VIRTIO_MMIO_STATUS if value == 0 => self.reset(),
            register::VIRTIO_MMIO_STATUS => self.state.set_status(value),
            register::VIRTIO_MMIO_QUEUE_DESC_LOW => {
                self.configure_queue(|queue| set_low(&mut queue.descriptor_table, value))
            }
            register::VIRTIO_MMIO_QUEUE_DESC_HIGH => {
                self.configure_queue(|queue| set_high(&mut queue.descriptor_table, value))
            }
            register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => {
                self.configure_queue(|queue| set_low(&mut queue.available_ring, value))
            }
            register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => {
                self.configure_queue(|queue| set_high(&mut queue.available_ring, value))
            }
            register::VIRTIO_MMIO_QUEUE_USED_LOW => {
                self.configure_queue(|queue| set_low(&mut queue.used_ring, value))
            }
            register::VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.configure_queue(|queue| set_high(&mut queue.used_ring, value))
            }
            _ => {}
        }
    }

    fn configure_queue(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        self.state.configure_queue(self.queue_select, change);
    }

    fn reset(&mut self) {
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.state.reset();
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

/// A slot without a device: its DeviceID is zero, so that a driver passes on (VIRTIO 1.3, section 4.2.2).
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptySlot;

impl MmioDevice for EmptySlot {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (Ok(data), Some(register)) = (<&mut [u8; 4]>::try_from(data), aligned(offset)) {
            let value = match register {
                register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
                register::VIRTIO_MMIO_VERSION => VERSION,
                register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
                _ => 0,
            };
            *data = value.to_le_bytes();
        }
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests;
