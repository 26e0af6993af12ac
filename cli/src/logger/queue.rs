//! A bounded queue of lines that one thread writes.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, MutexGuard};

/// How many bytes of lines wait for a reader. What comes beyond is counted and not kept.
const CAPACITY: usize = 64 * 1024;

/// Lines on their way out. Who adds one never waits for who writes them.
pub struct Queue {
    state: Mutex<State>,
    /// The thread waits here for lines.
    work: Condvar,
    /// Flush waits here for the end of them.
    progress: Condvar,
}

struct State {
    lines: VecDeque<String>,
    /// In `lines`.
    bytes: usize,
    /// Lines that there was no room for, since the last that was written.
    lost: u64,
    /// A line is being written.
    writing: bool,
}

impl Queue {
    /// An empty one.
    pub fn new() -> Queue {
        Queue {
            state: Mutex::new(State {
                lines: VecDeque::new(),
                bytes: 0,
                lost: 0,
                writing: false,
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    /// Adds a line if there is room.
    pub fn push(&self, line: String) {
        let mut state = self.lock();
        if state.bytes.saturating_add(line.len()) > CAPACITY {
            state.lost = state.lost.saturating_add(1);
            // There is room for no line that is longer than that, and then the thread may be asleep.
            self.work.notify_one();
        } else {
            self.add(&mut state, line);
        }
    }

    /// Adds a line also where there is no room for it: for the few that a machine cannot have any number of.
    pub fn push_always(&self, line: String) {
        self.add(&mut self.lock(), line);
    }

    fn add(&self, state: &mut State, line: String) {
        state.bytes = state.bytes.saturating_add(line.len());
        state.lines.push_back(line);
        self.work.notify_one();
    }

    /// The thread's body: hands each line to `write`, which may take as long as it likes.
    pub fn drain(&self, mut write: impl FnMut(&str)) {
        loop {
            write(&self.take());
            self.taken_is_written();
        }
    }

    /// Waits for the next line, and takes it.
    pub fn take(&self) -> String {
        let mut state = self.lock();
        loop {
            let line = if state.lost > 0 && state.bytes <= CAPACITY / 2 {
                let lost = std::mem::take(&mut state.lost);
                format!("hvrun: warning: {lost} messages were lost, because nobody read them")
            } else if let Some(line) = state.lines.pop_front() {
                state.bytes = state.bytes.saturating_sub(line.len());
                line
            } else {
                self.progress.notify_all();
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.writing = true;
            return line;
        }
    }

    /// The line that was taken is written.
    pub fn taken_is_written(&self) {
        self.lock().writing = false;
    }

    /// Waits until everything is written, at most for `timeout`. Returns whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        let mut state = self.lock();
        while !state.lines.is_empty() || state.lost > 0 || state.writing {
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return false;
            }
            state = self
                .progress
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A queue whose thread writes a line for each `()` that is sent, and what it wrote.
    fn queue() -> (&'static Queue, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let queue: &Queue = Box::leak(Box::new(Queue::new()));
        let (allow, allowed) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        std::thread::spawn(move || {
            queue.drain(|line| {
                let _ = allowed.recv();
                let _ = written.send(line.to_owned());
            });
        });
        (queue, allow, lines)
    }

    #[test]
    fn lines_come_out_in_order() {
        let (queue, allow, lines) = queue();
        assert!(queue.flush(Duration::ZERO), "nothing to wait for");
        for n in 0..3 {
            queue.push(n.to_string());
            allow.send(()).unwrap();
        }
        assert!(queue.flush(LONG));
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["0", "1", "2"]);
    }

    /// It wakes the thread, although nothing is queued.
    #[test]
    fn a_line_that_is_too_long_is_told_of() {
        let (queue, allow, lines) = queue();
        drop(allow);
        queue.push("x".repeat(CAPACITY + 1));
        assert!(queue.flush(LONG));
        let lines: Vec<String> = lines.try_iter().collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("hvrun: warning: 1 messages were lost"));
    }

    #[test]
    fn who_does_not_read_keeps_nobody_waiting_and_hears_what_was_lost() {
        let (queue, allow, lines) = queue();
        // Far more than is kept, and nobody reads.
        for _ in 0..1000 {
            queue.push("x".repeat(1000));
        }
        assert!(!queue.flush(Duration::from_millis(1)));
        queue.push_always("the end".into());
        drop(allow);
        assert!(queue.flush(LONG));
        let lines: Vec<String> = lines.try_iter().collect();
        let kept = lines.iter().filter(|line| line.starts_with("xx")).count();
        assert!((60..=66).contains(&kept), "{kept}");
        let lost = format!("hvrun: warning: {} messages were lost", 1000 - kept);
        assert!(lines.iter().any(|line| line.starts_with(&lost)));
        assert_eq!(lines.last().unwrap(), "the end");
    }
}
