//! hvrun's messages: one line each, on stderr.
//!
//! | module | what it holds |
//! |---|---|
//! | `queue` | the bounded queue of lines for a reader that may not read |
//! | `repeats` | which message is shown again |
//!
//! A message is written at once until a machine is about to run. From then on ([`in_background`]) a thread writes it:
//! stderr may be a pipe that nobody reads, and no vCPU and no signal handling may block on it.

mod queue;
mod repeats;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use hv_vmm::Sandbox;
use hv_vmm::hv_devices::thread::{self, Role};

use crate::{advice, terminal};
use queue::Queue;
use repeats::Repeats;

/// How long hvrun's end waits for a reader of stderr.
const LAST_MESSAGES: Duration = Duration::from_secs(3);

/// Lines for the thread, once there is one.
static QUEUE: LazyLock<Queue> = LazyLock::new(Queue::new);

/// There is a thread.
static IN_BACKGROUND: AtomicBool = AtomicBool::new(false);

struct Stderr {
    repeats: Mutex<Option<Repeats>>,
}

static STDERR: Stderr = Stderr {
    repeats: Mutex::new(None),
};

impl Log for Stderr {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let text = match record.level() {
            Level::Error => format!("error: {}", record.args()),
            Level::Warn => match advice::on_warning(record.target()) {
                Some(advice) => format!("warning: {}; {advice}", record.args()),
                None => format!("warning: {}", record.args()),
            },
            Level::Info => record.args().to_string(),
            Level::Debug | Level::Trace => {
                let text = format!("{}: {}", record.target(), record.args());
                return self.write(&text);
            }
        };
        let site = (record.file().unwrap_or_default(), record.line());
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = repeats
            .get_or_insert_default()
            .show(text, site, Instant::now());
        drop(repeats);
        if let Some(text) = shown {
            self.write(&text);
        }
    }

    fn flush(&self) {}
}

impl Stderr {
    /// Does not wait for a reader once a machine runs.
    fn write(&self, text: &str) {
        let line = format!("hvrun: {text}");
        if IN_BACKGROUND.load(Ordering::Acquire) {
            QUEUE.push(line);
        } else {
            write(&line);
        }
    }
}

/// Messages of this level and above appear from now on.
pub fn start(level: LevelFilter) {
    // It fails only where a logger is set already, and this is the one place that sets one.
    let _ = log::set_logger(&STDERR);
    log::set_max_level(level);
}

/// From now on a thread writes, confined by `sandbox`, and who has a message does not wait.
///
/// # Errors
/// The host has no thread left, or there is no sandbox.
pub fn in_background(sandbox: Sandbox) -> Result<(), Box<dyn std::error::Error>> {
    let confinement = sandbox
        .confinement()
        .map_err(|error| advice::message(&error))?;
    // The thread has all signals blocked but the sandbox's: they are for those who wait for them.
    let mut blocked = SigSet::all();
    blocked.remove(Signal::SIGSYS);
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let confined = thread::confine(confinement);
    let thread = thread::spawn(Role::Messages, || QUEUE.drain(write));
    drop(confined);
    before.thread_set_mask()?;
    thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    IN_BACKGROUND.store(true, Ordering::Release);
    Ok(())
}

/// Says something that is no matter of levels, such as why hvrun ends.
pub fn say(text: &str) {
    let line = format!("hvrun: {text}");
    if IN_BACKGROUND.load(Ordering::Acquire) {
        QUEUE.push_always(line);
    } else {
        write(&line);
    }
}

/// Before the end of hvrun: waits until all is written, but not for long.
pub fn finish() {
    QUEUE.flush(LAST_MESSAGES);
}

/// Writes a line to stderr. The descriptor's flags stay as they are, because a terminal shares them with other processes:
/// it may be non-blocking. An error is nothing that could be told to anyone.
fn write(line: &str) {
    let line = format!("{line}{}", terminal::line_end());
    let mut rest = line.as_bytes();
    let stderr = std::io::stderr();
    while !rest.is_empty() {
        // Not by std's handle, whose lock a panic on another thread would wait for.
        match nix::unistd::write(&stderr, rest) {
            Ok(0) => return,
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => {
                let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(_) => return,
                }
            }
            Err(_) => return,
        }
    }
}
