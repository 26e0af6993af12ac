//! One serial port for all guests.
//!
//! The output of a single guest is printed unchanged. With several guests, each line begins with the name of its guest, and control
//! sequences that could falsify that are left out ([`hv_bare::console`]). Output of the guest that has the keyboard appears
//! immediately, that of the others by complete lines. What is typed is read here and understood by the [`monitor`](super::monitor).
//!
//! The port is slow, and a hart that prints waits for it with interrupts disabled. So the lock is held for a line at most, and
//! harts get it in the order in which they ask for it.

mod port;

use core::fmt::{self, Write};

use hv_bare::console::{Output, Screen};
use hv_bare::host::Device;
use spin::{Mutex, Once};

use port::Port;

use super::firmware;

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

/// Prints a line of the hypervisor's own, after which the output of this guest appears immediately.
pub fn set_focus(guest: usize, text: fmt::Arguments<'_>) {
    if let Some(console) = CONSOLE.get() {
        let mut console = console.lock();
        console.message(text);
        let Console { port, output } = &mut *console;
        if let (Some(output), Some(port)) = (output, port) {
            output.set_focus(guest, port);
        }
    }
}

/// The next character that was typed.
pub fn read() -> Option<u8> {
    CONSOLE.get()?.lock().port.as_ref()?.read()
}

/// Prints what guests have left unfinished.
pub fn flush() {
    if let Some(console) = CONSOLE.get()
        && let Some(mut console) = console.try_lock()
    {
        let Console { port, output } = &mut *console;
        if let (Some(output), Some(port)) = (output, port) {
            output.flush_all(port);
        }
    }
}

/// Prints a line although the console may be in use, or not there yet.
pub fn emergency(text: fmt::Arguments<'_>) {
    let _ = writeln!(Firmware, "{OWN_NAME}{text}");
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
