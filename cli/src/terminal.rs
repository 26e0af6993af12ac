//! The user's terminal: raw while a guest uses it, and restored however hvrun ends.

use std::io::{IsTerminal, stdin};
use std::sync::Mutex;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr,
    tcsetattr,
};

/// The terminal's settings from before, while it is raw. A global, because a panic must find it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal is raw for as long as this lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes stdin's terminal raw: each key reaches the guest at once and unchanged, Ctrl-c included, and what the guest
    /// prints is not changed either. `None` where stdin is no terminal.
    pub fn enter() -> Option<RawMode> {
        if !stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(stdin()).ok()?;
        let raw = raw(&before);
        // First remembered, then changed: there is no moment at which a panic could miss it.
        if let Ok(mut remembered) = BEFORE.lock() {
            remembered.get_or_insert(before);
        }
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(RawMode(()))
    }
}

/// What a terminal with these settings is set to while a guest uses it.
fn raw(before: &Termios) -> Termios {
    let mut raw = before.clone();
    raw.input_flags.remove(
        InputFlags::BRKINT
            | InputFlags::ICRNL
            | InputFlags::INLCR
            | InputFlags::IGNCR
            | InputFlags::INPCK
            | InputFlags::ISTRIP
            | InputFlags::IXON,
    );
    raw.output_flags.remove(OutputFlags::OPOST);
    raw.local_flags.remove(
        LocalFlags::ECHO
            | LocalFlags::ECHONL
            | LocalFlags::ICANON
            | LocalFlags::IEXTEN
            | LocalFlags::ISIG,
    );
    raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    raw
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal raw once more, if it was. A shell that gets it while this process is stopped sets it as it likes. From a
/// signal handler.
pub fn make_raw_again() {
    if let Ok(before) = BEFORE.try_lock()
        && let Some(before) = &*before
    {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &raw(before));
    }
}

/// Puts the terminal back as it was, if it is raw. From any thread, also while one panics, and from a signal handler.
pub fn restore() {
    // try_lock: the panicking thread could be the one that holds the lock.
    if let Ok(mut before) = BEFORE.try_lock()
        && let Some(before) = before.take()
    {
        // A process in the background would be stopped by SIGTTOU instead (tcsetattr(3)), and not end.
        let stop = SigSet::from_iter([Signal::SIGTTOU]);
        let mask = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        // At once, because a terminal that takes nothing more would be waited for without end.
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
        let _ = mask.and_then(|mask| mask.thread_set_mask());
    }
}

/// What ends a line of hvrun's own: a raw terminal does not add the carriage return.
pub fn line_end() -> &'static str {
    match BEFORE.try_lock() {
        Ok(before) if before.is_some() => "\r\n",
        _ => "\n",
    }
}

/// From now on a panic puts the terminal back before it reports itself.
pub fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}
