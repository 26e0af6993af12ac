//! The host's serial port, a 16550 with byte-wide registers one byte apart (PC16550D data sheet, section 8).

use hv_core::addr::HostPhysAddr;

use crate::hypervisor::mmio;

/// Register offsets.
mod register {
    pub const DATA: u64 = 0;
    pub const INTERRUPT_ENABLE: u64 = 1;
    pub const FIFO_CONTROL: u64 = 2;
    pub const LINE_STATUS: u64 = 5;
}

/// Interrupt enable: a character has arrived.
const RECEIVED_DATA: u8 = 1 << 0;
/// FIFO control: there are FIFOs, an interrupt comes for each character.
const FIFOS: u8 = 1 << 0;
/// Line status: a character is there.
const DATA_READY: u8 = 1 << 0;
/// Line status: the transmitter takes a character.
const HOLDING_EMPTY: u8 = 1 << 5;

/// The port.
#[derive(Debug)]
pub struct Port(HostPhysAddr);

impl Port {
    /// Begins to use the port at `base`, with an interrupt for what arrives. The firmware has set its speed.
    ///
    /// # Safety
    /// A 16550 is there, and nobody else uses it from now on.
    pub unsafe fn new(base: HostPhysAddr) -> Self {
        let port = Self(base);
        port.set(register::FIFO_CONTROL, FIFOS);
        port.set(register::INTERRUPT_ENABLE, RECEIVED_DATA);
        port
    }

    /// Sends bytes, at the port's speed.
    pub fn write(&self, bytes: &[u8]) {
        for byte in bytes {
            while self.get(register::LINE_STATUS) & HOLDING_EMPTY == 0 {
                core::hint::spin_loop();
            }
            self.set(register::DATA, *byte);
        }
    }

    /// The next character that has arrived.
    pub fn read(&self) -> Option<u8> {
        let ready = self.get(register::LINE_STATUS) & DATA_READY != 0;
        ready.then(|| self.get(register::DATA))
    }

    fn get(&self, register: u64) -> u8 {
        // SAFETY: it is a register of the port, which is this value's alone.
        unsafe { mmio::read8(HostPhysAddr(self.0.0 + register)) }
    }

    fn set(&self, register: u64, value: u8) {
        // SAFETY: as in `get`.
        unsafe { mmio::write8(HostPhysAddr(self.0.0 + register), value) };
    }
}
