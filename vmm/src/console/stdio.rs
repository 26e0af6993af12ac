//! Input for the guest's console: from a file, pipe or terminal into the UART, with the keys that command the machine.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use hv_devices::console::ConsoleOutput;
use hv_devices::uart::Uart;
use vmm_sys_util::eventfd::EventFd;

/// Ctrl-a.
const ESCAPE: u8 = 0x01;

/// What Ctrl-a h prints. The terminal is in raw mode, so lines end in both characters.
const HELP: &str = "\r\n\
    Ctrl-a x  end the virtual machine\r\n\
    Ctrl-a h  this help\r\n\
    Ctrl-a a  send Ctrl-a to the guest\r\n";

/// Bytes read at once. What the guest has not taken yet is never more than this.
const CHUNK: usize = 4096;

/// What to do with a byte of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Guest(u8),
    Nothing,
    Help,
    End,
}

/// The state of the escape key.
#[derive(Debug, Default)]
struct EscapeKeys {
    pressed: bool,
}

impl EscapeKeys {
    fn press(&mut self, byte: u8) -> Key {
        if !std::mem::take(&mut self.pressed) {
            if byte == ESCAPE {
                self.pressed = true;
                return Key::Nothing;
            }
            return Key::Guest(byte);
        }
        match byte {
            b'x' | b'X' => Key::End,
            b'h' | b'H' | b'?' => Key::Help,
            b'a' | b'A' | ESCAPE => Key::Guest(ESCAPE),
            // Any other key is no command, and as likely meant for the guest as a slip of the finger.
            other => Key::Guest(other),
        }
    }
}

/// The console's input, an event subscriber that outlives each boot of the guest.
pub struct ConsoleInput {
    /// `None` once it has ended.
    input: Option<File>,
    /// The file cannot be waited for because it is always ready: a regular file, or /dev/null.
    always_ready: bool,
    escape: Option<EscapeKeys>,
    output: Arc<dyn ConsoleOutput>,
    /// Read and not yet taken by the guest; nothing more is read until it is empty.
    waiting: VecDeque<u8>,
    uart: Arc<Uart>,
    /// The UART's word that it has room again.
    room: EventFd,
    /// Written when the user ends the machine.
    end: EventFd,
}

impl ConsoleInput {
    /// Input for `uart`, whose room event is `room`; `end` is written on Ctrl-a x.
    pub fn new(
        input: Option<File>,
        escape: bool,
        output: Arc<dyn ConsoleOutput>,
        uart: Arc<Uart>,
        room: EventFd,
        end: EventFd,
    ) -> ConsoleInput {
        ConsoleInput {
            input,
            always_ready: false,
            escape: escape.then(EscapeKeys::default),
            output,
            waiting: VecDeque::new(),
            uart,
            room,
            end,
        }
    }

    /// Feeds another UART from now on: that of the guest's next boot.
    pub fn attach(&mut self, uart: Arc<Uart>) {
        self.uart = uart;
    }

    /// Gives the guest what waits, as far as it has room.
    fn deliver(&mut self) {
        loop {
            // Also with nothing: the UART may have something left to receive itself.
            let taken = self.uart.receive(self.waiting.make_contiguous());
            self.waiting.drain(..taken);
            if taken == 0 || self.waiting.is_empty() {
                return;
            }
        }
    }

    /// Reads once. Answers whether there may be more.
    fn read(&mut self) -> bool {
        let Some(input) = &mut self.input else {
            return false;
        };
        let mut bytes = [0; CHUNK];
        let count = match input.read(&mut bytes) {
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock
                ) =>
            {
                return true;
            }
            Err(error) => {
                log::debug!("the console's input ends: {error}");
                0
            }
        };
        // The end of the input is not the end of the guest.
        if count == 0 {
            self.input = None;
            return false;
        }
        for &byte in bytes.iter().take(count) {
            let key = self
                .escape
                .as_mut()
                .map_or(Key::Guest(byte), |keys| keys.press(byte));
            match key {
                Key::Guest(byte) => self.waiting.push_back(byte),
                Key::Nothing => {}
                Key::Help => self.output.write(HELP.as_bytes()),
                Key::End => {
                    let _ = self.end.write(1);
                }
            }
        }
        true
    }

    /// Reads an always-ready file until the guest's buffer is full or the file ends.
    fn read_while_there_is_room(&mut self) {
        while self.waiting.is_empty() && self.read() {
            self.deliver();
        }
    }

    /// With escape keys the user must be heard even while the guest takes nothing.
    fn wants_input(&self) -> bool {
        self.waiting.is_empty() || (self.escape.is_some() && self.waiting.len() < CHUNK)
    }

    fn watch(&self, ops: &mut EventOps, register: bool) -> Result<(), event_manager::Error> {
        let Some(input) = &self.input else {
            return Ok(());
        };
        let events = if self.wants_input() {
            EventSet::IN
        } else {
            EventSet::empty()
        };
        if register {
            ops.add(Events::new(input, events))
        } else {
            ops.modify(Events::new(input, events))
        }
    }
}

impl MutEventSubscriber for ConsoleInput {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.room, EventSet::IN)) {
            log::error!("the guest's console gets no more input: {error}");
        }
        if let Err(error) = self.watch(ops, true) {
            log::debug!("the console's input is read without waiting for it: {error}");
            self.always_ready = true;
        }
        self.deliver();
        if self.always_ready {
            self.read_while_there_is_room();
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.room.as_raw_fd() {
            let _ = self.room.read();
            self.deliver();
            if self.always_ready {
                self.read_while_there_is_room();
                return;
            }
        } else {
            let fd = events.fd();
            if !self.wants_input()
                && events
                    .event_set()
                    .intersects(EventSet::HANG_UP | EventSet::ERROR)
            {
                // These are reported whether asked for or not. What waits still goes to the guest.
                let _ = ops.remove(Events::empty_raw(fd));
                self.always_ready = true;
                return;
            }
            if !self.read() {
                let _ = ops.remove(Events::empty_raw(fd));
            }
            self.deliver();
        }
        if let Err(error) = self.watch(ops, false) {
            log::error!("the guest's console gets no more input: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(bytes: &[u8]) -> Vec<Key> {
        let mut keys = EscapeKeys::default();
        bytes.iter().map(|byte| keys.press(*byte)).collect()
    }

    #[test]
    fn ctrl_a_begins_a_command() {
        assert_eq!(press(b"ab"), [Key::Guest(b'a'), Key::Guest(b'b')]);
        assert_eq!(press(b"\x01x"), [Key::Nothing, Key::End]);
        assert_eq!(
            press(b"\x01hq"),
            [Key::Nothing, Key::Help, Key::Guest(b'q')]
        );
        assert_eq!(press(b"\x01a"), [Key::Nothing, Key::Guest(1)]);
        assert_eq!(
            press(b"\x01\x01x"),
            [Key::Nothing, Key::Guest(1), Key::Guest(b'x')]
        );
        assert_eq!(press(b"\x01c"), [Key::Nothing, Key::Guest(b'c')]);
    }
}
