//! The user's terminal while a process of the nested host has it.

use std::io::stdin;
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The settings to go back to, while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal is raw until this is dropped, [`restore`] is called, or the process panics.
#[derive(Debug)]
pub(super) struct Raw(());

impl Raw {
    /// Makes the terminal on standard input raw: every key goes to the nested host's terminal, which does with it what
    /// this one would have done. Output is not touched either, for the same reason.
    pub(super) fn enter() -> nix::Result<Self> {
        restore_on_panic();
        let settings = tcgetattr(stdin())?;
        let mut raw = settings.clone();
        cfmakeraw(&mut raw);
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        let entered = Self(());
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(entered)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back to what it was, if it is raw.
pub(super) fn restore() {
    if let Some(settings) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &settings);
    }
}

/// A panic is then shown on a terminal that shows it well, also where a panic ends the process at once.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            show(panic);
        }));
    });
}

nix::ioctl_read_bad!(tiocgwinsz, libc::TIOCGWINSZ, libc::winsize);

/// Lines, and characters in a line, of the terminal on standard input, if it is one that says.
pub(super) fn window_size() -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes one winsize to where the pointer points.
    unsafe { tiocgwinsz(libc::STDIN_FILENO, &raw mut size) }.ok()?;
    Some((size.ws_row, size.ws_col))
}
