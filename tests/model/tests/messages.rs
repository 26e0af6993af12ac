//! hvrun's messages: the thread that writes them never sleeps while there is one, and who waits for them hears of the last.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use hv_model::messages::Queue;
use hv_model::search;
use loom::sync::Mutex;
use loom::thread;

/// No limit: time does not pass in a model.
const LONG: Duration = Duration::from_secs(3600);

const END: &str = "the end";

/// Lines come from two threads, this long, while a third one writes and this one waits for all of them.
fn lines(length: usize) {
    let queue = Arc::new(Queue::new());
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = thread::spawn({
        let (queue, written) = (queue.clone(), written.clone());
        move || {
            loop {
                let line = queue.take();
                if line == END {
                    break;
                }
                written.lock().unwrap().push(line);
                queue.taken_is_written();
            }
            queue.taken_is_written();
        }
    });
    let other = thread::spawn({
        let queue = queue.clone();
        move || queue.push("x".repeat(length))
    });
    queue.push("y".repeat(length));
    assert!(queue.flush(LONG));
    other.join().unwrap();
    assert!(queue.flush(LONG));
    assert!(!written.lock().unwrap().is_empty());
    queue.push_always(END.into());
    writer.join().unwrap();
    if length <= 64 * 1024 {
        assert_eq!(written.lock().unwrap().len(), 2);
    }
}

#[test]
fn a_flush_waits_for_all_lines() {
    search(|| lines(1));
}

/// A line that there is never room for: it is counted, and the thread says so.
#[test]
fn a_line_that_is_too_long_is_told_of() {
    search(|| lines(64 * 1024 + 1));
}
