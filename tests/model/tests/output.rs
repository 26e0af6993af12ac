//! Console output: what a guest prints arrives once and in order, whoever waits for room or for the end is let go, and closing it ends.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hv_devices::memory::GuestSlice;
use hv_model::chardev::OutputSink;
use hv_model::chardev::merged::Merged;
use hv_model::chardev::output::{Outlet, OutputThread};
use hv_model::sync::EventFd;
use hv_model::{Shared, search};
use loom::sync::{Condvar, Mutex};
use loom::thread;

/// No limit.
const LONG: Duration = Duration::from_secs(3600);

/// What waits for a slow reader.
const CAPACITY: usize = 64 * 1024;

/// The reader's end.
#[derive(Default)]
struct Reader {
    read: Mutex<Vec<u8>>,
    /// It does not read, however long somebody waits.
    stuck: Mutex<bool>,
    goes_on: Condvar,
}

impl Reader {
    fn new(stuck: bool) -> Arc<Self> {
        Arc::new(Self {
            stuck: Mutex::new(stuck),
            ..Self::default()
        })
    }

    fn go_on(&self) {
        *self.stuck.lock().unwrap() = false;
        self.goes_on.notify_all();
    }

    fn read(&self) -> Vec<u8> {
        self.read.lock().unwrap().clone()
    }
}

/// Leads to a reader, the first so many times not, and to a file for what is written past the thread.
struct Writer {
    reader: Arc<Reader>,
    failures: u32,
    file: Option<&'static str>,
}

impl Writer {
    fn to(reader: &Arc<Reader>) -> Self {
        Self {
            reader: reader.clone(),
            failures: 0,
            file: None,
        }
    }
}

impl Outlet for Writer {
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut stuck = self.reader.stuck.lock().unwrap();
        while *stuck {
            stuck = self.reader.goes_on.wait(stuck).unwrap();
        }
        drop(stuck);
        self.reader.read.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn file(&self) -> Option<File> {
        let file = File::options().write(true).open(self.file?);
        Some(file.unwrap())
    }
}

fn output(writer: Writer) -> Shared<OutputThread> {
    Shared::new(OutputThread::spawn(writer, "test").unwrap())
}

/// More than is kept for a slow reader.
fn text() -> Vec<u8> {
    (0..2 * CAPACITY + 1)
        .map(|at| u8::try_from(at / 1000 % 256).unwrap())
        .collect()
}

#[test]
fn all_that_is_written_arrives() {
    search(|| {
        let reader = Reader::new(false);
        let output = output(Writer::to(&reader));
        output.write(&text());
        assert!(output.flush(LONG));
        assert!(reader.read() == text());
        output.write(b"end");
        assert!(output.close(LONG));
        assert!(reader.read().ends_with(b"end"));
    });
}

/// A device that does not wait writes when there is room, and another one tries meanwhile, with something and with nothing: it does not
/// take the other's event.
#[test]
fn who_found_no_room_hears_of_room() {
    for other in [&b""[..], b"y"] {
        search(move || {
            let reader = Reader::new(false);
            let output = output(Writer::to(&reader));
            let room = Arc::<EventFd>::default();
            output.set_room_event(room.clone());
            let event_loop = thread::spawn({
                let output = output.clone();
                move || output.try_write(other)
            });
            let text = text();
            let mut rest = &text[..];
            while !rest.is_empty() {
                let taken = output.try_write(rest);
                rest = &rest[taken..];
                if !rest.is_empty() {
                    let _ = room.read();
                }
            }
            let taken = event_loop.join().unwrap();
            assert!(output.close(LONG));
            assert_eq!(reader.read().len(), text.len() + taken);
        });
    }
}

/// A writer that waits for a reader who does not read is let go when the output becomes lossy, or is closed.
#[test]
fn who_waits_for_room_is_let_go() {
    for closes in [false, true] {
        search(move || {
            let reader = Reader::new(true);
            let output = output(Writer::to(&reader));
            let vcpu = thread::spawn({
                let output = output.clone();
                move || output.write(&text())
            });
            if closes {
                output.close(Duration::ZERO);
            } else {
                output.set_lossy(true);
            }
            vcpu.join().unwrap();
            reader.go_on();
            assert!(output.close(LONG));
        });
    }
}

/// Writes fail for a while: nobody waits, and what was kept arrives.
#[test]
fn what_is_kept_of_a_failed_write_arrives() {
    search(|| {
        let reader = Reader::new(false);
        let output = output(Writer {
            failures: 1,
            ..Writer::to(&reader)
        });
        let vcpu = thread::spawn({
            let output = output.clone();
            move || output.write(b"ab")
        });
        output.flush(LONG);
        vcpu.join().unwrap();
        while !output.flush(LONG) || reader.read() != b"ab" {
            thread::yield_now();
        }
        assert!(output.close(LONG));
        assert_eq!(output.lost(), None);
    });
}

/// Hart 0 prints a large piece of memory to a file, and hart 1 a character, while the machine ends.
fn a_large_piece_at_the_end(file: &'static str) {
    let reader = Reader::new(false);
    let output = output(Writer {
        file: Some(file),
        ..Writer::to(&reader)
    });
    let harts = [CAPACITY, 1].map(|length| {
        let output = output.clone();
        thread::spawn(move || {
            let mut memory = vec![b'x'; length];
            output.write_memory(&GuestSlice::from(&mut memory[..]));
        })
    });
    output.close(LONG);
    for hart in harts {
        hart.join().unwrap();
    }
}

#[test]
fn an_end_while_a_large_piece_is_written_ends() {
    search(|| a_large_piece_at_the_end("/dev/null"));
}

#[test]
fn an_end_while_a_large_piece_cannot_be_written_ends() {
    search(|| a_large_piece_at_the_end("/dev/full"));
}

/// Two consoles on one output: the vCPU's waits, the other's worker does not, and the event loop has what is held back go out.
#[test]
fn two_consoles_share_an_output() {
    search(|| {
        let reader = Reader::new(false);
        let output = output(Writer::to(&reader));
        let mut merged = Merged::new(output.arc());
        let (serial, virtio) = (merged.stream().unwrap(), merged.stream().unwrap());
        let room = Arc::<EventFd>::default();
        virtio.set_room_event(room.clone());
        let vcpu = thread::spawn(move || serial.write(&[b'x'; CAPACITY]));
        let worker = thread::spawn(move || {
            let mut rest = &b"abc"[..];
            while !rest.is_empty() {
                let taken = virtio.try_write(rest);
                rest = &rest[taken..];
                if !rest.is_empty() {
                    let _ = room.read();
                }
            }
        });
        merged.release();
        vcpu.join().unwrap();
        worker.join().unwrap();
        assert!(output.close(LONG));
        let mut letters = reader.read();
        letters.retain(|letter| *letter != b'x');
        assert_eq!(letters, b"abc");
    });
}
