//! A device's thread, while it serves the device's queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::thread::{Job, WorkerThread};

/// The queues are being served, until this is stopped. What comes of it is a `T`.
pub(super) struct Serving<T> {
    stop: Arc<AtomicBool>,
    job: Job<T>,
}

impl<T: Send + 'static> Serving<T> {
    /// Has `thread` serve by `serve`, which ends soon after its argument is set and it is woken.
    pub fn start(
        thread: &WorkerThread,
        serve: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let job = thread.run(move || serve(&stopped));
        Self { stop, job }
    }

    /// Ends it and waits for its end; `wake` has the thread look. `None` if the thread has panicked.
    pub fn stop(self, wake: impl FnOnce()) -> Option<T> {
        self.stop.store(true, Ordering::Release);
        wake();
        self.job.wait()
    }
}
