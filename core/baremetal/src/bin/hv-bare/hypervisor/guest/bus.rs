//! The devices of a guest's board as one of its harts reaches them. Each hart has a bus of its own, so that what a device does to
//! the hart that accesses it, it does to itself, without an interrupt between harts.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use hv_core::addr::GuestPhysAddr;
use hv_core::bus::{Error, MmioDevice, Regions};
use hv_core::ending::End;
use hv_core::{layout, test_device, virtio_mmio};
use spin::Mutex;

use super::Guest;
use crate::hypervisor::statistics::Cause;

/// The version of the slots without a device: that of the devices that QEMU has in the others when it is asked for them.
const VIRTIO_VERSION: u32 = 2;

/// The bus.
pub struct Bus {
    devices: Regions<(Box<dyn MmioDevice>, Cause)>,
    /// What the test device was told last.
    end: Arc<Mutex<Option<End>>>,
}

impl Bus {
    /// That of the guest's hart with this id.
    ///
    /// # Errors
    /// If two devices have the same addresses.
    pub fn new(guest: &'static Guest, hart: u32) -> Result<Self, Error> {
        let end = Arc::new(Mutex::new(None));
        let mut devices = Regions::new();
        let mut insert = |base, size, cause, device| devices.insert(base, size, (device, cause));
        insert(
            layout::PLIC_BASE,
            layout::PLIC_SIZE,
            Cause::Plic,
            Box::new(Plic { guest, hart }) as Box<dyn MmioDevice>,
        )?;
        insert(
            layout::UART_BASE,
            layout::UART_SIZE,
            Cause::Serial,
            Box::new(SerialPort { guest, hart }),
        )?;
        insert(
            layout::RTC_BASE,
            layout::RTC_SIZE,
            Cause::OtherDevice,
            Box::new(Rtc { guest, hart }),
        )?;
        insert(
            layout::TEST_DEVICE_BASE,
            layout::TEST_DEVICE_SIZE,
            Cause::OtherDevice,
            Box::new(TestDevice { end: end.clone() }),
        )?;
        insert(
            layout::VIRTIO_BASE,
            layout::VIRTIO_STRIDE * u64::from(layout::VIRTIO_SLOTS),
            Cause::OtherDevice,
            Box::new(EmptySlots),
        )?;
        Ok(Self { devices, end })
    }

    /// The device that has `width` bytes of registers at `address`, how far into its registers they are, and as what an access
    /// counts.
    pub fn find(&self, address: GuestPhysAddr, width: u8) -> Option<(&dyn MmioDevice, u64, Cause)> {
        let ((device, cause), offset) = self.devices.find(address, width.into())?;
        Some((&**device, offset, *cause))
    }

    /// The end that the guest has asked for by the test device since this was called last, if it has.
    pub fn take_end(&self) -> Option<End> {
        self.end.lock().take()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

/// The interrupt chip.
struct Plic {
    guest: &'static Guest,
    hart: u32,
}

impl MmioDevice for Plic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.guest.with_plic(Some(self.hart), |plic, lines| {
            plic.read(offset, data, lines);
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.guest.with_plic(Some(self.hart), |plic, lines| {
            plic.write(offset, data, lines);
        });
    }
}

/// The serial port.
struct SerialPort {
    guest: &'static Guest,
    hart: u32,
}

impl MmioDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.guest.board.with_serial(
            |serial| serial.read(offset, data),
            |level| self.guest.set_serial_line(level, Some(self.hart)),
        );
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let sent = self.guest.board.with_serial(
            |serial| serial.write(offset, data),
            |level| self.guest.set_serial_line(level, Some(self.hart)),
        );
        if let Some(byte) = sent {
            self.guest.print(&[byte]);
        }
    }
}

/// The real-time clock.
struct Rtc {
    guest: &'static Guest,
    hart: u32,
}

impl MmioDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.guest.read_rtc(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.guest.write_rtc(self.hart, offset, data);
    }
}

/// The test device.
struct TestDevice {
    end: Arc<Mutex<Option<End>>>,
}

impl MmioDevice for TestDevice {
    fn read(&self, _: u64, _: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(end) = test_device::write(offset, data) {
            *self.end.lock() = Some(end);
        }
    }
}

/// The virtio-mmio slots, which have no devices.
struct EmptySlots;

impl MmioDevice for EmptySlots {
    fn read(&self, offset: u64, data: &mut [u8]) {
        virtio_mmio::read_empty_slot(VIRTIO_VERSION, offset % layout::VIRTIO_STRIDE, data);
    }

    fn write(&self, _: u64, _: &[u8]) {}
}
