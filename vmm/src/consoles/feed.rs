//! Input on its way to a device of the guest's.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use hv_devices::chardev::InputSink;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Error;

/// Bytes that are read at once. What the guest has not taken yet is hardly ever more than this.
pub const CHUNK: usize = 4096;

/// What was read for a device and not taken by it yet.
pub struct Feed {
    /// Whose input it is, for messages.
    console: String,
    waiting: VecDeque<u8>,
    sink: Option<Arc<dyn InputSink>>,
    /// The device's word that it has room again.
    room: EventFd,
}

impl Feed {
    pub(super) fn new(console: String) -> Result<Feed, Error> {
        Ok(Feed {
            console,
            waiting: VecDeque::new(),
            sink: None,
            room: EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?,
        })
    }

    fn attach(&mut self, sink: Arc<dyn InputSink>) -> Result<(), Error> {
        let room = self.room.try_clone();
        sink.set_room_event(room.map_err(Error::host("copy an eventfd"))?);
        self.sink = Some(sink);
        Ok(())
    }

    /// Adds what was read. It is delivered by [`deliver`](Self::deliver).
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
    }

    /// Whose input it is, such as `serial port`.
    pub fn console(&self) -> &str {
        &self.console
    }

    /// How many bytes the guest has not taken.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Gives the guest what waits, as far as it has room.
    pub fn deliver(&mut self) {
        let Some(sink) = &self.sink else { return };
        loop {
            // Also with nothing: a UART may have something left to receive itself.
            let taken = sink.receive(self.waiting.make_contiguous());
            self.waiting.drain(..taken);
            if taken == 0 || self.waiting.is_empty() {
                return;
            }
        }
    }
}

/// Where input comes from: descriptors in the event loop.
pub trait Source: Send {
    /// Adds the descriptors to the event loop, and reads what is there. Called for each boot of the guest, with a new loop.
    fn start(&mut self, feed: &mut Feed, ops: &mut EventOps);

    /// One of the descriptors is ready.
    fn ready(&mut self, feed: &mut Feed, events: Events, ops: &mut EventOps);

    /// The guest has taken some, or all, of what waited.
    fn resume(&mut self, feed: &mut Feed, ops: &mut EventOps);
}

/// A console's input, an event subscriber that outlives each boot of the guest.
pub struct Input {
    feed: Feed,
    source: Box<dyn Source>,
}

impl Input {
    /// Input of `console` from this source, for a device that is yet to be [attached](Self::attach).
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new(console: &str, source: impl Source + 'static) -> Result<Input, Error> {
        Ok(Input {
            feed: Feed::new(console.to_owned())?,
            source: Box::new(source),
        })
    }

    /// Feeds this device from now on.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn attach(&mut self, sink: Arc<dyn InputSink>) -> Result<(), Error> {
        self.feed.attach(sink)
    }
}

impl MutEventSubscriber for Input {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.feed.room, EventSet::IN)) {
            log::error!("the {} gets no more input: {error}", self.feed.console);
        }
        self.feed.deliver();
        self.source.start(&mut self.feed, ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.feed.room.as_raw_fd() {
            let _ = self.feed.room.read();
            self.feed.deliver();
            self.source.resume(&mut self.feed, ops);
        } else {
            self.source.ready(&mut self.feed, events, ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_does_not_take_waits() {
        let mut feed = Feed::new("test".into()).unwrap();
        assert_eq!(feed.console(), "test");
        feed.push(b"before there is a device");
        feed.deliver();
        assert_eq!(feed.waiting(), 24);
        let device = testing::Device::with_room(20);
        feed.attach(device.clone()).unwrap();
        feed.deliver();
        assert_eq!(feed.waiting(), 4);
        device.give_room(4);
        feed.deliver();
        assert_eq!(feed.waiting(), 0);
        assert_eq!(device.take(), b"before there is a device");
    }
}

#[cfg(test)]
pub mod testing {
    //! A device that takes as much input as a test lets it.

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hv_test_limit::{Watch, watch};

    use super::*;

    /// What it has received, and how much more it takes.
    #[derive(Default)]
    pub struct Device {
        state: Mutex<(Vec<u8>, usize)>,
        /// How often in a row it took nothing.
        in_vain: AtomicUsize,
        room: Mutex<Option<EventFd>>,
    }

    impl Device {
        /// A device that takes this many bytes, and an input that is attached to it.
        pub fn with_room(room: usize) -> Arc<Device> {
            let device = Device::default();
            device.state.lock().unwrap().1 = room;
            Arc::new(device)
        }

        /// Takes this many bytes more, and says so.
        pub fn give_room(&self, room: usize) {
            self.state.lock().unwrap().1 += room;
            self.room
                .lock()
                .unwrap()
                .as_ref()
                .unwrap()
                .write(1)
                .unwrap();
        }

        /// What it has received, once.
        pub fn take(&self) -> Vec<u8> {
            std::mem::take(&mut self.state.lock().unwrap().0)
        }
    }

    impl InputSink for Device {
        fn receive(&self, bytes: &[u8]) -> usize {
            let mut state = self.state.lock().unwrap();
            let taken = bytes.len().min(state.1);
            state.0.extend(&bytes[..taken]);
            state.1 -= taken;
            match taken {
                0 => self.in_vain.fetch_add(1, Ordering::Relaxed),
                _ => self.in_vain.swap(0, Ordering::Relaxed),
            };
            let in_vain = self.in_vain.load(Ordering::Relaxed);
            assert!(in_vain < 1000, "it has no room, and is asked all the time");
            taken
        }

        fn set_room_event(&self, event: EventFd) {
            *self.room.lock().unwrap() = Some(event);
        }

        fn take_received(&self, _: &mut [u8]) -> usize {
            0
        }
    }

    /// An event loop with this input in it, once around.
    pub struct Loop {
        events: event_manager::EventManager<Box<dyn MutEventSubscriber>>,
        _watch: Watch,
    }

    impl Loop {
        /// A loop, as each boot of a guest has one.
        pub fn new(input: &Arc<Mutex<Input>>) -> Loop {
            use event_manager::SubscriberOps;
            let mut events = event_manager::EventManager::new().unwrap();
            let input: Box<dyn MutEventSubscriber> = Box::new(input.clone());
            events.add_subscriber(input);
            Loop {
                events,
                _watch: watch(),
            }
        }

        /// Waits until the device has received this.
        pub fn wait_for(&mut self, device: &Device, expected: &[u8]) {
            let mut received = Vec::new();
            hv_test_limit::until(|| {
                assert!(
                    self.events
                        .run_with_timeout(hv_test_limit::MILLISECONDS)
                        .unwrap()
                        > 0,
                    "nothing came"
                );
                received.extend(device.take());
                received.len() >= expected.len()
            });
            assert!(received == expected);
        }

        /// Handles what there is to handle now.
        pub fn settle(&mut self) {
            hv_test_limit::until(|| self.events.run_with_timeout(0).unwrap() == 0);
        }
    }
}
