//! The threads of devices (`devices/src/thread.rs`), as far as the models need them: one for each job.

use std::io;

use loom::thread::JoinHandle;

/// The role of a thread.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Serves a virtio device.
    Block,
    /// Writes what a guest prints.
    ConsoleOutput,
}

/// Starts a thread.
///
/// # Errors
/// None here.
pub fn spawn<T: Send + 'static>(
    _: Role,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Ok(loom::thread::spawn(body))
}

/// A thread that does one job after the other.
#[derive(Debug)]
pub struct WorkerThread;

impl WorkerThread {
    /// A thread with nothing to do yet.
    ///
    /// # Errors
    /// None here.
    pub fn spawn(_: Role) -> io::Result<Self> {
        Ok(Self)
    }

    /// Does this job.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        Job(loom::thread::spawn(job))
    }
}

/// A job that was given to a [`WorkerThread`].
#[derive(Debug)]
pub struct Job<T>(JoinHandle<T>);

impl<T> Job<T> {
    /// Waits for its end and returns its result: `None` if the thread has panicked.
    pub fn wait(self) -> Option<T> {
        self.0.join().ok()
    }
}
