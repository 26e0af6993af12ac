//! A Unix socket's client as a console's input.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events};
use hv_devices::chardev::{ClientInput, Socket};

use super::feed::{CHUNK, Feed, Source};

/// A socket and what is known of its client.
pub struct SocketSource {
    socket: Socket,
    /// The client sends nothing more.
    ended: bool,
    /// It does not listen any more either.
    hung_up: bool,
}

impl SocketSource {
    /// Input from whoever connects.
    pub fn new(socket: Socket) -> SocketSource {
        SocketSource {
            socket,
            ended: false,
            hung_up: false,
        }
    }

    /// Waits for the client, or for one to come: the others are left waiting meanwhile.
    fn watch(&self, feed: &Feed, ops: &mut EventOps) {
        let events = match self.socket.client() {
            // Edges, because the guest may leave input lying for long.
            Some(client) => Events::new_raw(
                client,
                EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED,
            ),
            None => Events::new(&self.socket, EventSet::IN),
        };
        if let Err(error) = ops.add(events) {
            log::error!(
                "the {}'s socket cannot be waited for: {error}",
                feed.console()
            );
        }
    }

    fn accept(&mut self, feed: &Feed, ops: &mut EventOps) {
        match self.socket.accept() {
            Ok(None) => return,
            Ok(Some(_)) => {
                self.ended = false;
                self.hung_up = false;
            }
            Err(error) => log::error!(
                "the {}'s socket takes no more clients until the guest reboots: {error}",
                feed.console()
            ),
        }
        // Also after an error, which would come again at once.
        let _ = ops.remove(Events::empty(&self.socket));
        if self.socket.client().is_some() {
            self.watch(feed, ops);
        }
    }

    fn disconnect(&mut self, feed: &Feed, ops: &mut EventOps) {
        if let Some(client) = self.socket.client() {
            let _ = ops.remove(Events::empty_raw(client));
            self.socket.disconnect();
            self.watch(feed, ops);
        }
    }
}

impl Source for SocketSource {
    fn start(&mut self, feed: &mut Feed, ops: &mut EventOps) {
        self.watch(feed, ops);
        self.resume(feed, ops);
    }

    fn ready(&mut self, feed: &mut Feed, events: Events, ops: &mut EventOps) {
        if events.fd() == self.socket.as_raw_fd() {
            self.accept(feed, ops);
        } else if events
            .event_set()
            .intersects(EventSet::HANG_UP | EventSet::ERROR)
        {
            self.hung_up = true;
        }
        self.resume(feed, ops);
    }

    /// Reads until there is nothing more, or the guest takes no more. The client is let go when all it has sent is on its
    /// way to the guest.
    fn resume(&mut self, feed: &mut Feed, ops: &mut EventOps) {
        let mut bytes = [0; CHUNK];
        while feed.waiting() == 0 && !self.ended && self.socket.client().is_some() {
            match self.socket.read(&mut bytes) {
                ClientInput::Bytes(count) => feed.push(bytes.get(..count).unwrap_or_default()),
                ClientInput::Nothing => break,
                ClientInput::End => self.ended = true,
            }
            feed.deliver();
        }
        if self.ended && self.hung_up {
            self.disconnect(feed, ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};

    use hv_devices::chardev::OutputSink;

    use super::super::feed::Input;
    use super::super::feed::testing::{Device, Loop};
    use super::*;

    /// A client may be silent for long, before it sends anything and after.
    #[test]
    fn what_a_client_sends_later_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let source = SocketSource::new(Socket::bind(&path).unwrap());
        let input = Arc::new(Mutex::new(Input::new("test", source).unwrap()));
        let device = Device::with_room(100);
        input.lock().unwrap().attach(device.clone()).unwrap();
        let mut events = Loop::new(&input);
        let mut client = UnixStream::connect(&path).unwrap();
        for text in [b"early", b"later", b"still"] {
            events.settle();
            client.write_all(text).unwrap();
            events.wait_for(&device, text);
        }
    }

    #[test]
    fn all_that_a_client_sent_arrives_before_the_next_one_s() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = Socket::bind(&path).unwrap();
        let output = socket.output("test").unwrap();
        let input = Arc::new(Mutex::new(
            Input::new("test", SocketSource::new(socket)).unwrap(),
        ));
        let device = Device::with_room(0);
        input.lock().unwrap().attach(device.clone()).unwrap();
        let mut events = Loop::new(&input);
        events.settle();

        // Far more than is read at once, from a client that is gone before the guest reads any of it.
        let long: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(&long).unwrap();
        drop(first);
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"second").unwrap();
        events.settle();
        assert_eq!(device.take(), b"");
        device.give_room(20_000);
        events.wait_for(&device, &long[..20_000]);
        // A reboot in between.
        events = Loop::new(&input);
        device.give_room(30_000);
        events.wait_for(&device, &long[20_000..]);
        device.give_room(6);
        events.wait_for(&device, b"second");

        // One that sends nothing more still listens, and is let go when it does not.
        second.shutdown(Shutdown::Write).unwrap();
        events.settle();
        output.write(b"still here");
        let mut bytes = [0; 10];
        second.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"still here");
        drop(second);
        let mut third = UnixStream::connect(&path).unwrap();
        third.write_all(b"third").unwrap();
        device.give_room(5);
        events.wait_for(&device, b"third");
        drop((events, input));
        assert!(!path.exists());
    }
}
