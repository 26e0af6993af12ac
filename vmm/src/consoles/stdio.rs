//! Input from a file, pipe or terminal.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use hv_devices::chardev::OutputSink;

use super::config::InputFilter;
use super::feed::{CHUNK, Feed, Source};

/// An open file as a console's input. Its end is not the end of the guest.
pub struct StdioSource {
    /// `None` once it has ended.
    input: Option<File>,
    /// The file cannot be waited for because it is always ready: a regular file, or /dev/null.
    always_ready: bool,
    filter: Option<Arc<dyn InputFilter>>,
    /// Where the filter prints.
    output: Arc<dyn OutputSink>,
}

impl StdioSource {
    /// Input from this file, by way of `filter`, which prints to `output`.
    pub fn new(
        input: File,
        filter: Option<Arc<dyn InputFilter>>,
        output: Arc<dyn OutputSink>,
    ) -> StdioSource {
        StdioSource {
            input: Some(input),
            always_ready: false,
            filter,
            output,
        }
    }

    /// Reads once. Answers whether there may be more; if not, the file is to be let go.
    fn read(&mut self, feed: &mut Feed) -> bool {
        let Some(input) = &mut self.input else {
            return false;
        };
        let mut bytes = [0; CHUNK];
        let count = match input.read(&mut bytes) {
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock
                ) =>
            {
                return true;
            }
            Err(error) => {
                log::debug!("the {}'s input ends: {error}", feed.console());
                0
            }
        };
        if count == 0 {
            return false;
        }
        let read = bytes.get(..count).unwrap_or_default();
        match &self.filter {
            None => feed.push(read),
            // Without waiting, on the thread that also serves what ends the machine. Where a reader is that far behind, nobody
            // looks at what is printed.
            Some(filter) => feed.push(&filter.filter(read, &|text| {
                self.output.try_write(text);
            })),
        }
        true
    }

    /// Reads an always-ready file until the guest's buffer is full or the file ends.
    fn read_while_there_is_room(&mut self, feed: &mut Feed) {
        while feed.waiting() == 0 && self.input.is_some() {
            if !self.read(feed) {
                self.input = None;
            }
            feed.deliver();
        }
    }

    /// A user with keys of the program's must be heard even while the guest takes nothing.
    fn wants_input(&self, feed: &Feed) -> bool {
        feed.waiting() == 0 || (self.filter.is_some() && feed.waiting() < CHUNK)
    }

    fn watch(
        &self,
        feed: &Feed,
        ops: &mut EventOps,
        register: bool,
    ) -> Result<(), event_manager::Error> {
        let Some(input) = &self.input else {
            return Ok(());
        };
        let events = if self.wants_input(feed) {
            EventSet::IN
        } else {
            EventSet::empty()
        };
        if register {
            ops.add(Events::new(input, events))
        } else {
            ops.modify(Events::new(input, events))
        }
    }

    fn watch_again(&self, feed: &Feed, ops: &mut EventOps) {
        if let Err(error) = self.watch(feed, ops, false) {
            log::error!("the {} gets no more input: {error}", feed.console());
        }
    }
}

impl Source for StdioSource {
    fn start(&mut self, feed: &mut Feed, ops: &mut EventOps) {
        if let Err(error) = self.watch(feed, ops, true) {
            log::debug!(
                "the {}'s input is read without waiting for it: {error}",
                feed.console()
            );
            self.always_ready = true;
        }
        if self.always_ready {
            self.read_while_there_is_room(feed);
        }
    }

    fn ready(&mut self, feed: &mut Feed, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if !self.wants_input(feed)
            && events
                .event_set()
                .intersects(EventSet::HANG_UP | EventSet::ERROR)
        {
            // These are reported whether asked for or not. What waits still goes to the guest.
            let _ = ops.remove(Events::empty_raw(fd));
            self.always_ready = true;
            return;
        }
        if !self.read(feed)
            && let Some(ended) = self.input.take()
        {
            // Before it is closed: another descriptor of the same file may stay open and keep it in the loop.
            let _ = ops.remove(Events::empty(&ended));
        }
        feed.deliver();
        self.watch_again(feed, ops);
    }

    fn resume(&mut self, feed: &mut Feed, ops: &mut EventOps) {
        if self.always_ready {
            self.read_while_there_is_room(feed);
        } else {
            self.watch_again(feed, ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use hv_devices::chardev::OutputThread;

    use super::*;

    #[test]
    fn the_end_of_a_pipe_is_an_end_and_all_before_it_arrives() {
        use super::super::feed::Input;
        use super::super::feed::testing::{Device, Loop};
        use std::io::Write;
        use std::os::fd::OwnedFd;

        let (reader, mut writer) = std::io::pipe().unwrap();
        // As a process's standard input, which stays open.
        let stdin = reader.try_clone().unwrap();
        let source = StdioSource::new(
            File::from(OwnedFd::from(reader)),
            None,
            Arc::new(hv_devices::chardev::Nowhere),
        );
        let input = Arc::new(Mutex::new(Input::new("test", source).unwrap()));
        let device = Device::with_room(5);
        input.lock().unwrap().attach(device.clone()).unwrap();
        let mut events = Loop::new(&input);
        let long = vec![b'x'; 20_000];
        writer.write_all(&long).unwrap();
        events.wait_for(&device, b"xxxxx");
        events.settle();
        // What the guest does not take stays in the pipe, also when nothing more comes.
        assert!(unread(&stdin) >= long.len() - 2 * CHUNK);
        drop(writer);
        events.settle();
        assert!(unread(&stdin) >= long.len() - 2 * CHUNK);
        device.give_room(usize::MAX / 2);
        events.wait_for(&device, &long[5..]);
        events.settle();
        Loop::new(&input).settle();
    }

    /// How many bytes are in a pipe.
    fn unread(pipe: &std::io::PipeReader) -> usize {
        use std::os::fd::AsRawFd;
        let mut count: libc::c_int = 0;
        // SAFETY: the call writes one int, which lives across it.
        let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        assert_eq!(result, 0);
        usize::try_from(count).unwrap()
    }

    #[test]
    fn input_that_is_not_there_yet_is_no_end() {
        use std::io::Write;
        use std::os::fd::OwnedFd;

        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let nowhere = Arc::new(hv_devices::chardev::Nowhere);
        let mut source = StdioSource::new(File::from(OwnedFd::from(ours)), None, nowhere);
        let mut feed = Feed::new("test".into()).unwrap();
        assert!(source.read(&mut feed), "nothing yet");
        theirs.write_all(b"text").unwrap();
        assert!(source.read(&mut feed));
        assert_eq!(feed.waiting(), 4);
        drop(theirs);
        assert!(!source.read(&mut feed), "the end");
        // A directory cannot be read.
        let nowhere = Arc::new(hv_devices::chardev::Nowhere);
        let mut source = StdioSource::new(File::open("/").unwrap(), None, nowhere);
        assert!(!source.read(&mut feed));
        assert_eq!(feed.waiting(), 4);
    }

    #[test]
    fn input_is_wanted_while_nothing_waits_and_for_keys_up_to_a_limit() {
        let nowhere = || Arc::new(hv_devices::chardev::Nowhere);
        let file = || File::open("/dev/null").unwrap();
        let plain = StdioSource::new(file(), None, nowhere());
        let keys = StdioSource::new(file(), Some(Arc::new(Digits::default())), nowhere());
        let mut feed = Feed::new("test".into()).unwrap();
        for (more, plain_wants, keys_want) in [
            (0, true, true),
            (1, false, true),
            (CHUNK - 2, false, true),
            (1, false, false),
            (1, false, false),
        ] {
            feed.push(&vec![b'x'; more]);
            assert_eq!(plain.wants_input(&feed), plain_wants, "{}", feed.waiting());
            assert_eq!(keys.wants_input(&feed), keys_want, "{}", feed.waiting());
        }
    }

    /// Keeps back digits, and prints the number of those that it has seen at each `?`.
    #[derive(Debug, Default)]
    struct Digits(std::sync::atomic::AtomicUsize);

    impl InputFilter for Digits {
        fn filter(&self, input: &[u8], print: &dyn Fn(&[u8])) -> Vec<u8> {
            let (digits, rest) = input
                .iter()
                .partition::<Vec<u8>, _>(|it| it.is_ascii_digit());
            let before = self.0.fetch_add(digits.len(), Ordering::Relaxed);
            if rest.contains(&b'?') {
                print(format!("{}", before + digits.len()).as_bytes());
            }
            rest
        }
    }

    /// A device that never has room is what a guest that hangs is to its user.
    #[test]
    fn a_filter_is_heard_while_the_guest_takes_nothing() {
        use std::io::{Read, Write};
        use std::os::fd::OwnedFd;

        use super::super::feed::Input;
        use super::super::feed::testing::{Device, Loop};

        let (reader, mut keyboard) = std::io::pipe().unwrap();
        let (mut screen, writer) = std::io::pipe().unwrap();
        let output = OutputThread::spawn(File::from(OwnedFd::from(writer)), "test").unwrap();
        let digits = Arc::new(Digits::default());
        let source = StdioSource::new(
            File::from(OwnedFd::from(reader)),
            Some(digits.clone()),
            Arc::new(output),
        );
        let input = Arc::new(Mutex::new(Input::new("test", source).unwrap()));
        let device = Device::with_room(0);
        input.lock().unwrap().attach(device.clone()).unwrap();
        let mut events = Loop::new(&input);
        for (typed, seen) in [("ab1", 1), ("2c", 2), ("d34?", 4)] {
            keyboard.write_all(typed.as_bytes()).unwrap();
            events.settle();
            assert_eq!(digits.0.load(Ordering::Relaxed), seen);
        }
        let mut printed = [0];
        screen.read_exact(&mut printed).unwrap();
        assert_eq!(printed, *b"4");
        device.give_room(5);
        events.wait_for(&device, b"abcd?");
    }
}
