//! A console device's worker around its port: `devices/src/virtio/console/worker.rs`, whose guest always has a buffer.

use std::sync::Arc;

use crate::chardev::{InputSink, OutputSink};
use crate::port::{Port, PortConfig, Ports};
use crate::sync::{AtomicBool, EventFd, Ordering};

/// A console with one port.
pub struct Console {
    port: Arc<Port>,
    wake: Arc<EventFd>,
    stop: AtomicBool,
}

impl Console {
    /// A console whose output goes there.
    ///
    /// # Panics
    /// Never: there is one port.
    #[must_use]
    pub fn new(output: Arc<dyn OutputSink>) -> Self {
        let ports = Ports::new(vec![PortConfig {
            name: String::new(),
            is_console: true,
            on_terminal: false,
            output,
        }]);
        let ports = ports.expect("there is one");
        let port = ports.get(0).expect("there is one");
        Self {
            port,
            wake: ports.wake,
            stop: AtomicBool::new(false),
        }
    }

    /// Its input.
    #[must_use]
    pub fn input(&self) -> &dyn InputSink {
        &*self.port
    }

    /// The terminal's size changes.
    pub fn resize(&self) {
        self.port.set_size(80, 25);
    }

    /// `Server::run`: gives the guest the input and prints `text` until it is told to stop, or until all is printed and the guest is
    /// `done` with what it has received and whether the size has changed. Returns both.
    pub fn serve(&self, mut text: &[u8], done: impl Fn(&[u8], bool) -> bool) -> (Vec<u8>, bool) {
        let (mut received, mut resized) = (Vec::new(), false);
        let mut chunk = [0; 4096];
        while !self.stop.load(Ordering::Acquire) {
            resized |= self.port.take_resized().is_some();
            while !text.is_empty() {
                let taken = self.port.output.try_write(text);
                text = text.get(taken..).unwrap_or_default();
                if taken == 0 {
                    break;
                }
            }
            while self.port.has_input() {
                let count = self.port.take_input(&mut chunk);
                received.extend_from_slice(chunk.get(..count).unwrap_or_default());
                if count == 0 {
                    break;
                }
            }
            if text.is_empty() && done(&received, resized) {
                break;
            }
            let _ = self.wake.read();
        }
        (received, resized)
    }

    /// `Console::pause`.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.write(1);
    }
}

/// `Feed::deliver` of `vmm/src/consoles/feed.rs`, and the event loop that calls it for each room event: until all is delivered.
pub fn feed(sink: &dyn InputSink, mut waiting: &[u8]) {
    let room = EventFd::default();
    sink.set_room_event(room.clone());
    loop {
        loop {
            let taken = sink.receive(waiting);
            waiting = waiting.get(taken..).unwrap_or_default();
            if taken == 0 || waiting.is_empty() {
                break;
            }
        }
        if waiting.is_empty() {
            return;
        }
        let _ = room.read();
    }
}
