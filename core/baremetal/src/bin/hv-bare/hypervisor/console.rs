//! One serial port for all guests.
//!
//! What a single guest prints goes out as it is. With several, each line begins with the name of its guest: the lines of the
//! guest that has the keyboard come out as they are made, those of the others when they are whole. What is typed goes to the
//! guest that has the keyboard, but for Ctrl-a and the key after it.

mod port;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use spin::{Mutex, Once};

use super::ending;
use super::firmware;
use super::guest::{self, Guest, mail};
use hv_bare::host::Device;
use hv_bare::lifecycle::Phase;
pub use port::Port;

/// Ctrl-a.
const ESCAPE: u8 = 1;

/// What Ctrl-a and any other key tells.
const HELP: &str = "Ctrl-a 1 to 4: keyboard to that guest; e: end it; r: restart it; s: statistics; x: switch off; \
                    Ctrl-a: Ctrl-a itself";

/// The most of an unfinished line that is kept back, bytes.
const LINE: usize = 256;

/// What is printed at the beginning of the hypervisor's own lines.
const OWN_NAME: &str = "hv-bare: ";

static CONSOLE: Once<Mutex<Console>> = Once::new();

struct Console {
    /// `None` while it belongs to a guest: then the hypervisor has the firmware's console.
    port: Option<Port>,
    guests: Vec<Stream>,
    /// The guest that has the keyboard.
    focus: usize,
    /// The guest whose line is unfinished on the screen.
    unfinished: Option<usize>,
    /// Ctrl-a was typed, and its key was not.
    escaped: bool,
}

/// What a guest prints.
struct Stream {
    /// What its lines begin with; empty with a single guest.
    prefix: String,
    /// The line that it has not finished.
    line: Vec<u8>,
}

/// What a key asks for.
enum Request {
    Input(usize, u8),
    Statistics,
    Off,
}

/// Begins to use the serial port, for guests of these names. Without a port of the hypervisor's own, what it has to say goes to
/// the firmware's console.
pub fn start(port: Option<&Device>, names: &[&str]) {
    let prefix = |name: &&str| match names {
        [_] => String::new(),
        _ => alloc::format!("[{name}] "),
    };
    let guests = names.iter().map(|name| Stream {
        prefix: prefix(name),
        line: Vec::with_capacity(LINE),
    });
    CONSOLE.call_once(|| {
        Mutex::new(Console {
            // SAFETY: the host's device tree says that a 16550 is there, and no guest has it.
            port: port.map(|device| unsafe { Port::new(device.registers.start) }),
            guests: guests.collect(),
            focus: 0,
            unfinished: None,
            escaped: false,
        })
    });
}

/// Prints what a guest has written.
pub fn print(guest: usize, bytes: &[u8]) {
    if let Some(console) = CONSOLE.get() {
        console.lock().print(guest, bytes);
    }
}

/// Prints a line of the hypervisor's own.
pub fn message(text: fmt::Arguments<'_>) {
    match CONSOLE.get() {
        Some(console) => console.lock().message(text),
        None => emergency(text),
    }
}

/// A guest has ended. If it had the keyboard, the next one that has not gets it.
pub fn ended(guest: usize) {
    let lives = |guest: &&Guest| !matches!(guest.lifecycle.lock().phase(), Phase::Ended(_));
    let next = guest::all().iter().find(lives).map(|guest| guest.index);
    if let Some(console) = CONSOLE.get()
        && let Some(next) = next
    {
        let mut console = console.lock();
        if console.focus == guest {
            console.switch(next);
        }
    }
}

/// Prints what guests have left unfinished.
pub fn flush() {
    if let Some(console) = CONSOLE.get()
        && let Some(mut console) = console.try_lock()
    {
        for guest in 0..console.guests.len() {
            console.flush(guest);
        }
        console.finish_line();
    }
}

/// Prints a line although the console may be in use, or not there yet.
pub fn emergency(text: fmt::Arguments<'_>) {
    let _ = writeln!(Firmware, "{OWN_NAME}{text}");
}

/// The serial port has interrupted. `running` is the guest's hart that is running here, if one is.
pub fn serve(running: Option<(&Guest, u32)>) {
    let Some(console) = CONSOLE.get() else {
        return;
    };
    loop {
        // Not locked while a guest gets its input: a guest that prints has locks of its own, and wants this one after them.
        let request = console.lock().next_request();
        match request {
            None => return,
            Some(Request::Input(guest, byte)) => {
                if let Some(guest) = guest::all().get(guest) {
                    let hart = running.filter(|(other, _)| core::ptr::eq(*other, guest));
                    guest.input(&[byte], hart.map(|(_, id)| id));
                }
            }
            Some(Request::Statistics) => {
                for guest in guest::all() {
                    ending::print_statistics(guest);
                }
            }
            Some(Request::Off) => {
                message(format_args!("switched off"));
                ending::switch_off(0);
            }
        }
    }
}

impl Console {
    fn print(&mut self, guest: usize, bytes: &[u8]) {
        if self.guests.len() == 1 {
            if let Some(port) = &self.port {
                port.write(bytes);
            }
            return;
        }
        for byte in bytes {
            let Some(stream) = self.guests.get_mut(guest) else {
                return;
            };
            stream.line.push(*byte);
            if *byte == b'\n' || stream.line.len() == LINE {
                self.flush(guest);
            }
        }
        if guest == self.focus {
            self.flush(guest);
        }
    }

    /// Prints what there is of a guest's line.
    fn flush(&mut self, guest: usize) {
        let Some(stream) = self.guests.get(guest) else {
            return;
        };
        if stream.line.is_empty() {
            return;
        }
        if self.unfinished != Some(guest) {
            self.finish_line();
        }
        let Some(stream) = self.guests.get_mut(guest) else {
            return;
        };
        if let Some(port) = &self.port {
            if self.unfinished != Some(guest) {
                port.write(stream.prefix.as_bytes());
            }
            port.write(&stream.line);
        }
        self.unfinished = (stream.line.last() != Some(&b'\n')).then_some(guest);
        stream.line.clear();
    }

    /// Ends a line on the screen that a guest has not.
    fn finish_line(&mut self) {
        if self.unfinished.take().is_some()
            && let Some(port) = &self.port
        {
            port.write(b"\r\n");
        }
    }

    fn message(&mut self, text: fmt::Arguments<'_>) {
        self.finish_line();
        let _ = match &self.port {
            Some(port) => writeln!(Lines(port), "{OWN_NAME}{text}"),
            None => writeln!(Firmware, "{OWN_NAME}{text}"),
        };
    }

    /// What the next keys ask for, `None` when there are no more.
    fn next_request(&mut self) -> Option<Request> {
        loop {
            let byte = self.port.as_ref()?.read()?;
            if !core::mem::take(&mut self.escaped) {
                if byte == ESCAPE {
                    self.escaped = true;
                    continue;
                }
                return Some(Request::Input(self.focus, byte));
            }
            match byte {
                ESCAPE => return Some(Request::Input(self.focus, byte)),
                b'x' => return Some(Request::Off),
                b's' => return Some(Request::Statistics),
                b'1'..=b'4' => self.switch(usize::from(byte - b'1')),
                b'e' => self.post_to_focus(mail::END),
                b'r' => self.post_to_focus(mail::RESTART),
                _ => self.message(format_args!("{HELP}")),
            }
        }
    }

    /// Tells the guest that has the keyboard something.
    fn post_to_focus(&self, mail: u32) {
        let guest = guest::all().get(self.focus);
        if let Some(hart) = guest.and_then(|guest| guest.harts.first()) {
            hart.post(mail);
        }
    }

    /// Gives the keyboard to a guest.
    fn switch(&mut self, guest: usize) {
        let Some(chosen) = guest::all().get(guest) else {
            return;
        };
        self.focus = guest;
        self.message(format_args!("the keyboard is guest {}'s", chosen.name));
        self.flush(guest);
    }
}

/// The firmware's console.
struct Firmware;

impl Write for Firmware {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        firmware::write(text.as_bytes());
        Ok(())
    }
}

/// Text on a terminal that is in raw mode.
struct Lines<'a>(&'a Port);

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    self.0.write(line.as_bytes());
                    self.0.write(b"\r\n");
                }
                None => self.0.write(part.as_bytes()),
            }
        }
        Ok(())
    }
}
