//! Several consoles of a guest on one output, where each line of the kernel's log appears once.
//!
//! A Linux kernel prints its log to every console that it is told of, and to one that comes late from the beginning. Which
//! of them it has a driver for is not known before, so that a guest may be told of more than one. What is alike on two of
//! them are lines that begin with a time stamp, `[    0.123456] `: whichever console prints such a line first has it shown.
//! Everything else goes through as it comes, so that nothing is lost.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::OutputSink;
use crate::lock;
use crate::sync::{EventFd, Mutex};

/// How many lines of the log are remembered: more than a boot prints before its last console is there.
const REMEMBERED: usize = 4096;

/// The longest line that is waited for, bytes; Linux's are at most 1024 (`LOG_LINE_MAX`) and their prefix.
const LONGEST: usize = 2048;

/// The most spaces before the seconds of a time stamp, of which there is at least one digit.
const MAX_PADDING: usize = 4;

/// The most consoles that can be merged.
const MAX_STREAMS: usize = 8;

/// An output that several consoles share.
pub struct Merged {
    output: Arc<dyn OutputSink>,
    shown: Arc<Mutex<Shown>>,
    streams: Vec<Arc<Stream>>,
}

impl Merged {
    /// Consoles that all go to `output`, none so far.
    #[must_use]
    pub fn new(output: Arc<dyn OutputSink>) -> Self {
        Self {
            output,
            shown: Arc::default(),
            streams: Vec::new(),
        }
    }

    /// One more console; `None` beyond eight.
    pub fn stream(&mut self) -> Option<Arc<dyn OutputSink>> {
        if self.streams.len() >= MAX_STREAMS {
            return None;
        }
        let stream = Arc::new(Stream {
            bit: 1 << self.streams.len(),
            output: Arc::clone(&self.output),
            shown: Arc::clone(&self.shown),
            state: Mutex::default(),
        });
        self.streams.push(Arc::clone(&stream));
        Some(stream)
    }

    /// The guest begins anew, with a new log. What was [released](Self::release) and found no room is dropped.
    pub fn restart(&self) {
        self.release();
        for stream in &self.streams {
            if let Ok(mut state) = stream.state.try_lock() {
                *state = State::default();
            }
        }
        *lock(&self.shown) = Shown::default();
    }

    /// Passes on what waits for the end of its line, as far as the output has room. Returns whether that is all. A console that
    /// is being written to is left alone: a writer may wait for the output.
    pub fn release(&self) -> bool {
        let mut all = true;
        for stream in &self.streams {
            if let Ok(mut state) = stream.state.try_lock() {
                all &= stream.release(&mut state);
            }
        }
        all
    }
}

/// One of the consoles.
struct Stream {
    /// Of the consoles that have printed a line.
    bit: u8,
    output: Arc<dyn OutputSink>,
    shown: Arc<Mutex<Shown>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The line so far, while it is or may be one of the log.
    line: Vec<u8>,
    /// The rest of the line goes through.
    through: bool,
    /// What is to go out.
    ready: Vec<u8>,
    /// The last byte that was offered has been dealt with, and was not counted.
    owed: bool,
}

/// The lines of the log that were printed last, and by which consoles.
#[derive(Default)]
struct Shown {
    by: HashMap<u64, u8>,
    order: VecDeque<u64>,
}

impl Shown {
    /// A console prints the line. Answers whether it is the first to do so, or does so again.
    fn is_new(&mut self, line: &[u8], bit: u8) -> bool {
        let mut hasher = DefaultHasher::new();
        line.trim_ascii_end().hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(by) = self.by.get_mut(&hash) {
            let again = *by & bit != 0;
            *by |= bit;
            return again;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.by.remove(&oldest);
        }
        self.order.push_back(hash);
        self.by.insert(hash, bit);
        true
    }
}

impl Stream {
    fn take(&self, state: &mut State, bytes: &[u8]) {
        for &byte in bytes {
            let ends = byte == b'\n';
            if state.through {
                state.ready.push(byte);
                state.through = !ends;
                continue;
            }
            state.line.push(byte);
            let stamp = stamp(&state.line);
            let drop = match stamp {
                Stamp::Maybe if !ends => continue,
                Stamp::Yes if !ends && state.line.len() < LONGEST => continue,
                Stamp::Yes if ends => !lock(&self.shown).is_new(&state.line, self.bit),
                _ => false,
            };
            if drop {
                state.line.clear();
            } else {
                state.ready.append(&mut state.line);
            }
            state.through = !ends;
        }
    }

    /// Passes on the beginning of a line, whose rest goes through then. Answers whether the output had room for it.
    fn release(&self, state: &mut State) -> bool {
        if !state.line.is_empty() {
            state.ready.append(&mut state.line);
            state.through = true;
        }
        self.flush(state)
    }

    /// Passes on as much as the output has room for. Answers whether that is all.
    fn flush(&self, state: &mut State) -> bool {
        let taken = self.output.try_write(&state.ready);
        state.ready.drain(..taken.min(state.ready.len()));
        state.ready.is_empty()
    }
}

impl OutputSink for Stream {
    fn write(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        self.take(&mut state, bytes);
        let ready = std::mem::take(&mut state.ready);
        self.output.write(&ready);
    }

    /// The last byte is only counted once everything before and with it has gone out: whoever has no more bytes does not
    /// come again.
    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        if bytes.is_empty() || !self.flush(&mut state) {
            return 0;
        }
        let owed = usize::from(std::mem::take(&mut state.owed));
        self.take(&mut state, bytes.get(owed..).unwrap_or_default());
        if self.flush(&mut state) {
            return bytes.len();
        }
        state.owed = true;
        bytes.len().saturating_sub(1)
    }

    fn set_room_event(&self, event: Arc<EventFd>) {
        self.output.set_room_event(event);
    }
}

/// Whether a line begins with the time stamp of Linux's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    No,
    /// It is too short to tell.
    Maybe,
    Yes,
}

/// `[` seconds, padded with spaces to five characters, `.` six digits `]` (Linux, kernel/printk/printk.c, `print_time`). It
/// is told from at most as many bytes: a guest that pads without an end has no line held back for that.
fn stamp(line: &[u8]) -> Stamp {
    let digits = |bytes: &[u8]| bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let Some(rest) = line.strip_prefix(b"[") else {
        return Stamp::No;
    };
    let padding = rest.iter().take_while(|byte| **byte == b' ').count();
    if padding > MAX_PADDING {
        return Stamp::No;
    }
    let rest = rest.get(padding..).unwrap_or_default();
    let (seconds, rest) = rest.split_at(digits(rest));
    let rest = match rest {
        [] if seconds.len() <= 10 => return Stamp::Maybe,
        [b'.', rest @ ..] if !seconds.is_empty() => rest,
        _ => return Stamp::No,
    };
    match (digits(rest), rest.get(6)) {
        (0..=6, None) if rest.len() == digits(rest) => Stamp::Maybe,
        (6, Some(b']')) => Stamp::Yes,
        _ => Stamp::No,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hv_test_limit::{join, until, watch};

    use super::super::OutputThread;
    use super::*;

    /// An output with room for so many bytes.
    struct Terminal {
        text: Mutex<Vec<u8>>,
        room: Mutex<usize>,
    }

    impl Terminal {
        fn new(room: usize) -> Arc<Self> {
            Arc::new(Self {
                text: Mutex::default(),
                room: Mutex::new(room),
            })
        }

        fn text(&self) -> String {
            String::from_utf8(lock(&self.text).clone()).unwrap()
        }
    }

    impl OutputSink for Terminal {
        fn write(&self, bytes: &[u8]) {
            lock(&self.text).extend_from_slice(bytes);
        }

        fn try_write(&self, bytes: &[u8]) -> usize {
            let mut room = lock(&self.room);
            let count = bytes.len().min(*room);
            *room -= count;
            self.write(&bytes[..count]);
            count
        }

        fn set_room_event(&self, _: Arc<EventFd>) {}
    }

    const LOG: &str =
        "[    0.000000] Linux version 6.12\r\n[    0.000000] earlycon: no\r\n[   12.345678] up\r\n";

    #[test]
    fn time_stamps_are_told_as_early_as_possible() {
        for (line, expected) in [
            ("[", Stamp::Maybe),
            ("[    0", Stamp::Maybe),
            ("[    0.", Stamp::Maybe),
            ("[12345.123456", Stamp::Maybe),
            ("[1234567890", Stamp::Maybe),
            ("[    0.000000]", Stamp::Yes),
            ("[    0.000000] text", Stamp::Yes),
            ("[root@host ~]# ", Stamp::No),
            ("[  OK  ]", Stamp::No),
            ("[    0.0000000]", Stamp::No),
            ("[    0.00]", Stamp::No),
            ("[.", Stamp::No),
            ("[1.1.1", Stamp::No),
            ("[12345678901", Stamp::No),
            ("[    ", Stamp::Maybe),
            ("[     ", Stamp::No),
            ("[     0.000000]", Stamp::No),
            ("[\t0.000000]", Stamp::No),
            ("[\r", Stamp::No),
            ("login: ", Stamp::No),
        ] {
            assert_eq!(stamp(line.as_bytes()), expected, "{line:?}");
        }
    }

    /// What could still become a time stamp is held back, and no guest can have that grow.
    #[test]
    fn little_is_held_back_whatever_the_guest_prints() {
        let lines: [&[u8]; 6] = [
            b"[                                          ",
            b"[\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t",
            b"[99999999999999999999999999999999999999999",
            b"[    0.99999999999999999999999999999999999",
            b"[    0.000000] and on and on and on and on",
            b"\r\r\r\r\r\r\r\r[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        ];
        for line in lines {
            let terminal = Terminal::new(usize::MAX);
            let mut merged = Merged::new(terminal.clone());
            let stream = merged.stream().unwrap();
            stream.write(line);
            let last = [*line.last().unwrap(); 100];
            for _ in 0..100 {
                stream.write(&last);
            }
            let printed = line.len() + 100 * last.len();
            let held = printed - terminal.text().len();
            assert!(held <= LONGEST, "{held} bytes: {}", line.escape_ascii());
        }
    }

    #[test]
    fn a_log_that_comes_twice_is_shown_once() {
        let terminal = Terminal::new(usize::MAX);
        let mut merged = Merged::new(terminal.clone());
        let (serial, virtio) = (merged.stream().unwrap(), merged.stream().unwrap());
        for byte in LOG.bytes() {
            serial.write(&[byte]);
        }
        serial.write(b"Loading, please wait...\r\n");
        // A console that comes late has the log from the beginning, in small pieces.
        for piece in LOG.as_bytes().chunks(16) {
            assert_eq!(virtio.try_write(piece), piece.len());
        }
        virtio.try_write(b"[   13.000000] next\r\n");
        serial.write(b"[   13.000000] next\r\n(initramfs) ");
        virtio.try_write(b"login: ");
        let expected =
            format!("{LOG}Loading, please wait...\r\n[   13.000000] next\r\n(initramfs) login: ");
        assert_eq!(terminal.text(), expected);
        // Who asks for the log gets it.
        virtio.try_write(LOG.as_bytes());
        assert_eq!(
            terminal.text(),
            format!("{expected}\r\n").replace("login: \r\n", "login: ") + LOG
        );
    }

    #[test]
    fn nothing_is_lost_of_what_one_console_alone_prints() {
        let terminal = Terminal::new(usize::MAX);
        let mut merged = Merged::new(terminal.clone());
        let (serial, virtio) = (merged.stream().unwrap(), merged.stream().unwrap());
        virtio.try_write(b"login: ");
        serial.write(LOG.as_bytes());
        let long = format!("[    1.000000] {}", "x".repeat(3 * LONGEST));
        serial.write(long.as_bytes());
        serial.write(b"\n[    2.000000] cut off");
        merged.release();
        assert_eq!(
            terminal.text(),
            format!("login: {LOG}{long}\n[    2.000000] cut off")
        );
    }

    /// A stamp counts at the start of a line alone, and who asks for the log again gets it as often.
    #[test]
    fn a_line_of_the_log_inside_of_another_is_text() {
        for by_byte in [false, true] {
            let terminal = Terminal::new(usize::MAX);
            let mut merged = Merged::new(terminal.clone());
            let (serial, virtio) = (merged.stream().unwrap(), merged.stream().unwrap());
            let print = |stream: &Arc<dyn OutputSink>, text: &str| match by_byte {
                false => stream.write(text.as_bytes()),
                true => text.bytes().for_each(|byte| stream.write(&[byte])),
            };
            print(&serial, LOG);
            let quoted = LOG.replace("[ ", "quoted: [ ");
            print(&virtio, &quoted);
            assert_eq!(terminal.text(), format!("{LOG}{quoted}"));
            // What stands behind a prompt comes at once, also if it could become a stamp.
            print(&virtio, "# [");
            assert_eq!(terminal.text(), format!("{LOG}{quoted}# ["));
            print(&virtio, "\n");
            for _ in 0..3 {
                print(&serial, LOG);
            }
            assert_eq!(
                terminal.text(),
                format!("{LOG}{quoted}# [\n{LOG}{LOG}{LOG}")
            );
        }
    }

    #[test]
    fn a_line_is_waited_for_up_to_the_longest_one() {
        let terminal = Terminal::new(usize::MAX);
        let mut merged = Merged::new(terminal.clone());
        let (serial, virtio) = (merged.stream().unwrap(), merged.stream().unwrap());
        let mut long = "[    1.000000] ".to_owned();
        long.extend(std::iter::repeat_n('x', LONGEST - long.len() - 1));
        serial.write(long.as_bytes());
        assert_eq!(terminal.text(), "");
        serial.write(b"x");
        long.push('x');
        assert_eq!(terminal.text(), long);
        // It is no line of the log any more, and nobody's is dropped for it.
        serial.write(b"\n");
        virtio.write(long.as_bytes());
        assert_eq!(terminal.text(), format!("{long}\n{long}"));
    }

    #[test]
    fn a_full_output_takes_no_more() {
        let terminal = Terminal::new(2);
        let mut merged = Merged::new(terminal.clone());
        let stream = merged.stream().unwrap();
        assert_eq!(stream.try_write(b""), 0);
        assert_eq!(
            stream.try_write(b"abcd"),
            3,
            "the last one counts when it is out"
        );
        for _ in 0..3 {
            assert_eq!(stream.try_write(b"d"), 0);
            assert_eq!(stream.try_write(b""), 0);
        }
        assert_eq!(terminal.text(), "ab");
        *lock(&terminal.room) = 2;
        assert_eq!(stream.try_write(b"d"), 1);
        assert_eq!(terminal.text(), "abcd");
    }

    /// Lines of each console are told from those of the others.
    #[test]
    fn each_of_many_consoles_may_print_its_log_again() {
        let terminal = Terminal::new(usize::MAX);
        let mut merged = Merged::new(terminal.clone());
        let streams: Vec<_> = std::iter::from_fn(|| merged.stream()).collect();
        for stream in &streams {
            stream.write(LOG.as_bytes());
        }
        assert_eq!(terminal.text(), LOG);
        for stream in &streams {
            stream.write(LOG.as_bytes());
        }
        assert_eq!(terminal.text(), LOG.repeat(1 + streams.len()));
    }

    #[test]
    fn what_waits_at_a_restart_is_shown() {
        let terminal = Terminal::new(usize::MAX);
        let mut merged = Merged::new(terminal.clone());
        let serial = merged.stream().unwrap();
        serial.write(b"[    1.000000] reboot: Restarting");
        merged.restart();
        assert_eq!(terminal.text(), "[    1.000000] reboot: Restarting");
    }

    #[test]
    fn guest_memory_and_the_room_event_go_through() {
        use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
        let (mut reader, writer) = std::io::pipe().unwrap();
        let _watch = watch();
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let output = Arc::new(OutputThread::spawn(file, "test").unwrap());
        let mut merged = Merged::new(output.clone());
        let stream = merged.stream().unwrap();
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        stream.set_room_event(Arc::clone(&event));
        until(|| stream.try_write(&[b'y'; 4096]) == 0);
        let memory = crate::virtio::testing::memory();
        let address = GuestAddress(crate::virtio::testing::DATA);
        memory.write_slice(&[b'x'; 10_000], address).unwrap();
        let read = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut all).unwrap();
            all
        });
        until(|| event.read().is_ok());
        stream.write_memory(&memory.get_slice(address, 10_000).unwrap());
        assert!(output.close(hv_test_limit::LIMIT));
        drop((stream, merged, output));
        let all = join(read);
        let end = all.iter().rev().take_while(|byte| **byte == b'x').count();
        assert_eq!(end, 10_000);
    }

    #[test]
    fn each_boot_has_its_own_log() {
        let terminal = Terminal::new(usize::MAX);
        let mut merged = Merged::new(terminal.clone());
        let (serial, virtio) = (merged.stream().unwrap(), merged.stream().unwrap());
        serial.write(LOG.as_bytes());
        virtio.write(b"[   13.000000] cut");
        merged.restart();
        virtio.try_write(LOG.as_bytes());
        assert_eq!(terminal.text(), [LOG, "[   13.000000] cut", LOG].concat());
    }

    #[test]
    fn a_slow_output_loses_and_doubles_nothing() {
        for room in 1..70 {
            let terminal = Terminal::new(room);
            let mut merged = Merged::new(terminal.clone());
            let virtio = merged.stream().unwrap();
            let text = format!("{LOG}login: root\r\n{LOG}# ");
            let mut rest = text.as_bytes();
            until(|| {
                let taken = virtio.try_write(&rest[..rest.len().min(23)]);
                rest = &rest[taken..];
                *lock(&terminal.room) = room;
                rest.is_empty()
            });
            assert_eq!(terminal.text(), text, "{room}");
        }
    }

    /// What is passed on while there is little room comes in pieces, and no byte of it twice: a device counts one byte only
    /// once everything has gone out.
    #[test]
    fn what_is_released_is_complete() {
        for room in 0..40 {
            let terminal = Terminal::new(room);
            let mut merged = Merged::new(terminal.clone());
            let virtio = merged.stream().unwrap();
            let text = format!("{LOG}login: root\r\n[    3.000000] cut");
            let mut rest = text.as_bytes();
            for _ in 0..4 {
                let taken = virtio.try_write(&rest[..rest.len().min(23)]);
                rest = &rest[taken..];
                merged.release();
                *lock(&terminal.room) = room;
            }
            *lock(&terminal.room) = usize::MAX;
            while !rest.is_empty() {
                rest = &rest[virtio.try_write(rest)..];
            }
            assert!(merged.release());
            assert_eq!(terminal.text(), text, "{room}");
        }
    }

    /// A guest ends, or is stopped, in the middle of a line and of a buffer.
    #[test]
    fn a_release_into_a_slow_output_loses_and_doubles_nothing() {
        for room in 0..70 {
            let terminal = Terminal::new(room);
            let mut merged = Merged::new(terminal.clone());
            let virtio = merged.stream().unwrap();
            let text = format!("{LOG}login: root\r\n{LOG}# [   99.000000] cut");
            let mut rest = text.as_bytes();
            let mut rounds = 0;
            while !rest.is_empty() {
                let taken = virtio.try_write(&rest[..rest.len().min(23)]);
                rest = &rest[taken..];
                let all = merged.release();
                assert_eq!(all, lock(&merged.streams[0].state).ready.is_empty());
                *lock(&terminal.room) = room + 1;
                rounds += 1;
                assert!(rounds < 10_000, "room {room}");
            }
            while !merged.release() {
                *lock(&terminal.room) = 1;
            }
            assert_eq!(terminal.text(), text, "{room}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut shown = Shown::default();
        for number in 0..2 * REMEMBERED {
            assert!(shown.is_new(format!("{number}").as_bytes(), 1));
        }
        assert_eq!(
            (shown.by.len(), shown.order.len()),
            (REMEMBERED, REMEMBERED)
        );
        let mut merged = Merged::new(Terminal::new(0));
        assert_eq!((0..20).filter_map(|_| merged.stream()).count(), MAX_STREAMS);
    }

    /// A reader who does not read keeps the other consoles from nothing.
    #[test]
    fn one_console_does_not_wait_for_another() {
        let _watch = watch();
        let (_reader, writer) = std::io::pipe().unwrap();
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let output = Arc::new(OutputThread::spawn(file, "test").unwrap());
        let mut merged = Merged::new(output.clone());
        let (serial, virtio) = (merged.stream().unwrap(), merged.stream().unwrap());
        let waiting = std::thread::spawn(move || serial.write(&[b'x'; 1 << 20]));
        until(|| virtio.try_write(b"y") == 0);
        merged.release();
        output.close(Duration::ZERO);
        join(waiting);
    }
}
