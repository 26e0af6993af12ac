//! The emulated devices of a guest's board: core's state machines behind locks. Its harts reach them by [`super::bus`].

use alloc::collections::VecDeque;

use hv_bare::partition::Passthrough;
use hv_core::addr::HostPhysAddr;
use hv_core::plic::Plic;
use hv_core::{layout, rtc, uart, virtio_mmio};
use spin::Mutex;

use crate::hypervisor::mmio;

/// The most of what was typed that waits for a guest to read it, bytes.
const MAX_INPUT: usize = 4096;

/// The devices.
#[derive(Debug)]
pub struct Board {
    /// The interrupt chip.
    pub plic: Mutex<Plic>,
    /// The serial port and what waits for it.
    serial: Mutex<Serial>,
    /// The real-time clock, and how far the guest set it ahead, nanoseconds modulo 2^64.
    pub rtc: Mutex<(rtc::Registers, u64)>,
    /// The guest's sources that are forwarded and not completed, by bits.
    in_flight: Mutex<u128>,
}

#[derive(Debug)]
struct Serial {
    registers: uart::Registers,
    input: VecDeque<u8>,
}

impl Serial {
    /// Hands on what was typed, as far as the guest takes it.
    fn feed(&mut self) {
        let (bytes, _) = self.input.as_slices();
        let taken = self.registers.receive(bytes);
        self.input.drain(..taken.min(self.input.len()));
    }
}

impl Board {
    /// A board for so many harts, after power-on.
    pub fn new(harts: u32) -> Self {
        Self {
            plic: Mutex::new(Plic::new(harts, layout::PLIC_SOURCES)),
            serial: Mutex::new(Serial {
                registers: uart::Registers::new(),
                input: VecDeque::with_capacity(MAX_INPUT),
            }),
            rtc: Mutex::new((rtc::Registers::new(), 0)),
            in_flight: Mutex::new(0),
        }
    }

    /// Back to power-on. What was typed and the time that the guest set stay.
    pub fn reset(&self, harts: u32) {
        *self.plic.lock() = Plic::new(harts, layout::PLIC_SOURCES);
        self.serial.lock().registers = uart::Registers::new();
        self.rtc.lock().0 = rtc::Registers::new();
    }

    /// Runs `action` on the serial port's registers, and sets its IRQ line afterwards.
    pub fn with_serial<R>(
        &self,
        action: impl FnOnce(&mut uart::Registers) -> R,
        set_line: impl FnOnce(bool),
    ) -> R {
        let mut serial = self.serial.lock();
        let before = serial.registers.line();
        let result = action(&mut serial.registers);
        if serial.registers.wants_input() {
            serial.feed();
        }
        let after = serial.registers.line();
        if before != after {
            // Under the lock, so that two harts cannot set the line in the wrong order.
            set_line(after);
        }
        result
    }

    /// Takes what was typed. What is too much is lost, as on a line without flow control.
    pub fn input(&self, bytes: &[u8], set_line: impl FnOnce(bool)) {
        {
            let mut serial = self.serial.lock();
            let room = MAX_INPUT.saturating_sub(serial.input.len());
            serial.input.extend(bytes.iter().take(room));
        }
        self.refill(set_line);
    }

    /// Has the serial port take what waits, if it can.
    fn refill(&self, set_line: impl FnOnce(bool)) {
        let mut serial = self.serial.lock();
        let before = serial.registers.line();
        serial.feed();
        let after = serial.registers.line();
        if before != after {
            set_line(after);
        }
    }

    /// Takes what was typed, for a guest that reads its console by SBI. Returns the number of bytes.
    pub fn take_input(&self, buffer: &mut [u8]) -> usize {
        let mut serial = self.serial.lock();
        let received = serial.registers.take_received(buffer);
        let mut count = received;
        for byte in buffer.iter_mut().skip(received) {
            let Some(next) = serial.input.pop_front() else {
                break;
            };
            *byte = next;
            count = count.saturating_add(1);
        }
        count
    }

    /// A source is forwarded.
    pub fn set_in_flight(&self, source: u32) {
        *self.in_flight.lock() |= bit(source);
    }

    /// It is not any more. Whether it was.
    pub fn take_in_flight(&self, source: u32) -> bool {
        let mut in_flight = self.in_flight.lock();
        let was = *in_flight & bit(source) != 0;
        *in_flight &= !bit(source);
        was
    }
}

/// The guest's sources are 1 to 95.
const fn bit(source: u32) -> u128 {
    match 1_u128.checked_shl(source) {
        Some(bit) => bit,
        None => 0,
    }
}

/// Has a virtio device of the host's forget its queues, so that it no longer reads or writes memory.
pub fn reset_virtio(device: &Passthrough) {
    let registers = device.host.registers.start.0;
    let status = HostPhysAddr(registers.saturating_add(virtio_mmio::STATUS));
    // SAFETY: it is the register of that name of a virtio-mmio device, and the device's guest does not run.
    unsafe { mmio::write32(status, 0) };
}
