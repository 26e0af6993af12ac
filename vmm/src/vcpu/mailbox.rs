//! What a vCPU's thread is to do: run the guest, stay outside of it, or end.

use std::sync::PoisonError;

use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};

/// What a vCPU's thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the guest.
    Run,
    /// Stay outside of the guest, until the next command.
    Pause,
    /// Return.
    Finish,
}

/// The mailbox of one vCPU's thread. Whoever writes to it also has the thread leave the guest, by a signal that is repeated
/// until [`is_outside`](Self::is_outside): a signal that comes just before KVM_RUN has no effect.
#[derive(Debug)]
pub struct Mailbox {
    /// The command is [`Command::Run`]. The one thing that the thread looks at before each entry to the guest.
    runs: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    command: Command,
    /// The thread is outside of the guest, and will not enter it before it is told to run.
    outside: bool,
}

impl Mailbox {
    /// A mailbox for a thread that begins with this command.
    pub fn new(command: Command) -> Mailbox {
        Mailbox {
            runs: AtomicBool::new(command == Command::Run),
            state: Mutex::new(State {
                command,
                outside: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Leaves a command. [`Command::Finish`] is for good.
    pub fn tell(&self, command: Command) {
        let mut state = self.lock();
        if state.command == Command::Finish {
            return;
        }
        state.command = command;
        if command == Command::Run {
            // From here on the thread may be in the guest, also if it has not woken yet.
            state.outside = false;
        }
        self.runs.store(command == Command::Run, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether the thread may enter the guest.
    pub fn may_run(&self) -> bool {
        self.runs.load(Ordering::Acquire)
    }

    /// For the thread, outside of the guest: waits while it is to pause, and calls `outside` for each pause. Returns
    /// whether it is to run again; else it is to return.
    pub fn wait(&self, outside: impl Fn()) -> bool {
        let mut state = self.lock();
        while state.command == Command::Pause {
            // Also for a pause that follows another one so closely that this thread has not seen it run in between.
            if !std::mem::replace(&mut state.outside, true) {
                outside();
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.command == Command::Run
    }

    /// For the thread: it has left the guest for good.
    pub fn leave(&self) {
        self.lock().outside = true;
    }

    /// Whether the thread is outside of the guest, and stays there until it is told to run.
    pub fn is_outside(&self) -> bool {
        self.lock().outside
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use hv_test_limit::{join, until};

    use super::*;

    /// A thread that is in the guest, counts, and looks into its mailbox.
    struct Vcpu {
        mailbox: Arc<Mailbox>,
        inside: Arc<AtomicBool>,
        entries: Arc<AtomicUsize>,
        thread: std::thread::JoinHandle<()>,
    }

    fn vcpu(command: Command) -> Vcpu {
        let mailbox = Arc::new(Mailbox::new(command));
        let (inside, entries) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let thread = std::thread::spawn({
            let (mailbox, inside, entries) = (mailbox.clone(), inside.clone(), entries.clone());
            move || {
                loop {
                    if mailbox.may_run() {
                        inside.store(true, Ordering::SeqCst);
                        entries.fetch_add(1, Ordering::SeqCst);
                        inside.store(false, Ordering::SeqCst);
                    } else if !mailbox.wait(|| {}) {
                        break;
                    }
                }
                mailbox.leave();
            }
        });
        Vcpu {
            mailbox,
            inside,
            entries,
            thread,
        }
    }

    #[test]
    fn a_paused_thread_is_outside_until_it_is_told_to_run() {
        let vcpu = vcpu(Command::Run);
        for _ in 0..200 {
            let before = vcpu.entries.load(Ordering::SeqCst);
            until(|| vcpu.entries.load(Ordering::SeqCst) > before);
            vcpu.mailbox.tell(Command::Pause);
            until(|| vcpu.mailbox.is_outside());
            assert!(!vcpu.inside.load(Ordering::SeqCst));
            let entries = vcpu.entries.load(Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(vcpu.entries.load(Ordering::SeqCst), entries);
            vcpu.mailbox.tell(Command::Run);
            assert!(!vcpu.mailbox.is_outside());
        }
        vcpu.mailbox.tell(Command::Finish);
        join(vcpu.thread);
        assert!(vcpu.mailbox.is_outside());
    }

    /// A thread may take longer to wake than it is to run.
    #[test]
    fn a_pause_right_behind_another_is_seen_as_well() {
        let vcpu = vcpu(Command::Pause);
        for _ in 0..1000 {
            until(|| vcpu.mailbox.is_outside());
            vcpu.mailbox.tell(Command::Run);
            vcpu.mailbox.tell(Command::Pause);
        }
        until(|| vcpu.mailbox.is_outside());
        vcpu.mailbox.tell(Command::Finish);
        join(vcpu.thread);
    }

    #[test]
    fn a_thread_may_begin_paused_and_end_so() {
        let vcpu = vcpu(Command::Pause);
        until(|| vcpu.mailbox.is_outside());
        assert_eq!(vcpu.entries.load(Ordering::SeqCst), 0);
        vcpu.mailbox.tell(Command::Finish);
        vcpu.mailbox.tell(Command::Run);
        assert!(!vcpu.mailbox.may_run(), "the end is for good");
        join(vcpu.thread);
        assert_eq!(vcpu.entries.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn who_waits_for_a_pause_is_told_once_for_each() {
        let mailbox = Mailbox::new(Command::Run);
        let told = AtomicUsize::new(0);
        let tell = || {
            told.fetch_add(1, Ordering::SeqCst);
        };
        assert!(mailbox.wait(tell));
        assert_eq!(told.load(Ordering::SeqCst), 0, "it is not to pause");
        mailbox.tell(Command::Pause);
        std::thread::scope(|scope| {
            let paused = scope.spawn(|| mailbox.wait(tell));
            until(|| told.load(Ordering::SeqCst) == 1);
            mailbox.tell(Command::Run);
            until(|| paused.is_finished());
            assert!(paused.join().unwrap());
        });
    }
}
