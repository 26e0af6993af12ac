//! One serial port for all guests.
//!
//! The output of a single guest is printed unchanged. With several guests, each line begins with the name of its guest, and control
//! sequences that could falsify that are left out ([`hv_bare::console`]). Output of the guest that has the keyboard appears
//! immediately, that of the others by complete lines. Input goes to the guest that has the keyboard, except Ctrl-a and the key after it.
//!
//! The port is slow, and a hart that prints waits for it with interrupts disabled. So the lock is held for a line at most, and
//! harts get it in the order in which they ask for it.

mod port;

use core::fmt::{self, Write};

use spin::{Mutex, Once};

use super::ending;
use super::firmware;
use super::guest::{self, Guest, mail};
use hv_bare::console::{Output, Screen};
use hv_bare::host::Device;
use hv_bare::lifecycle::Phase;
pub use port::Port;

/// Ctrl-a.
const ESCAPE: u8 = 1;

/// What Ctrl-a and any other key tells.
const HELP: &str = "Ctrl-a 1 to 4: keyboard to that guest; e: end it; r: restart it; s: statistics; x: switch off; \
                    Ctrl-a: Ctrl-a itself";

/// The most that a single guest prints before another hart has a chance, bytes.
const PIECE: usize = 256;

/// What is printed at the beginning of the hypervisor's own lines.
const OWN_NAME: &str = "hv-bare: ";

static CONSOLE: Once<Mutex<Console>> = Once::new();

struct Console {
    /// `None` while it belongs to a guest: then the hypervisor has the firmware's console.
    port: Option<Port>,
    /// What several guests print; `None` if there is one.
    output: Option<Output>,
    /// The guest that has the keyboard.
    focus: usize,
    /// Ctrl-a was typed, and its key was not.
    escaped: bool,
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
    let several = names.len() > 1;
    CONSOLE.call_once(|| {
        Mutex::new(Console {
            // SAFETY: the host's device tree says that a 16550 is there, and no guest has it.
            port: port.map(|device| unsafe { Port::new(device.registers.start) }),
            output: several.then(|| Output::new(names)),
            focus: 0,
            escaped: false,
        })
    });
}

/// Prints what a guest has written.
pub fn print(guest: usize, bytes: &[u8]) {
    let Some(console) = CONSOLE.get() else {
        return;
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = console.lock().print(guest, rest);
        rest = rest.get(taken..).unwrap_or_default();
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
        let Console { port, output, .. } = &mut *console;
        if let (Some(output), Some(port)) = (output, port) {
            output.flush_all(port);
        }
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
    /// Prints some of what a guest has written, and answers how much.
    fn print(&mut self, guest: usize, bytes: &[u8]) -> usize {
        let Some(port) = &mut self.port else {
            return bytes.len();
        };
        match &mut self.output {
            Some(output) => output.print(guest, bytes, port),
            None => {
                let piece = bytes.get(..PIECE).unwrap_or(bytes);
                port.write(piece);
                piece.len()
            }
        }
    }

    /// Ends a line on the screen that a guest has not.
    fn finish_line(&mut self) {
        if let (Some(output), Some(port)) = (&mut self.output, &mut self.port) {
            output.finish_line(port);
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
        if let (Some(output), Some(port)) = (&mut self.output, &mut self.port) {
            output.set_focus(guest, port);
        }
    }
}

impl Screen for Port {
    fn write(&mut self, bytes: &[u8]) {
        Self::write(self, bytes);
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
