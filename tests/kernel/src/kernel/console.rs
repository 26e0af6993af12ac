//! Output on the serial port, polled.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::uart::Uart;

static BASE: AtomicUsize = AtomicUsize::new(0);

/// Sets the port.
pub fn init(base: usize) {
    BASE.store(base, Relaxed);
    recover();
}

/// Takes the port back from a test that did not end well.
pub fn recover() {
    if let Some(port) = port() {
        port.reset();
    }
}

fn port() -> Option<Uart> {
    match BASE.load(Relaxed) {
        0 => None,
        base => Some(Uart::new(base)),
    }
}

/// What is printed. Only the boot hart prints.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(port) = port() {
            for line in text.split_inclusive('\n') {
                match line.strip_suffix('\n') {
                    Some(line) => {
                        port.send(line.as_bytes());
                        port.send(b"\r\n");
                    }
                    None => port.send(line.as_bytes()),
                }
            }
        }
        Ok(())
    }
}

/// Prints a line.
macro_rules! println {
    ($($text:tt)*) => {{
        use core::fmt::Write as _;
        // Printing does not fail.
        let _ = writeln!($crate::kernel::console::Console, $($text)*);
    }};
}
