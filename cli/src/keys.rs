//! hvrun's own keys, for a user whose terminal is the guest's console.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use hv_vmm::{Handle, InputFilter, Status};

/// Ctrl-a.
const ESCAPE: u8 = 0x01;

/// The keys and what they do.
pub const KEYS: [(&str, &str); 4] = [
    ("Ctrl-a x", "end the virtual machine"),
    ("Ctrl-a p", "pause the guest, or have it go on"),
    ("Ctrl-a h", "list the keys"),
    ("Ctrl-a a", "send Ctrl-a to the guest"),
];

/// The hint about these keys when a guest starts on a terminal.
pub const HINT: &str = "Ctrl-a x ends the guest, Ctrl-a h lists the keys";

/// What to do with a byte of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Guest(u8),
    Nothing,
    Help,
    Pause,
    End,
}

/// The keys, on their way to the guest or to the machine.
#[derive(Debug, Default)]
pub struct Keys {
    /// Ctrl-a was pressed last.
    escaped: AtomicBool,
    /// The machine that they command. It is set before the machine runs, and no key is read earlier.
    machine: OnceLock<Handle>,
}

impl Keys {
    /// From now on the keys command this machine.
    pub fn command(&self, machine: Handle) {
        let _ = self.machine.set(machine);
    }

    fn press(&self, byte: u8) -> Key {
        // One thread reads the input.
        if !self.escaped.swap(byte == ESCAPE, Ordering::Relaxed) {
            return if byte == ESCAPE {
                Key::Nothing
            } else {
                Key::Guest(byte)
            };
        }
        self.escaped.store(false, Ordering::Relaxed);
        match byte {
            b'x' | b'X' => Key::End,
            b'p' | b'P' => Key::Pause,
            b'h' | b'H' | b'?' => Key::Help,
            b'a' | b'A' | ESCAPE => Key::Guest(ESCAPE),
            // Any other key is no command, and as likely meant for the guest as a slip of the finger.
            other => Key::Guest(other),
        }
    }
}

impl InputFilter for Keys {
    fn filter(&self, input: &[u8], print: &dyn Fn(&[u8])) -> Vec<u8> {
        let mut for_guest = Vec::new();
        for &byte in input {
            match self.press(byte) {
                Key::Guest(byte) => for_guest.push(byte),
                Key::Nothing => {}
                Key::Help => print(help().as_bytes()),
                Key::Pause => {
                    if let Some(machine) = self.machine.get() {
                        print(pause_or_go_on(machine).as_bytes());
                    }
                }
                Key::End => {
                    if let Some(machine) = self.machine.get() {
                        machine.stop();
                    }
                }
            }
        }
        for_guest
    }
}

/// Asks for the one or the other, and says which it is.
fn pause_or_go_on(machine: &Handle) -> &'static str {
    match machine.toggle_pause() {
        Ok(Status::Paused) => "\r\nthe guest is paused; Ctrl-a p has it go on\r\n",
        Ok(_) => "\r\nthe guest goes on\r\n",
        // It ends at this moment.
        Err(_) => "",
    }
}

/// What Ctrl-a h prints. The terminal is in raw mode, so lines end in both characters.
fn help() -> String {
    let lines = KEYS.map(|(key, meaning)| format!("{key}  {meaning}\r\n"));
    format!("\r\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(bytes: &[u8]) -> Vec<Key> {
        let keys = Keys::default();
        bytes.iter().map(|byte| keys.press(*byte)).collect()
    }

    #[test]
    fn the_hint_names_keys_that_there_are() {
        for key in ["Ctrl-a x", "Ctrl-a h"] {
            assert!(HINT.contains(key) && KEYS.iter().any(|(known, _)| *known == key));
        }
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
        assert_eq!(press(b"\x01p"), [Key::Nothing, Key::Pause]);
        assert_eq!(press(b"\x01c"), [Key::Nothing, Key::Guest(b'c')]);
    }

    #[test]
    fn a_command_may_come_in_pieces_and_the_guest_gets_the_rest() {
        let keys = Keys::default();
        let printed = std::cell::RefCell::new(Vec::new());
        let filter =
            |input: &[u8]| keys.filter(input, &|text| printed.borrow_mut().extend_from_slice(text));
        assert_eq!(filter(b"one\x01"), b"one");
        assert_eq!(filter(b"htwo\x01athree"), b"two\x01three");
        // Without a machine it ends none.
        assert_eq!(filter(b"\x01p\x01x"), b"");
        let printed = String::from_utf8(printed.into_inner()).unwrap();
        assert_eq!(
            printed,
            "\r\nCtrl-a x  end the virtual machine\r\nCtrl-a p  pause the guest, or have it go on\r\n\
             Ctrl-a h  list the keys\r\n\
             Ctrl-a a  send Ctrl-a to the guest\r\n"
        );
    }
}
