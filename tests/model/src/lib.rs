//! Searches every interleaving of what hvrun's threads hand over to each other.
//!
//! The files under test are those of the program. They take their locks, atomics and eventfds from their crate's module
//! `sync`, and here that is [`sync`]: loom's types, which run a scenario once for each order in which its threads can take
//! their steps, and for each value that a load can have under the memory model of C11. What surrounds the files (the
//! guest's ring, KVM_RUN, the event loop) is modelled beside them. A thread that sleeps for ever is a deadlock, which fails the
//! search.
//!
//! | file | hand-over | scenarios |
//! |---|---|---|
//! | `devices/src/virtio/worker.rs` | notifications to the worker and back, pause, resume | `tests/worker.rs` |
//! | `vmm/src/vcpu/mailbox.rs` | run, pause and end of a vCPU's thread | `tests/vcpu.rs` |
//! | `vmm/src/vcpu/wakeup.rs` | sleep and wake-up of a suspended machine | `tests/vcpu.rs` |
//! | `devices/src/chardev/output.rs`, `merged.rs` | console output to the thread that writes it | `tests/output.rs` |
//! | `devices/src/virtio/console/port.rs` | console input to the worker or SBI, and its room | `tests/port.rs` |
//! | `cli/src/logger/queue.rs` | messages to the thread that writes them | `tests/messages.rs` |
//!
//! Not in it: time. A wait with a limit is one without, so nothing that is found correct depends on a limit.

// The files that are included have tests for threads of the system.
#![cfg(not(test))]

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

pub use hv_devices::memory;

pub mod chardev;
pub mod state;
pub mod sync;
pub mod thread;
pub mod virtio;

#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../../devices/src/virtio/console/port.rs"]
mod port;

pub mod console;

#[allow(missing_docs)]
#[rustfmt::skip]
#[path = "../../../vmm/src/vcpu/mailbox.rs"]
pub mod mailbox;

#[rustfmt::skip]
#[path = "../../../vmm/src/vcpu/wakeup.rs"]
pub mod wakeup;

#[allow(clippy::new_without_default)]
#[rustfmt::skip]
#[path = "../../../cli/src/logger/queue.rs"]
pub mod messages;

/// How often at most a thread is interrupted in the middle of its work in one run of a scenario, unless the environment
/// (`LOOM_MAX_PREEMPTIONS`) says otherwise. Nearly all faults of this kind show with two.
const PREEMPTIONS: usize = 2;

/// Runs `scenario` in every way that it can go.
///
/// # Panics
/// One of them fails, or does not end.
pub fn search(scenario: impl Fn() + Send + Sync + 'static) {
    search_within(PREEMPTIONS, scenario);
}

/// The same with another limit of preemptions, for scenarios that are small or large.
///
/// # Panics
/// As [`search`].
pub fn search_within(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(scenario);
}

/// What the threads of a scenario share. A scenario that fails unwinds, and loom's types cannot be used any more then: so it is left
/// as it is.
#[derive(Debug)]
pub struct Shared<T>(ManuallyDrop<Arc<T>>);

impl<T> Shared<T> {
    /// Shares it.
    pub fn new(value: T) -> Self {
        Self(ManuallyDrop::new(Arc::new(value)))
    }

    /// The same, as the code under test wants it.
    #[must_use]
    pub fn arc(&self) -> Arc<T> {
        Arc::clone(&self.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: it is not used any more.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

fn lock<T: ?Sized>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
