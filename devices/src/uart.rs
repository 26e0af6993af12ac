//! The 16550A UART of [`hv_core::uart`], with its interrupt line and the chardev behind it.

use std::sync::{Arc, Mutex};

use hv_core::uart::Registers;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::MmioDevice;
use crate::chardev::{InputSink, OutputSink};
use crate::interrupt::IrqLine;
use crate::lock;
use crate::state::RestoreError;

/// A 16550A. What the guest sends goes to an [`OutputSink`], and what it gets comes by [`receive`](Self::receive).
pub struct Uart {
    state: Mutex<State>,
    irq: Arc<dyn IrqLine>,
    output: Arc<dyn OutputSink>,
}

/// What a [`Uart`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UartState {
    registers: Registers,
}

struct State {
    registers: Registers,
    /// Where the line was last put.
    line: bool,
    room: Option<EventFd>,
}

impl Uart {
    /// A UART after power-on, with no interrupt enabled and the line low.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, output: Arc<dyn OutputSink>) -> Self {
        let state = State {
            registers: Registers::new(),
            line: false,
            room: None,
        };
        Self {
            state: Mutex::new(state),
            irq,
            output,
        }
    }

    /// Sets the event that is written to when the guest has read everything after [`receive`](Self::receive) could not
    /// take all it was given, or when the guest emptied the FIFO with characters in it. Then [`receive`](Self::receive)
    /// wants to be called again, if need be with nothing new.
    pub fn set_room_event(&self, event: EventFd) {
        lock(&self.state).room = Some(event);
    }

    /// Hands characters to the receiver. Returns how many it took: no character overruns another. Nothing is taken before
    /// the guest reads its input, and in loopback mode, where the serial input is disconnected; the room event tells when
    /// that changes.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        self.with_registers(|registers| registers.receive(bytes))
    }

    /// Takes what the receiver holds and the guest has not read from it, for a guest that reads its console by other means
    /// (SBI). Returns the number of bytes.
    pub fn take_received(&self, buffer: &mut [u8]) -> usize {
        self.with_registers(|registers| registers.take_received(buffer))
    }

    /// The state, while no vCPU runs.
    #[must_use]
    pub fn save(&self) -> UartState {
        UartState {
            registers: lock(&self.state).registers.clone(),
        }
    }

    /// Puts a saved state in place of this one, and drives the line to where it was.
    ///
    /// # Errors
    /// No UART has this state. It is as it was then.
    pub fn restore(&self, state: UartState) -> Result<(), RestoreError> {
        let UartState { registers } = state;
        RestoreError::unless(registers.is_possible(), "registers of the UART")?;
        self.with_registers(|old| *old = registers);
        Ok(())
    }

    /// Runs `access` and then drives the line to where the registers want it.
    fn with_registers<T>(&self, access: impl FnOnce(&mut Registers) -> T) -> T {
        let mut state = lock(&self.state);
        let result = access(&mut state.registers);
        let level = state.registers.line();
        if level != state.line {
            state.line = level;
            // Under the lock, so that two vCPUs cannot drive the line in the wrong order.
            self.irq.set_level(level);
        }
        let State {
            registers, room, ..
        } = &mut *state;
        if let Some(room) = room
            && registers.wants_input()
        {
            // It fails only if the counter overflows, and then the event is signalled already.
            let _ = room.write(1);
        }
        result
    }
}

impl InputSink for Uart {
    fn receive(&self, bytes: &[u8]) -> usize {
        self.receive(bytes)
    }

    fn set_room_event(&self, event: EventFd) {
        self.set_room_event(event);
    }

    fn take_received(&self, buffer: &mut [u8]) -> usize {
        self.take_received(buffer)
    }
}

impl MmioDevice for Uart {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.with_registers(|registers| registers.read(offset, data));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let sent = self.with_registers(|registers| registers.write(offset, data));
        if let Some(byte) = sent {
            // Outside the lock: this may block for as long as the reader of the output is slow, and other vCPUs, as
            // well as whoever brings input, must get through meanwhile.
            self.output.write(&[byte]);
        }
    }
}

#[cfg(test)]
mod tests;
