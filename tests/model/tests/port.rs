//! A port of the console device: input arrives once and in order, whoever reads it; nobody waits for what has come; a stop ends.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use hv_devices::memory::GuestSlice;
use hv_model::chardev::OutputSink;
use hv_model::chardev::output::{Outlet, OutputThread};
use hv_model::console::{Console, feed};
use hv_model::sync::EventFd;
use hv_model::{Shared, search};
use loom::thread;

/// What waits for the guest.
const CAPACITY: usize = 4096;

/// Takes everything.
struct Nowhere;

impl OutputSink for Nowhere {
    fn write(&self, _: &[u8]) {}

    fn write_memory(&self, _: &GuestSlice<'_>) {}

    fn try_write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn set_room_event(&self, _: Arc<EventFd>) {}
}

fn input() -> Vec<u8> {
    (0..CAPACITY + 2)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect()
}

#[test]
fn more_input_than_fits_arrives_in_order() {
    search(|| {
        let console = Arc::new(Console::new(Arc::new(Nowhere)));
        let worker = thread::spawn({
            let console = console.clone();
            move || console.serve(b"", |received, _| received.len() == input().len())
        });
        feed(console.input(), &input());
        assert!(worker.join().unwrap().0 == input());
    });
}

/// A guest with a driver reads by SBI as well.
#[test]
fn each_byte_has_one_reader() {
    search(|| {
        let console = Arc::new(Console::new(Arc::new(Nowhere)));
        let worker = thread::spawn({
            let console = console.clone();
            move || console.serve(b"", |_, _| false).0
        });
        let vcpu = thread::spawn({
            let console = console.clone();
            move || {
                let mut buffer = [0; 3];
                let count = console.input().take_received(&mut buffer);
                buffer[..count].to_vec()
            }
        });
        console.input().receive(b"ab");
        let by_sbi = vcpu.join().unwrap();
        console.stop();
        let by_driver = worker.join().unwrap();
        let mut left = [0; 3];
        let count = console.input().take_received(&mut left);
        let mut all = [&by_driver[..], &by_sbi, &left[..count]].concat();
        all.sort_unstable();
        assert_eq!(all, b"ab");
    });
}

#[test]
fn a_change_of_size_is_told() {
    search(|| {
        let console = Arc::new(Console::new(Arc::new(Nowhere)));
        let worker = thread::spawn({
            let console = console.clone();
            move || console.serve(b"", |received, resized| resized && !received.is_empty())
        });
        console.resize();
        console.input().receive(b"x");
        assert_eq!(worker.join().unwrap(), (b"x".to_vec(), true));
    });
}

#[test]
fn a_stop_ends_at_any_time() {
    search(|| {
        let console = Arc::new(Console::new(Arc::new(Nowhere)));
        let worker = thread::spawn({
            let console = console.clone();
            move || console.serve(b"", |_, _| false)
        });
        let event_loop = thread::spawn({
            let console = console.clone();
            move || console.input().receive(b"x")
        });
        console.stop();
        worker.join().unwrap();
        event_loop.join().unwrap();
    });
}

/// Reads whatever comes.
struct Reader;

impl Outlet for Reader {
    fn pass_on(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }
}

/// The worker prints more than the output has room for, and sleeps until there is room.
#[test]
fn output_goes_on_when_there_is_room() {
    search(|| {
        let output = Shared::new(OutputThread::spawn(Reader, "test").unwrap());
        let console = Console::new(output.arc());
        let printed = vec![b'x'; 3 * 64 * 1024];
        let _ = console.serve(&printed, |_, _| true);
        drop(console);
        assert!(output.close(Duration::from_secs(3600)));
    });
}
