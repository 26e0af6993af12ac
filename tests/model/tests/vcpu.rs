//! A vCPU's thread: a pause is acknowledged and lasts, a resume and an end always come through, and what wakes a suspended machine is
//! never missed.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hv_devices::interrupt::IrqLine;
use hv_model::mailbox::{Command, Mailbox};
use hv_model::search;
use hv_model::sync::EventFd;
use hv_model::wakeup::Wakeup;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

/// KVM_RUN, which a signal ends that comes while it runs. One that comes before has no effect.
#[derive(Default)]
struct Guest {
    /// In the guest, and told to leave it.
    state: Mutex<(bool, bool)>,
    signal: Condvar,
}

impl Guest {
    fn run(&self) {
        let mut state = self.state.lock().unwrap();
        *state = (true, false);
        while !state.1 {
            state = self.signal.wait(state).unwrap();
        }
        state.0 = false;
    }

    fn kick(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 = true;
        self.signal.notify_all();
    }

    fn is_inside(&self) -> bool {
        self.state.lock().unwrap().0
    }
}

/// What a vCPU's thread and the event loop share.
struct Shared {
    mailbox: Mailbox,
    guest: Guest,
    wakeup: Arc<Wakeup>,
    /// Written each time the thread has left the guest to pause.
    outside: EventFd,
}

impl Shared {
    fn new(command: Command) -> Arc<Self> {
        Arc::new(Self {
            mailbox: Mailbox::new(command),
            guest: Guest::default(),
            wakeup: Arc::default(),
            outside: EventFd::default(),
        })
    }

    /// `Hart::pause` of `vmm/src/vcpu/mod.rs`.
    fn pause(&self) -> bool {
        self.mailbox.wait(|| {
            let _ = self.outside.write(1);
        })
    }

    /// `Hart::run`.
    fn run(self: &Arc<Self>) -> JoinHandle<()> {
        let shared = self.clone();
        thread::spawn(move || {
            loop {
                if shared.mailbox.may_run() {
                    shared.guest.run();
                } else if !shared.pause() {
                    break;
                }
            }
            shared.mailbox.leave();
        })
    }

    /// `Hart::sleep`, once. Returns whether the machine has woken up.
    fn sleep(self: &Arc<Self>) -> JoinHandle<bool> {
        let shared = self.clone();
        thread::spawn(move || {
            while !shared.wakeup.wait(None) {
                if !shared.mailbox.may_run() && !shared.pause() {
                    return false;
                }
            }
            true
        })
    }

    /// `VcpuThread::call_out`, until the thread is outside: the event loop repeats it.
    fn call_out(&self) {
        while !self.mailbox.is_outside() {
            self.guest.kick();
            thread::yield_now();
        }
    }

    /// `RunningBoard::pause`, or the end.
    fn tell(&self, command: Command) {
        self.mailbox.tell(command);
        self.wakeup.disturb();
    }
}

#[test]
fn a_pause_lasts_until_the_thread_is_told_to_run() {
    search(|| {
        let shared = Shared::new(Command::Run);
        let vcpu = shared.run();
        for _ in 0..2 {
            shared.mailbox.tell(Command::Pause);
            shared.call_out();
            assert!(!shared.guest.is_inside());
            assert!(shared.mailbox.is_outside());
            shared.mailbox.tell(Command::Run);
        }
        shared.mailbox.tell(Command::Finish);
        shared.call_out();
        vcpu.join().unwrap();
        assert!(!shared.guest.is_inside());
    });
}

/// The event loop sleeps until the event is written, for a thread that was outside already when it was told to run and to pause again.
#[test]
fn each_pause_is_acknowledged() {
    search(|| {
        let shared = Shared::new(Command::Pause);
        let vcpu = shared.run();
        while !shared.mailbox.is_outside() {
            let _ = shared.outside.read();
        }
        shared.mailbox.tell(Command::Run);
        shared.mailbox.tell(Command::Pause);
        while !shared.mailbox.is_outside() {
            shared.guest.kick();
            thread::yield_now();
        }
        // Written before anybody can see that the thread is outside, or right then.
        let _ = shared.outside.read();
        shared.mailbox.tell(Command::Finish);
        vcpu.join().unwrap();
    });
}

#[test]
fn the_end_is_for_good_and_comes_at_any_time() {
    for command in [Command::Run, Command::Pause] {
        search(move || {
            let shared = Shared::new(command);
            let vcpu = shared.run();
            let other = thread::spawn({
                let shared = shared.clone();
                move || shared.mailbox.tell(Command::Pause)
            });
            shared.mailbox.tell(Command::Finish);
            shared.call_out();
            other.join().unwrap();
            vcpu.join().unwrap();
            assert!(!shared.mailbox.may_run());
        });
    }
}

struct Nowhere;

impl IrqLine for Nowhere {
    fn set_level(&self, _: bool) {}
}

/// A device's interrupt comes at any time, and the machine sleeps no longer.
#[test]
fn an_interrupt_wakes_the_machine() {
    search(|| {
        let shared = Shared::new(Command::Run);
        let lines = [1, 2].map(|source| shared.wakeup.wire(source, Arc::new(Nowhere)));
        let devices = lines.map(|line| {
            thread::spawn(move || {
                line.set_level(true);
            })
        });
        let vcpu = shared.sleep();
        assert!(vcpu.join().unwrap());
        for device in devices {
            device.join().unwrap();
        }
    });
}

/// A line that falls again need not wake the machine, and keeps no other from it.
#[test]
fn a_line_that_falls_hides_no_other() {
    search(|| {
        let shared = Shared::new(Command::Run);
        let first = shared.wakeup.wire(1, Arc::new(Nowhere));
        let second = shared.wakeup.wire(2, Arc::new(Nowhere));
        let device = thread::spawn(move || {
            first.set_level(true);
            first.set_level(false);
        });
        let vcpu = shared.sleep();
        second.set_level(true);
        assert!(vcpu.join().unwrap());
        device.join().unwrap();
    });
}

/// A suspended machine is paused, goes on sleeping, and is woken; the pause may also come before the sleep or after the wake-up.
#[test]
fn a_suspended_machine_can_be_paused() {
    search(|| {
        let shared = Shared::new(Command::Run);
        let line = shared.wakeup.wire(1, Arc::new(Nowhere));
        let vcpu = shared.sleep();
        shared.tell(Command::Pause);
        let _ = shared.outside.read();
        assert!(shared.mailbox.is_outside());
        shared.mailbox.tell(Command::Run);
        line.set_level(true);
        assert!(vcpu.join().unwrap());
    });
}

#[test]
fn a_suspended_machine_can_be_ended() {
    search(|| {
        let shared = Shared::new(Command::Run);
        let vcpu = shared.sleep();
        shared.tell(Command::Finish);
        assert!(!vcpu.join().unwrap());
    });
}

/// Who disturbs a sleeper before there is something else to look at may do so in vain.
#[test]
#[should_panic(expected = "deadlock")]
fn disturbing_before_telling_would_be_missed() {
    search(|| {
        let shared = Shared::new(Command::Run);
        let vcpu = shared.sleep();
        shared.wakeup.disturb();
        shared.mailbox.tell(Command::Finish);
        vcpu.join().unwrap();
    });
}
