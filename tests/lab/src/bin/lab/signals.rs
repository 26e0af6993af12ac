//! The launcher's handling of signals.
//!
//! The signals are blocked in every thread, and one thread takes them. Before hvrun runs, one that is to end the launcher
//! does so; QEMU and whatever the set-up started die with it. While hvrun runs, they are passed on to it.

use std::io;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hv_lab::host::Process;
use nix::sys::signal::{SigSet, Signal};

use super::terminal;

/// How long hvrun has to end when it was told to.
const GRACE: Duration = Duration::from_secs(10);

/// The signals of this process, taken.
#[derive(Debug)]
pub(super) struct Signals {
    session: Arc<Mutex<Session>>,
}

#[derive(Debug, Default)]
struct Session {
    process: Option<Arc<Process>>,
    /// hvrun was told to end.
    ending: bool,
}

impl Signals {
    /// Blocks the signals and starts the thread that takes them. To be called before any other thread is started, since
    /// threads inherit what is blocked.
    pub(super) fn take() -> io::Result<Self> {
        let set: SigSet = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGWINCH,
        ]
        .into_iter()
        .collect();
        set.thread_block()?;
        let session = Arc::<Mutex<Session>>::default();
        let shared = Arc::clone(&session);
        thread::Builder::new()
            .name("lab-signals".into())
            .spawn(move || {
                while let Ok(signal) = set.wait() {
                    handle(&shared, signal);
                }
            })?;
        Ok(Self { session })
    }

    /// From now on signals are for this process of the nested host.
    pub(super) fn forward_to(&self, process: Arc<Process>) {
        self.session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .process = Some(process);
    }
}

fn handle(session: &Mutex<Session>, signal: Signal) {
    let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
    match (&session.process, signal) {
        (None, Signal::SIGWINCH) => {}
        (None, _) => end_by(signal),
        (Some(process), Signal::SIGWINCH) => {
            if let Some((rows, columns)) = terminal::window_size() {
                // A nested host that is gone ends the session anyway; the same below.
                let _ = process.resize(rows, columns);
            }
        }
        (Some(_), _) if session.ending => end_by(signal),
        (Some(process), _) => {
            let _ = process.signal(signal as i32);
            session.ending = true;
            let watchdog = thread::Builder::new()
                .name("lab-grace".into())
                .spawn(move || {
                    thread::sleep(GRACE);
                    end_by(signal);
                });
            if watchdog.is_err() {
                end_by(signal);
            }
        }
    }
}

/// Ends this process, and with it the nested host, as the shell knows it of a process that a signal ended.
fn end_by(signal: Signal) -> ! {
    terminal::restore();
    exit(128 + signal as i32)
}
