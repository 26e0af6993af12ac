//! A 16550A UART.
//!
//! Source: National Semiconductor, PC16550D data sheet (June 1995), section 8, "Registers". Baud rate, frame format and
//! parity are stored and read back but have no effect: a character leaves the instant it is written, so the
//! transmitter is always empty, and a guest never waits for it.
//!
//! The IRQ line is level-triggered, like the chip's pin: after each access it is high if the interrupt identification
//! register reports an interrupt.

use alloc::collections::VecDeque;
use core::mem;

use crate::layout;
use crate::node::{DeviceNode, Node, Trigger};

/// What the device tree says of the board's serial port (bindings: `serial/8250.yaml`).
#[must_use]
pub fn node() -> DeviceNode {
    let node = Node::new("serial")
        .strings("compatible", ["ns16550a"])
        .registers()
        .cell("clock-frequency", layout::UART_CLOCK)
        .interrupt(layout::UART_IRQ, Trigger::LevelHigh);
    DeviceNode::new(layout::UART_BASE, layout::UART_SIZE, node).console()
}

/// Register offsets. Several registers share one, told apart by direction and by the divisor latch access bit.
mod register {
    /// Receiver buffer (read), transmitter holding (write), divisor latch least significant byte (DLAB).
    pub const RBR_THR_DLL: u64 = 0;
    /// Interrupt enable, divisor latch most significant byte (DLAB).
    pub const IER_DLM: u64 = 1;
    /// Interrupt identification (read), FIFO control (write).
    pub const IIR_FCR: u64 = 2;
    pub const LCR: u64 = 3;
    pub const MCR: u64 = 4;
    pub const LSR: u64 = 5;
    pub const MSR: u64 = 6;
    pub const SCR: u64 = 7;
}

/// Interrupt enable register.
mod ier {
    pub const RECEIVED_DATA: u8 = 1 << 0;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    /// Bits 4 to 7 always read as zero.
    pub const MASK: u8 = 0x0f;
}

/// Interrupt identification register.
mod iir {
    pub const MODEM_STATUS: u8 = 0x00;
    pub const NONE: u8 = 0x01;
    pub const TRANSMITTER_EMPTY: u8 = 0x02;
    pub const RECEIVED_DATA: u8 = 0x04;
    pub const LINE_STATUS: u8 = 0x06;
    pub const CHARACTER_TIMEOUT: u8 = 0x0c;
    /// Both set while the FIFOs are on. This is how a driver tells a 16550A from a 16450.
    pub const FIFOS_ENABLED: u8 = 0xc0;
}

/// FIFO control register.
mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const RECEIVER_RESET: u8 = 1 << 1;
    pub const TRIGGER_SHIFT: u32 = 6;
}

/// Line control register.
mod lcr {
    pub const DIVISOR_LATCH_ACCESS: u8 = 1 << 7;
}

/// Modem control register.
mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOP: u8 = 1 << 4;
    /// Bits 5 to 7 always read as zero.
    pub const MASK: u8 = 0x1f;
}

/// Line status register.
mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const HOLDING_EMPTY: u8 = 1 << 5;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 6;
}

/// Modem status register: the lines in the high half, "changed since the last read" in the low half.
mod msr {
    pub const TRAILING_EDGE_RI: u8 = 1 << 2;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    /// From a line's bit to the bit that says it changed.
    pub const DELTA_SHIFT: u32 = 4;
}

/// Characters the receiver holds while the FIFOs are on.
const FIFO_SIZE: usize = 16;

/// As many reads of LSR in a row mean that a guest waits for a character. One that sends reads it once for each, and no
/// driver's start comes near.
const POLLS_OF_A_READER: u8 = 64;

/// A 16550A with its FIFOs: what the chip holds, plain data. Carrier and clear-to-send are always asserted.
///
/// Registers are one byte wide and lie at offsets 0 to 7. Of a wider access, the first byte reaches the register and
/// the others read as zero.
///
/// After each call, the owner sets the IRQ line to the level of [`line`](Self::line), and checks whether input is
/// [wanted](Self::wants_input).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Registers {
    received: VecDeque<u8>,
    ier: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    dll: u8,
    dlm: u8,
    fifos_enabled: bool,
    /// How many characters raise the received-data interrupt.
    trigger: usize,
    overrun: bool,
    /// The low half of the modem status register.
    msr_deltas: u8,
    /// The transmitter became empty, or its interrupt was enabled, and the guest has not been told since.
    transmitter_empty_pending: bool,
    /// Characters that the guest threw away unread, and that come again.
    unread: VecDeque<u8>,
    /// There is more to receive: the last `receive` found no room for all it was given, or there are unread ones.
    starved: bool,
    /// How many times in a row the guest has read LSR, without a write in between.
    polls: u8,
    /// The guest reads its input by other means than the registers.
    read_elsewhere: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

impl Registers {
    /// A UART after power-on, with no interrupt enabled and the line low.
    #[must_use]
    pub fn new() -> Self {
        Self {
            received: VecDeque::with_capacity(FIFO_SIZE),
            ier: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            dll: 0,
            dlm: 0,
            fifos_enabled: false,
            trigger: 1,
            overrun: false,
            msr_deltas: 0,
            transmitter_empty_pending: false,
            unread: VecDeque::with_capacity(FIFO_SIZE),
            starved: false,
            polls: 0,
            read_elsewhere: false,
        }
    }

    /// Whether a UART can hold this. What came from a file may be anything.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.received.len() <= self.capacity()
            && self.unread.len() <= FIFO_SIZE
            && self.ier & !ier::MASK == 0
            && self.mcr & !mcr::MASK == 0
            && matches!(self.trigger, 1 | 4 | 8 | 14)
            && self.msr_deltas >> msr::DELTA_SHIFT == 0
    }

    /// The guest reads at `offset` from the UART's base.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = self.read_register(offset);
        }
    }

    /// The guest writes at `offset` from the UART's base. Returns the character that leaves on the serial line, if the
    /// write sends one.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<u8> {
        self.write_register(offset, *data.first()?)
    }

    /// Where the interrupt line is.
    #[must_use]
    pub fn line(&self) -> bool {
        self.interrupt() != iir::NONE
    }

    /// Hands characters to the receiver. Returns how many it took: no character overruns another. Nothing is taken before
    /// the guest reads its input, and in loopback mode, where the serial input is disconnected; [`wants_input`] tells when
    /// that changes.
    ///
    /// [`wants_input`]: Self::wants_input
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = if self.is_listening() && self.mcr & mcr::LOOP == 0 {
            self.capacity().saturating_sub(self.received.len())
        } else {
            0
        };
        let again = room.min(self.unread.len());
        self.received.extend(self.unread.drain(..again));
        let taken = room.saturating_sub(again).min(bytes.len());
        self.received.extend(bytes.iter().take(taken));
        self.starved = taken < bytes.len() || !self.unread.is_empty();
        taken
    }

    /// Takes what the receiver holds and the guest has not read from it, for a guest that reads its console by other means
    /// (SBI). Returns the number of bytes.
    pub fn take_received(&mut self, buffer: &mut [u8]) -> usize {
        self.read_elsewhere = true;
        let count = buffer.len().min(self.received.len());
        for (byte, received) in buffer.iter_mut().zip(self.received.drain(..count)) {
            *byte = received;
        }
        count
    }

    /// Whether [`receive`](Self::receive) wants to be called again, if need be with nothing new: the guest has read
    /// everything after it could not take all it was given, or has emptied the FIFO with characters in it. Says so once.
    ///
    /// Asking only when the guest has read everything brings a FIFO's worth at a time.
    pub fn wants_input(&mut self) -> bool {
        let wanted = self.starved
            && self.received.is_empty()
            && self.is_listening()
            && self.mcr & mcr::LOOP == 0;
        self.starved &= !wanted;
        wanted
    }

    /// Whether the guest reads what arrives. A driver that starts throws away what the receiver holds, which on a real
    /// line is noise, and here the beginning of what a user typed early or piped in: so nothing arrives before the
    /// guest has enabled the received-data interrupt, or waits for a character in a loop.
    fn is_listening(&self) -> bool {
        self.ier & ier::RECEIVED_DATA != 0 || self.polls >= POLLS_OF_A_READER || self.read_elsewhere
    }

    /// The interrupt of the highest priority, as the identification register shows it (data sheet, table IV).
    fn interrupt(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(ier::LINE_STATUS) && self.overrun {
            iir::LINE_STATUS
        } else if enabled(ier::RECEIVED_DATA) && !self.received.is_empty() {
            if self.received.len() >= self.trigger {
                iir::RECEIVED_DATA
            } else {
                // Fewer than the trigger level, and no more are being received: on the chip this comes four character
                // times later, which at an infinite baud rate is now.
                iir::CHARACTER_TIMEOUT
            }
        } else if enabled(ier::TRANSMITTER_EMPTY) && self.transmitter_empty_pending {
            iir::TRANSMITTER_EMPTY
        } else if enabled(ier::MODEM_STATUS) && self.msr_deltas != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        match offset {
            register::RBR_THR_DLL if self.divisor_latch() => self.dll,
            register::RBR_THR_DLL => self.received.pop_front().unwrap_or(0),
            register::IER_DLM if self.divisor_latch() => self.dlm,
            register::IER_DLM => self.ier,
            register::IIR_FCR => {
                let interrupt = self.interrupt();
                if interrupt == iir::TRANSMITTER_EMPTY {
                    // Reading IIR clears this interrupt, if it is the one that is shown.
                    self.transmitter_empty_pending = false;
                }
                interrupt
                    | if self.fifos_enabled {
                        iir::FIFOS_ENABLED
                    } else {
                        0
                    }
            }
            register::LCR => self.lcr,
            register::MCR => self.mcr,
            register::LSR => {
                self.polls = self.polls.saturating_add(1);
                let mut value = lsr::HOLDING_EMPTY | lsr::TRANSMITTER_EMPTY;
                if !self.received.is_empty() {
                    value |= lsr::DATA_READY;
                }
                if mem::take(&mut self.overrun) {
                    value |= lsr::OVERRUN;
                }
                value
            }
            register::MSR => self.modem_lines() | mem::take(&mut self.msr_deltas),
            register::SCR => self.scr,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u8) -> Option<u8> {
        self.polls = 0;
        match offset {
            register::RBR_THR_DLL if self.divisor_latch() => self.dll = value,
            register::RBR_THR_DLL => return self.transmit(value),
            register::IER_DLM if self.divisor_latch() => self.dlm = value,
            register::IER_DLM => {
                let newly_enabled = value & !self.ier;
                self.ier = value & ier::MASK;
                if newly_enabled & ier::TRANSMITTER_EMPTY != 0 {
                    // Enabling the interrupt while the transmitter is empty, as it always is, raises it.
                    self.transmitter_empty_pending = true;
                }
            }
            register::IIR_FCR => self.control_fifos(value),
            register::LCR => self.lcr = value,
            register::MCR => self.control_modem(value & mcr::MASK),
            // LSR is "intended for read operations only"; the lines of MSR belong to the other side.
            register::SCR => self.scr = value,
            _ => {}
        }
        None
    }

    fn transmit(&mut self, value: u8) -> Option<u8> {
        // The write clears the interrupt, and in the same instant the transmitter is empty again.
        self.transmitter_empty_pending = true;
        if self.mcr & mcr::LOOP == 0 {
            return Some(value);
        }
        if self.received.len() < self.capacity() {
            self.received.push_back(value);
        } else {
            self.overrun = true;
        }
        None
    }

    fn control_fifos(&mut self, value: u8) {
        let enable = value & fcr::ENABLE != 0;
        if enable != self.fifos_enabled || (enable && value & fcr::RECEIVER_RESET != 0) {
            // Switching between FIFO and 16450 mode empties the FIFOs too.
            self.empty_receiver();
        }
        self.fifos_enabled = enable;
        // "This bit must be a 1 when other FCR bits are written to or they will not be programmed."
        self.trigger = match value >> fcr::TRIGGER_SHIFT {
            _ if !enable => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
    }

    /// The receiver is empty from the guest's point of view. What the user typed comes again: Linux enables the
    /// interrupt a moment before it sets up the FIFO, and would lose the first character.
    fn empty_receiver(&mut self) {
        if self.mcr & mcr::LOOP != 0 {
            self.received.clear();
            return;
        }
        // The receiver is filled from these first, so together they are never more than a FIFO's worth of input. The limit
        // is for a guest that adds characters of its own in loopback mode.
        while let Some(character) = self.received.pop_back() {
            if self.unread.len() < FIFO_SIZE {
                self.unread.push_front(character);
            }
        }
        self.starved |= !self.unread.is_empty();
    }

    fn control_modem(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = value;
        let after = self.modem_lines();
        self.msr_deltas |= (before ^ after) >> msr::DELTA_SHIFT & !msr::TRAILING_EDGE_RI;
        if before & !after & msr::RI != 0 {
            // The ring indicator alone counts only when it ends.
            self.msr_deltas |= msr::TRAILING_EDGE_RI;
        }
    }

    /// The high half of MSR. In loopback mode the modem control outputs are wired to the modem status inputs.
    fn modem_lines(&self) -> u8 {
        if self.mcr & mcr::LOOP == 0 {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        [
            (mcr::RTS, msr::CTS),
            (mcr::DTR, msr::DSR),
            (mcr::OUT1, msr::RI),
            (mcr::OUT2, msr::DCD),
        ]
        .into_iter()
        .filter(|(output, _)| self.mcr & output != 0)
        .fold(0, |lines, (_, input)| lines | input)
    }

    fn divisor_latch(&self) -> bool {
        self.lcr & lcr::DIVISOR_LATCH_ACCESS != 0
    }

    /// Characters the receiver holds: its FIFO, or the single buffer register of a 16450.
    fn capacity(&self) -> usize {
        if self.fifos_enabled { FIFO_SIZE } else { 1 }
    }
}

#[cfg(test)]
mod tests;
