//! The monitor: what the user types at the one serial port. Input goes to the guest that has the keyboard, except Ctrl-a and the
//! key after it, which is a request to the hypervisor.

use hv_bare::lifecycle::Phase;
use spin::Mutex;

use super::guest::{Guest, mail};
use super::statistics::Sums;
use super::{console, guests, power};

/// Ctrl-a.
const ESCAPE: u8 = 1;

/// What Ctrl-a and any other key tells.
const HELP: &str = "Ctrl-a 1 to 4: keyboard to that guest; e: end it; r: restart it; s: statistics; x: switch off; \
                    Ctrl-a: Ctrl-a itself";

static MONITOR: Mutex<Monitor> = Mutex::new(Monitor {
    focus: 0,
    escaped: false,
});

struct Monitor {
    /// The guest that has the keyboard.
    focus: usize,
    /// Ctrl-a was typed, and its key was not.
    escaped: bool,
}

/// What a key asks for.
enum Request {
    /// A byte for this guest.
    Input(usize, u8),
    /// The keyboard goes to this guest.
    Focus(usize),
    /// Bits of [`mail`] for the guest that has the keyboard.
    Post(u32),
    Statistics,
    Off,
    Help,
}

/// The serial port has interrupted. `running` is the guest's hart that is running here, if one is.
pub fn serve(running: Option<(&Guest, u32)>) {
    loop {
        // Not locked while a guest gets its input: a guest that prints has locks of its own, and wants the console's after
        // them.
        let request = {
            let mut monitor = MONITOR.lock();
            match monitor.next_request() {
                None => return,
                Some(Request::Focus(guest)) => {
                    monitor.switch(guest);
                    continue;
                }
                Some(Request::Post(mail)) => {
                    monitor.post_to_focus(mail);
                    continue;
                }
                Some(request) => request,
            }
        };
        match request {
            Request::Input(guest, byte) => {
                if let Some(guest) = guests::all().get(guest) {
                    let hart = running.filter(|(other, _)| core::ptr::eq(*other, guest));
                    guest.input(&[byte], hart.map(|(_, id)| id));
                }
            }
            Request::Statistics => guests::all().iter().for_each(print_statistics),
            Request::Off => {
                console::message(format_args!("switched off"));
                power::switch_off(0);
            }
            Request::Help => console::message(format_args!("{HELP}")),
            Request::Focus(_) | Request::Post(_) => {}
        }
    }
}

/// Tells how often a guest was left, and why.
pub fn print_statistics(guest: &Guest) {
    let counts = guest.harts.iter().map(|link| &link.counts);
    console::message(format_args!("guest {}: {}", guest.name, Sums(&counts)));
}

/// A guest has ended. If it had the keyboard, the next one that has not gets it.
pub fn ended(guest: usize) {
    let lives = |guest: &&Guest| !matches!(guest.lifecycle.lock().phase(), Phase::Ended(_));
    let next = guests::all().iter().find(lives).map(|guest| guest.index);
    if let Some(next) = next {
        let mut monitor = MONITOR.lock();
        if monitor.focus == guest {
            monitor.switch(next);
        }
    }
}

impl Monitor {
    /// What the next keys ask for, `None` when there are no more.
    fn next_request(&mut self) -> Option<Request> {
        loop {
            let byte = console::read()?;
            if !core::mem::take(&mut self.escaped) {
                if byte == ESCAPE {
                    self.escaped = true;
                    continue;
                }
                return Some(Request::Input(self.focus, byte));
            }
            return Some(match byte {
                ESCAPE => Request::Input(self.focus, byte),
                b'x' => Request::Off,
                b's' => Request::Statistics,
                b'1'..=b'4' => Request::Focus(usize::from(byte - b'1')),
                b'e' => Request::Post(mail::END),
                b'r' => Request::Post(mail::RESTART),
                _ => Request::Help,
            });
        }
    }

    /// Tells the guest that has the keyboard something.
    fn post_to_focus(&self, mail: u32) {
        let guest = guests::all().get(self.focus);
        if let Some(hart) = guest.and_then(|guest| guest.harts.first()) {
            hart.post(mail);
        }
    }

    /// Gives the keyboard to a guest.
    fn switch(&mut self, guest: usize) {
        if let Some(chosen) = guests::all().get(guest) {
            self.focus = guest;
            console::set_focus(
                guest,
                format_args!("the keyboard is guest {}'s", chosen.name),
            );
        }
    }
}
