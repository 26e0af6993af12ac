//! Progress of long steps on standard error: a line when a step has ended, and, on a terminal, one status line of the
//! steps that run now. Steps may run in several threads.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;

/// The steps that run now. One for the process, because there is one standard error.
static ACTIVE: Mutex<Vec<Active>> = Mutex::new(Vec::new());

struct Active {
    id: u64,
    name: String,
    detail: String,
}

/// A running step. Dropped without [`Step::done`], it leaves no line.
pub(crate) struct Step {
    id: u64,
    name: String,
    started: Instant,
    announced: Cell<bool>,
}

/// Seconds after which a step is worth a line of its own where there is no status line.
const ANNOUNCED_AFTER: u64 = 2;

/// Begins the step `name`, such as "QEMU", which is doing `detail`, such as "downloading 34 MB".
pub(crate) fn step(name: &str, detail: impl Display) -> Step {
    let mut active = active();
    let id = active
        .iter()
        .map(|step| step.id + 1)
        .max()
        .unwrap_or_default();
    active.push(Active {
        id,
        name: name.to_owned(),
        detail: detail.to_string(),
    });
    redraw(&active);
    Step {
        id,
        name: name.to_owned(),
        started: Instant::now(),
        announced: Cell::new(false),
    }
}

/// Prints one line that stays.
pub(crate) fn note(text: impl Display) {
    let active = active();
    permanent(&active, text);
}

/// The same, but that a line which was printed already is not printed again.
pub(crate) fn note_once(text: String) {
    static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut printed = PRINTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !printed.contains(&text) {
        note(&text);
        printed.insert(text);
    }
}

impl Step {
    /// Replaces what the status line says of this step. Where there is none, a step that takes longer says so once.
    pub(crate) fn update(&self, detail: impl Display) {
        let elapsed = self.started.elapsed().as_secs();
        if !stderr().is_terminal() {
            if elapsed >= ANNOUNCED_AFTER && !self.announced.replace(true) {
                note(format_args!("{}: {detail} ...", self.name));
            }
            return;
        }
        let mut active = active();
        if let Some(step) = active.iter_mut().find(|step| step.id == self.id) {
            step.detail = format!("{detail} ({elapsed} s)");
        }
        redraw(&active);
    }

    /// Ends the step with a line that stays: "QEMU: `outcome`, 12 s".
    pub(crate) fn done(self, outcome: impl Display) {
        let elapsed = Seconds(self.started.elapsed());
        let active = active();
        permanent(&active, format_args!("{}: {outcome}, {elapsed}", self.name));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let mut active = active();
        active.retain(|step| step.id != self.id);
        redraw(&active);
    }
}

fn active() -> MutexGuard<'static, Vec<Active>> {
    // A list of strings is sound whatever a panicking thread left of it.
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line above the status line. A failing standard error has nowhere to be reported.
fn permanent(active: &[Active], text: impl Display) {
    let clear = if stderr().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
    };
    let _ = writeln!(stderr(), "{clear}lab: {text}");
    redraw(active);
}

fn redraw(active: &[Active]) {
    let mut stderr = stderr();
    if !stderr.is_terminal() {
        return;
    }
    let steps: Vec<_> = active
        .iter()
        .map(|step| format!("{}: {}", step.name, step.detail))
        .collect();
    let mut line = if steps.is_empty() {
        String::new()
    } else {
        format!("lab: {}", steps.join(" | "))
    };
    line = line.chars().take(columns().saturating_sub(1)).collect();
    let _ = write!(stderr, "\r\x1b[K{line}");
    let _ = stderr.flush();
}

nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

/// The width of the terminal on standard error; 80 where it does not say.
fn columns() -> usize {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `struct winsize` through the pointer, which points at one that lives across the
    // call.
    match unsafe { window_size(libc::STDERR_FILENO, &raw mut size) } {
        Ok(_) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}

/// A duration as people read it: `0.4 s`, `12 s`, `3 min 5 s`.
struct Seconds(Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_secs() {
            0..10 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            10..60 => write!(f, "{} s", self.0.as_secs()),
            long => write!(f, "{} min {} s", long / 60, long % 60),
        }
    }
}

/// A size in bytes as people read it: `942 kB`, `34 MB`.
pub(crate) struct Size(pub(crate) u64);

impl Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0..1_000_000 => write!(f, "{} kB", self.0.div_ceil(1000)),
            bytes => write!(f, "{} MB", bytes.div_ceil(1_000_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_well() {
        assert_eq!(Size(941_532).to_string(), "942 kB");
        assert_eq!(Size(33_952_800).to_string(), "34 MB");
        assert_eq!(Seconds(Duration::from_millis(420)).to_string(), "0.4 s");
        assert_eq!(Seconds(Duration::from_secs(59)).to_string(), "59 s");
        assert_eq!(Seconds(Duration::from_secs(185)).to_string(), "3 min 5 s");
    }
}
