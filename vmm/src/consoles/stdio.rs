//! Input from a file, pipe or terminal, with the keys that command the machine.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use hv_devices::chardev::OutputSink;
use vmm_sys_util::eventfd::EventFd;

use super::feed::{CHUNK, Feed, Source};

/// Ctrl-a.
const ESCAPE: u8 = 0x01;

/// What Ctrl-a h prints. The terminal is in raw mode, so lines end in both characters.
const HELP: &str = "\r\n\
    Ctrl-a x  end the virtual machine\r\n\
    Ctrl-a h  this help\r\n\
    Ctrl-a a  send Ctrl-a to the guest\r\n";

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

/// An open file as a console's input. Its end is not the end of the guest.
pub struct StdioSource {
    /// `None` once it has ended.
    input: Option<File>,
    /// The file cannot be waited for because it is always ready: a regular file, or /dev/null.
    always_ready: bool,
    escape: Option<EscapeKeys>,
    output: Arc<dyn OutputSink>,
    /// Written when the user ends the machine.
    end: EventFd,
}

impl StdioSource {
    /// Input from this file. With `escape`, Ctrl-a x writes to `end`, and Ctrl-a h prints to `output`.
    pub fn new(
        input: File,
        escape: bool,
        output: Arc<dyn OutputSink>,
        end: EventFd,
    ) -> StdioSource {
        StdioSource {
            input: Some(input),
            always_ready: false,
            escape: escape.then(EscapeKeys::default),
            output,
            end,
        }
    }

    /// Reads once. Answers whether there may be more; if not, the file is to be let go.
    fn read(&mut self, feed: &mut Feed) -> bool {
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
                log::debug!("the {}'s input ends: {error}", feed.console());
                0
            }
        };
        if count == 0 {
            return false;
        }
        for &byte in bytes.iter().take(count) {
            let key = self
                .escape
                .as_mut()
                .map_or(Key::Guest(byte), |keys| keys.press(byte));
            match key {
                Key::Guest(byte) => feed.push(&[byte]),
                Key::Nothing => {}
                // Without waiting, on the thread that also serves what ends the machine. Where a reader is that far behind,
                // nobody looks at the help.
                Key::Help => {
                    self.output.try_write(HELP.as_bytes());
                }
                Key::End => {
                    let _ = self.end.write(1);
                }
            }
        }
        true
    }

    /// Reads an always-ready file until the guest's buffer is full or the file ends.
    fn read_while_there_is_room(&mut self, feed: &mut Feed) {
        while feed.waiting() == 0 && self.input.is_some() {
            if !self.read(feed) {
                self.input = None;
            }
            feed.deliver();
        }
    }

    /// With escape keys the user must be heard even while the guest takes nothing.
    fn wants_input(&self, feed: &Feed) -> bool {
        feed.waiting() == 0 || (self.escape.is_some() && feed.waiting() < CHUNK)
    }

    fn watch(
        &self,
        feed: &Feed,
        ops: &mut EventOps,
        register: bool,
    ) -> Result<(), event_manager::Error> {
        let Some(input) = &self.input else {
            return Ok(());
        };
        let events = if self.wants_input(feed) {
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

    fn watch_again(&self, feed: &Feed, ops: &mut EventOps) {
        if let Err(error) = self.watch(feed, ops, false) {
            log::error!("the {} gets no more input: {error}", feed.console());
        }
    }
}

impl Source for StdioSource {
    fn start(&mut self, feed: &mut Feed, ops: &mut EventOps) {
        if let Err(error) = self.watch(feed, ops, true) {
            log::debug!(
                "the {}'s input is read without waiting for it: {error}",
                feed.console()
            );
            self.always_ready = true;
        }
        if self.always_ready {
            self.read_while_there_is_room(feed);
        }
    }

    fn ready(&mut self, feed: &mut Feed, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if !self.wants_input(feed)
            && events
                .event_set()
                .intersects(EventSet::HANG_UP | EventSet::ERROR)
        {
            // These are reported whether asked for or not. What waits still goes to the guest.
            let _ = ops.remove(Events::empty_raw(fd));
            self.always_ready = true;
            return;
        }
        if !self.read(feed)
            && let Some(ended) = self.input.take()
        {
            // Before it is closed: another descriptor of the same file may stay open and keep it in the loop.
            let _ = ops.remove(Events::empty(&ended));
        }
        feed.deliver();
        self.watch_again(feed, ops);
    }

    fn resume(&mut self, feed: &mut Feed, ops: &mut EventOps) {
        if self.always_ready {
            self.read_while_there_is_room(feed);
        } else {
            self.watch_again(feed, ops);
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

    #[test]
    fn the_end_of_a_pipe_is_an_end_and_all_before_it_arrives() {
        use super::super::feed::Input;
        use super::super::feed::testing::{Device, Loop};
        use std::io::Write;
        use std::os::fd::OwnedFd;
        use std::sync::Mutex;

        let (reader, mut writer) = std::io::pipe().unwrap();
        // As a process's standard input, which stays open.
        let _stdin = reader.try_clone().unwrap();
        let end = EventFd::new(0).unwrap();
        let source = StdioSource::new(
            File::from(OwnedFd::from(reader)),
            false,
            Arc::new(hv_devices::chardev::Nowhere),
            end,
        );
        let input = Arc::new(Mutex::new(Input::new("test", source).unwrap()));
        let device = Device::with_room(5);
        input.lock().unwrap().attach(device.clone()).unwrap();
        let mut events = Loop::new(&input);
        let long = vec![b'x'; 20_000];
        writer.write_all(&long).unwrap();
        drop(writer);
        events.wait_for(&device, b"xxxxx");
        events.settle();
        device.give_room(usize::MAX / 2);
        events.wait_for(&device, &long[5..]);
        events.settle();
        Loop::new(&input).settle();
    }
}
