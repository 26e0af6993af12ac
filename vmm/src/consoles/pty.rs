//! A pseudo-terminal as a console's input.

use event_manager::{EventOps, EventSet, Events};
use hv_devices::chardev::Pty;

use super::feed::{CHUNK, Feed, Source};

impl Source for Pty {
    fn start(&mut self, feed: &mut Feed, ops: &mut EventOps) {
        // Edges, because without anybody it is always ready, by a hang-up.
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        if let Err(error) = ops.add(Events::new(self, events)) {
            log::error!("the {} gets no input: {error}", feed.console());
        }
        self.resume(feed, ops);
    }

    fn ready(&mut self, feed: &mut Feed, _: Events, ops: &mut EventOps) {
        self.resume(feed, ops);
    }

    /// Reads until there is nothing more, or the guest takes no more.
    fn resume(&mut self, feed: &mut Feed, _: &mut EventOps) {
        let mut bytes = [0; CHUNK];
        while feed.waiting() == 0 {
            match self.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => feed.push(bytes.get(..count).unwrap_or_default()),
                Err(error) => {
                    log::debug!(
                        "the {}'s pseudo-terminal cannot be read: {error}",
                        feed.console()
                    );
                    return;
                }
            }
            feed.deliver();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::super::feed::Input;
    use super::super::feed::testing::{Device, Loop};
    use super::*;

    #[test]
    fn what_is_typed_arrives_whoever_types_it_and_when() {
        let pty = Pty::open().unwrap();
        let path = pty.path().to_owned();
        let input = Arc::new(Mutex::new(Input::new("test", pty).unwrap()));
        let device = Device::with_room(3);
        input.lock().unwrap().attach(device.clone()).unwrap();
        let mut events = Loop::new(&input);
        // Nobody has it open: nothing keeps the loop busy.
        events.settle();
        for boot in 0..2 {
            for typed in ["one", "another"] {
                let mut person = File::options().write(true).open(&path).unwrap();
                person.write_all(typed.as_bytes()).unwrap();
                if (boot, typed) == (0, "one") {
                    events.wait_for(&device, b"one");
                    continue;
                }
                // Closed before it is read.
                drop(person);
                events.settle();
                assert_eq!(device.take(), b"");
                device.give_room(typed.len());
                events.wait_for(&device, typed.as_bytes());
            }
            events = Loop::new(&input);
        }
    }
}
