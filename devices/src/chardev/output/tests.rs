//! Everything comes out, once and in order, whoever reads it and whatever fails.

use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use hv_test_limit::{LIMIT as LONG, join, until, watch, within};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::borrowed;
use crate::memory::GuestMemoryMmap;

fn spawn(writer: PipeWriter) -> OutputThread {
    OutputThread::spawn(File::from(OwnedFd::from(writer)), "test").unwrap()
}

fn piped() -> (PipeReader, OutputThread) {
    let (reader, writer) = pipe().unwrap();
    (reader, spawn(writer))
}

/// Reads so many bytes, which come.
fn read_exactly(reader: &mut PipeReader, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut done = 0;
    while done < count {
        wait_readable(reader);
        let more = reader.read(&mut bytes[done..]).unwrap();
        assert!(more > 0, "it has ended after {done} bytes");
        done += more;
    }
    bytes
}

fn wait_readable(file: &impl AsFd) {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(LONG).unwrap();
    assert_eq!(poll(&mut fds, limit), Ok(1), "nothing came");
}

#[test]
fn everything_comes_out_in_order() {
    let _watch = watch();
    let (mut reader, output) = piped();
    let expected: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let read = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    for (n, chunk) in expected.chunks(997).enumerate() {
        if n % 2 == 0 {
            output.write(chunk);
        } else {
            chunk.iter().for_each(|byte| output.write(&[*byte]));
        }
    }
    assert!(output.flush(LONG));
    assert!(output.close(LONG));
    output.write(b"dropped after close");
    assert_eq!(join(read), expected);
}

#[test]
fn a_non_blocking_descriptor_loses_nothing() {
    let _watch = watch();
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (mut reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let output = spawn(writer);
    let read = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    let expected = vec![b'x'; 1 << 20];
    output.write(&expected);
    assert!(output.close(LONG));
    assert_eq!(join(read), expected);
}

#[test]
fn a_reader_that_went_away_costs_output_not_the_guest() {
    let _watch = watch();
    let (reader, output) = piped();
    drop(reader);
    output.write(&vec![b'x'; 4 * CAPACITY]);
    assert!(output.close(LONG));
    assert_eq!(output.lost(), None);
}

#[test]
fn a_terminal_that_hung_up_is_no_error() {
    let _watch = watch();
    let terminal = nix::pty::openpty(None, None).unwrap();
    drop(terminal.master);
    let output = OutputThread::spawn(File::from(terminal.slave), "test").unwrap();
    output.write(b"nobody reads this");
    assert!(output.close(LONG));
    assert_eq!(output.lost(), None);
}

#[test]
fn who_does_not_wait_is_told_when_there_is_room() {
    let _watch = watch();
    let (reader, output) = piped();
    let mut reader = Some(reader);
    let room = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    output.set_room_event(Arc::clone(&room));
    // Far more than the pipe, the batch and the buffer hold; the reader begins when that has shown.
    let expected: Vec<u8> = (0..4 << 20_u32).map(|n| (n % 251) as u8).collect();
    let mut reading = None;
    let mut rest = expected.as_slice();
    loop {
        rest = &rest[output.try_write(rest)..];
        if rest.is_empty() {
            break;
        }
        if let Some(mut reader) = reader.take() {
            reading = Some(std::thread::spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).unwrap();
                all
            }));
        }
        wait_readable(&borrowed(&room));
        room.read().unwrap();
    }
    assert!(output.close(LONG));
    assert_eq!(output.try_write(b"dropped"), 7);
    drop(output);
    assert!(join(reading.expect("it was never full")) == expected);
}

#[test]
fn a_stuck_reader_blocks_the_writer_until_close() {
    let _watch = watch();
    let (reader, output) = piped();
    let output = Arc::new(output);
    // More than a pipe holds (64 KiB), less than the pipe, the batch and the buffer together.
    output.write(&vec![b'x'; 100 << 10]);
    assert!(!output.flush(Duration::from_millis(10)));
    let writer = std::thread::spawn({
        let output = Arc::clone(&output);
        // More than all three hold, so this cannot return while nobody reads.
        move || output.write(&vec![b'x'; 4 << 20])
    });
    assert!(!output.close(Duration::from_millis(10)));
    join(writer);
    drop(reader);
}

#[test]
fn a_lossy_output_waits_for_nobody() {
    let _watch = watch();
    let (mut reader, output) = piped();
    let output = Arc::new(output);
    let writer = std::thread::spawn({
        let output = Arc::clone(&output);
        move || output.write(&vec![b'x'; 4 << 20])
    });
    until(|| !output.flush(Duration::from_millis(10)));
    output.set_lossy(true);
    join(writer);
    output.write(&vec![b'x'; 4 << 20]);
    assert_eq!(output.try_write(&vec![b'x'; 4 << 20]), 4 << 20);
    let read = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all.len()
    });
    assert!(output.flush(LONG));
    output.set_lossy(false);
    output.write(&vec![b'x'; 1 << 20]);
    assert!(output.close(LONG));
    drop(output);
    let read = join(read);
    assert!((1 << 20..2 << 20).contains(&read), "{read}");
}

/// Who has been given all the room there was is not told of more.
#[test]
fn room_is_told_of_only_when_there_was_too_little() {
    let _watch = watch();
    let (mut reader, output) = piped();
    let room = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    output.set_room_event(Arc::clone(&room));
    assert_eq!(output.try_write(b"text"), 4);
    assert!(output.flush(LONG));
    assert!(room.read().is_err());
    assert_eq!(read_exactly(&mut reader, 4), b"text");
    assert_eq!(output.try_write(b""), 0);
    assert!(output.close(LONG));
    assert!(room.read().is_err());
}

#[test]
fn a_dropped_output_ends_what_it_writes_to() {
    let _watch = watch();
    let (mut reader, output) = piped();
    output.write(b"text");
    assert!(output.flush(LONG));
    drop(output);
    let all = within(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    assert_eq!(all, b"text");
}

#[test]
fn an_output_that_is_none_takes_everything() {
    use crate::chardev::Nowhere;
    assert_eq!(Nowhere.try_write(b""), 0);
    assert_eq!(Nowhere.try_write(&[b'x'; 1 << 20]), 1 << 20);
}

#[test]
fn messages_say_whose_output_it_is_and_where_it_should_go() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let named = OutputThread::spawn(full, "serial port").unwrap();
    let error = io::Error::from_raw_os_error(libc::ENOSPC);
    assert_eq!(
        named.shared.fails(&error),
        "the serial port's output cannot be written to /dev/full: No space left on device (os error 28); trying again every second, \
         dropping what exceeds 64 KiB"
    );
    assert_eq!(
        named.shared.recovered(7),
        "the serial port's output can be written to /dev/full again; 7 bytes of it were lost"
    );
    let (_reader, unnamed) = piped();
    assert_eq!(
        unnamed.shared.recovered(0),
        "the test's output can be written again; 0 bytes of it were lost"
    );
}

/// Guest memory with these bytes.
fn memory(bytes: &[u8]) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes.len())]).unwrap();
    memory.write_slice(bytes, GuestAddress(0)).unwrap();
    memory
}

/// Writes pieces of all sizes in every way there is, and answers what has to come out.
fn write_all_sorts(output: &OutputThread) -> Vec<u8> {
    let text: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let memory = memory(&text);
    let mut position = 0;
    for count in (1..).map(|n: usize| n * n * n) {
        let Some(piece) = text.get(position..position + count) else {
            break;
        };
        let address = GuestAddress(position as u64);
        match count % 3 {
            0 => output.write(piece),
            1 => output.write_memory(&memory.get_slice(address, count).unwrap()),
            _ => {
                let mut rest = piece;
                until(|| {
                    rest = &rest[output.try_write(rest)..];
                    rest.is_empty()
                });
            }
        }
        position += count;
    }
    text[..position].to_vec()
}

#[test]
fn guest_memory_comes_out_between_what_is_before_and_behind_it() {
    let _watch = watch();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("output");
    let output = OutputThread::spawn(File::create(&path).unwrap(), "test").unwrap();
    let expected = write_all_sorts(&output);
    assert!(expected.len() > 2 * CAPACITY);
    assert!(output.close(LONG));
    assert!(std::fs::read(&path).unwrap() == expected);

    let (mut reader, output) = piped();
    let read = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    let expected = write_all_sorts(&output);
    assert!(output.close(LONG));
    drop(output);
    assert!(join(read) == expected);
}

#[test]
fn several_writers_of_guest_memory_take_turns() {
    let _watch = watch();
    const PIECES: usize = 20;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("output");
    let output = OutputThread::spawn(File::create(&path).unwrap(), "test").unwrap();
    std::thread::scope(|scope| {
        for writer in 1..=4 {
            let output = &output;
            scope.spawn(move || {
                let memory = memory(&[writer; CAPACITY]);
                let all = memory.get_slice(GuestAddress(0), CAPACITY).unwrap();
                for _ in 0..PIECES {
                    output.write(&[0]);
                    output.write_memory(&all);
                }
            });
        }
    });
    assert!(output.close(LONG));
    let text = std::fs::read(&path).unwrap();
    let mut rest = text.as_slice();
    let mut pieces = [0; 5];
    while let [writer, ..] = *rest {
        let length = if writer == 0 { 1 } else { CAPACITY };
        assert!(rest[..length].iter().all(|byte| *byte == writer));
        pieces[usize::from(writer)] += 1;
        rest = &rest[length..];
    }
    assert_eq!(pieces, [4 * PIECES, PIECES, PIECES, PIECES, PIECES]);
}

#[test]
fn a_file_that_cannot_be_written_costs_output_not_the_guest() {
    let _watch = watch();
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = OutputThread::spawn(File::open(file.path()).unwrap(), "test port").unwrap();
    let memory = memory(&[b'x'; CAPACITY]);
    let all = memory.get_slice(GuestAddress(0), CAPACITY).unwrap();
    for _ in 0..4 {
        output.write_memory(&all);
        output.write(&[b'x'; CAPACITY]);
    }
    assert!(output.close(LONG));
    output.write_memory(&all);
    let lost = output.lost().unwrap();
    assert_eq!(lost.bytes, 8 * CAPACITY as u64);
    let text = lost.to_string();
    assert!(text.contains("test port's output"), "{text}");
    assert!(text.contains(file.path().to_str().unwrap()), "{text}");
}

/// A file system with this much room.
#[derive(Clone, Default)]
struct Storage(Arc<Mutex<(Vec<u8>, usize)>>, Arc<AtomicUsize>);

impl Storage {
    fn give_room(&self, bytes: usize) {
        self.0.lock().unwrap().1 += bytes;
    }

    fn written(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    /// How many times it was written to, with success or without.
    fn tries(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

impl Outlet for Storage {
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let mut storage = self.0.lock().unwrap();
        let count = storage.1.min(bytes.len());
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        storage.1 -= count;
        storage.0.extend(&bytes[..count]);
        Ok(count)
    }
}

/// Output that is tried again when somebody asks how it stands, and not by itself.
fn stored() -> (Storage, OutputThread) {
    let storage = Storage::default();
    let times = Times {
        retry: NEVER,
        ..Times::default()
    };
    let output = OutputThread::with_times(storage.clone(), "test", times).unwrap();
    (storage, output)
}

const NEVER: Duration = Duration::from_secs(1 << 30);

/// Output that gathers until there is a reason not to.
fn gathering(outlet: impl Outlet) -> OutputThread {
    let times = Times {
        gather: NEVER,
        ..Times::default()
    };
    OutputThread::with_times(outlet, "test", times).unwrap()
}

#[test]
fn output_gathers_until_it_is_enough_or_somebody_waits_for_it() {
    let (gate, outlet) = gated(None);
    let output = gathering(outlet);
    let entered = || gate.entered.recv_timeout(LONG).unwrap();
    let leave = || gate.leave.send(Ok(())).unwrap();
    let piece = |from: usize, to: usize| (from..to).map(|n| (n % 251) as u8).collect::<Vec<_>>();
    // In whatever pieces it comes: it goes out as one, with the byte that makes it enough.
    for n in 1..GATHER_LIMIT {
        output.write(&piece(n - 1, n));
    }
    let nothing = gate.entered.recv_timeout(Duration::from_millis(20));
    assert!(nothing.is_err(), "it is not enough");
    output.write(&piece(GATHER_LIMIT - 1, GATHER_LIMIT));
    assert!(entered() == piece(0, GATHER_LIMIT));
    // More than enough came meanwhile.
    output.write(&piece(0, GATHER_LIMIT + 7));
    leave();
    assert!(entered() == piece(0, GATHER_LIMIT + 7));
    leave();
    output.write(b"flushed");
    std::thread::scope(|scope| {
        scope.spawn(|| output.flush(LONG));
        assert_eq!(entered(), b"flushed");
        leave();
    });
    // Guest memory as well, unless it is a large piece.
    let guest = memory(b"closed");
    output.write_memory(&guest.get_slice(GuestAddress(0), 6).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| output.close(LONG));
        assert_eq!(entered(), b"closed");
        leave();
    });
}

/// A small piece of guest memory is worth no system call of its own.
#[test]
fn a_small_piece_of_guest_memory_gathers() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = gathering(file.reopen().unwrap());
    let guest = memory(&[b'x'; GATHER_LIMIT]);
    let piece = |count| guest.get_slice(GuestAddress(0), count).unwrap();
    output.write_memory(&piece(GATHER_LIMIT - 1));
    assert_eq!(file.path().metadata().unwrap().len(), 0);
    output.write_memory(&piece(GATHER_LIMIT));
    let length = file.path().metadata().unwrap().len();
    assert_eq!(length, 2 * GATHER_LIMIT as u64 - 1, "written by its caller");
    assert!(output.close(LONG));
}

/// The thread leaves the file alone while somebody else writes to it, also if it woke to write.
#[test]
fn the_thread_waits_for_a_large_piece_that_it_did_not_see_begin() {
    let (mut reader, writer) = pipe().unwrap();
    let (gate, outlet) = gated(Some(File::from(OwnedFd::from(writer))));
    let output = Arc::new(gathering(outlet));
    output.write(b"x");
    until(|| !lock(&output.shared.state).idle);
    let large = std::thread::spawn({
        let output = Arc::clone(&output);
        move || {
            // More than a pipe holds.
            let guest = memory(&[b'x'; 4 * CAPACITY]);
            output.write_memory(&guest.get_slice(GuestAddress(0), 4 * CAPACITY).unwrap());
        }
    });
    read_exactly(&mut reader, 1);
    output.write(b"behind");
    assert!(!output.flush(Duration::from_millis(20)));
    assert!(gate.entered.try_recv().is_err(), "it is not its turn");
    read_exactly(&mut reader, 4 * CAPACITY);
    join(large);
    drop(gate);
    assert!(output.close(LONG));
    assert_eq!(read_exactly(&mut reader, 6), b"behind");
}

#[test]
fn what_a_full_disk_left_goes_out_once_there_is_room() {
    let _watch = watch();
    let (storage, output) = stored();
    let text: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    storage.give_room(10);
    output.write(&text[..100]);
    assert!(output.flush(LONG), "not waited for");
    assert_eq!(storage.written(), text[..10]);
    for written in 11..=50 {
        storage.give_room(1);
        assert!(output.flush(LONG));
        assert_eq!(storage.written(), text[..written]);
    }
    // What fits, and once in vain, for each time that somebody asked.
    assert_eq!(storage.tries(), 2 * 41);
    output.write(&text[100..1000]);
    storage.give_room(usize::MAX / 2);
    assert!(output.flush(LONG));
    until(|| {
        assert!(output.flush(LONG));
        storage.written().len() >= 1000
    });
    output.write(&text[1000..]);
    assert!(output.close(LONG));
    assert!(storage.written() == text);
    assert_eq!(output.lost(), None);
}

#[test]
fn a_full_disk_is_tried_again_by_itself() {
    let _watch = watch();
    let storage = Storage::default();
    let times = Times {
        retry: Duration::from_millis(1),
        ..Times::default()
    };
    let output = OutputThread::with_times(storage.clone(), "test", times).unwrap();
    output.write(b"text");
    assert!(output.flush(LONG));
    storage.give_room(4);
    until(|| storage.written() == b"text");
}

/// As the event loop does that has what is held back go out.
#[test]
fn who_has_nothing_to_write_takes_nobodys_event() {
    let (gate, outlet) = gated(None);
    let output = OutputThread::spawn(outlet, "test").unwrap();
    let room = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    output.set_room_event(Arc::clone(&room));
    output.write(b"x");
    gate.entered.recv_timeout(LONG).unwrap();
    while output.try_write(b"x") > 0 {}
    assert_eq!(output.try_write(b""), 0);
    gate.leave.send(Ok(())).unwrap();
    wait_readable(&borrowed(&room));
}

#[test]
fn a_full_disk_holds_up_nobody_and_what_is_lost_is_counted() {
    let _watch = watch();
    let (storage, output) = stored();
    let room = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    output.set_room_event(Arc::clone(&room));
    let text: Vec<u8> = (0..4 << 20_u32).map(|n| (n % 251) as u8).collect();
    output.write(&text[..100]);
    assert!(output.flush(LONG));
    // Of the first kind is kept what the buffer takes, of the other kinds nothing more.
    output.write(&text[100..2 << 20]);
    assert_eq!(output.try_write(&text[..10]), 10);
    let guest = memory(&text[..CAPACITY]);
    output.write_memory(&guest.get_slice(GuestAddress(0), CAPACITY).unwrap());
    let lost = (2 << 20) - 100 - CAPACITY + 10 + CAPACITY;
    assert_eq!(output.lost().unwrap().bytes, lost as u64);
    storage.give_room(usize::MAX / 2);
    until(|| {
        assert!(output.flush(LONG));
        storage.written().len() >= 100 + CAPACITY
    });
    output.write(b"and now");
    assert!(output.close(LONG));
    let written = storage.written();
    let (before, after) = written.split_at(100 + CAPACITY);
    assert!(before == &text[..100 + CAPACITY]);
    assert_eq!(after, b"and now");
    assert_eq!(output.lost().unwrap().bytes, lost as u64);
}

#[test]
fn writers_that_wait_are_let_go_when_the_disk_is_full() {
    let _watch = watch();
    let (gate, outlet) = gated(None);
    let output = Arc::new(OutputThread::spawn(outlet, "test").unwrap());
    output.write(b"x");
    gate.entered.recv_timeout(LONG).unwrap();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn({
        let output = Arc::clone(&output);
        move || {
            output.write(&vec![b'x'; 2 * CAPACITY]);
            done.send(()).unwrap();
        }
    });
    until(|| output.try_write(b"x") == 0);
    let full = io::Error::from_raw_os_error(libc::ENOSPC);
    gate.leave.send(Err(full)).unwrap();
    ended.recv_timeout(LONG).unwrap();
}

#[test]
fn what_a_full_disk_left_at_the_end_is_lost() {
    let _watch = watch();
    let (storage, output) = stored();
    output.write(&[b'x'; 100]);
    assert!(output.flush(LONG));
    output.write(&[b'x'; 100]);
    assert_eq!(output.lost(), None, "not yet");
    storage.give_room(30);
    assert!(output.close(LONG));
    assert_eq!(storage.written().len(), 30);
    let lost = output.lost().unwrap();
    assert_eq!(lost.bytes, 170);
    assert_eq!(lost.target, None, "it has no name");
    assert!(lost.reason.contains("No space left"), "{lost}");
}

#[test]
fn guest_memory_that_a_full_disk_left_is_kept_in_order() {
    let _watch = watch();
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    const SIZE: usize = 5 * 4096;
    let file = memfd_create("output", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let file = File::from(file);
    file.set_len(SIZE as u64).unwrap();
    // From now on there is no room behind its end.
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
    let output = OutputThread::spawn(file.try_clone().unwrap(), "test").unwrap();
    let text: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let guest = memory(&text);
    output.write(&text[..100]);
    let all = guest.get_slice(GuestAddress(100), text.len() - 100);
    output.write_memory(&all.unwrap());
    assert!(output.close(LONG));
    assert_eq!(output.lost().unwrap().bytes, (text.len() - SIZE) as u64);
    let mut written = vec![0; SIZE];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut written, 0).unwrap();
    assert!(written == text[..SIZE]);
}

#[test]
fn a_full_device_is_named() {
    let _watch = watch();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = OutputThread::spawn(full, "serial port").unwrap();
    output.write(b"text");
    assert!(output.flush(LONG) && output.close(LONG));
    assert_eq!(
        output.lost().unwrap().to_string(),
        "4 bytes of the serial port's output were not written to /dev/full: No space left on device (os error 28)"
    );
}

/// An outlet whose writes say that they have begun, and then wait to be told how they end.
struct Gated {
    file: Option<File>,
    begin: std::sync::mpsc::Sender<Vec<u8>>,
    end: std::sync::mpsc::Receiver<io::Result<()>>,
}

struct Gate {
    entered: std::sync::mpsc::Receiver<Vec<u8>>,
    leave: std::sync::mpsc::Sender<io::Result<()>>,
}

fn gated(file: Option<File>) -> (Gate, Gated) {
    let (begin, entered) = std::sync::mpsc::channel();
    let (leave, end) = std::sync::mpsc::channel();
    (Gate { entered, leave }, Gated { file, begin, end })
}

impl Outlet for Gated {
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.begin.send(bytes.to_vec());
        self.end.recv().unwrap_or(Ok(()))?;
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn file(&self) -> Option<File> {
        self.file.as_ref().map(|file| file.try_clone().unwrap())
    }
}

#[test]
fn guest_memory_waits_for_a_write_before_it() {
    let _watch = watch();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (gate, outlet) = gated(Some(file.reopen().unwrap()));
    let output = Arc::new(OutputThread::spawn(outlet, "test").unwrap());
    output.write(b"before");
    gate.entered.recv_timeout(LONG).unwrap();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn({
        let output = Arc::clone(&output);
        move || {
            let guest = memory(&[b'x'; CAPACITY]);
            output.write_memory(&guest.get_slice(GuestAddress(0), CAPACITY).unwrap());
            done.send(()).unwrap();
        }
    });
    // It waits, and has left the lock to others.
    assert!(!output.flush(Duration::from_millis(50)));
    assert_eq!(std::fs::read(file.path()).unwrap(), b"");
    gate.leave.send(Ok(())).unwrap();
    ended.recv_timeout(LONG).unwrap();
    drop(gate);
    assert!(output.close(LONG));
    let written = std::fs::read(file.path()).unwrap();
    assert!(written.starts_with(b"beforexxx"));
    assert_eq!(written.len(), 6 + CAPACITY);
    // Nothing comes behind the end.
    let guest = memory(&[b'x'; CAPACITY]);
    output.write_memory(&guest.get_slice(GuestAddress(0), CAPACITY).unwrap());
    assert_eq!(std::fs::read(file.path()).unwrap().len(), written.len());
}

#[test]
fn guest_memory_is_dropped_when_the_reader_has_gone() {
    let _watch = watch();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (gate, outlet) = gated(Some(file.reopen().unwrap()));
    let output = OutputThread::spawn(outlet, "test").unwrap();
    output.write(b"before");
    let gone = io::ErrorKind::BrokenPipe.into();
    gate.leave.send(Err(gone)).unwrap();
    assert!(output.flush(LONG));
    let guest = memory(&[b'x'; CAPACITY]);
    output.write_memory(&guest.get_slice(GuestAddress(0), CAPACITY).unwrap());
    assert_eq!(std::fs::read(file.path()).unwrap(), b"");
    assert_eq!(output.lost(), None);
}

/// What others bring while a large piece is on its way goes out behind it, without anybody asking for it.
#[test]
fn what_comes_during_a_large_piece_goes_out_behind_it() {
    let _watch = watch();
    let (mut reader, writer) = pipe().unwrap();
    let outlet = File::from(OwnedFd::from(writer));
    let other = outlet.try_clone().unwrap();
    let (gate, gated) = gated(Some(outlet));
    let output = Arc::new(OutputThread::spawn(gated, "test").unwrap());
    drop((gate, other));
    let large = std::thread::spawn({
        let output = Arc::clone(&output);
        move || {
            // More than a pipe holds.
            let guest = memory(&[b'x'; 4 * CAPACITY]);
            output.write_memory(&guest.get_slice(GuestAddress(0), 4 * CAPACITY).unwrap());
        }
    });
    read_exactly(&mut reader, 1);
    output.write(b"behind");
    // The thread sees that somebody else writes, and sleeps again.
    until(|| lock(&output.shared.state).idle);
    read_exactly(&mut reader, 4 * CAPACITY - 1);
    join(large);
    assert_eq!(read_exactly(&mut reader, 6), b"behind");
}

/// Who asks whether all is out hears of a large piece that is on its way, and asking changes nothing.
#[test]
fn guest_memory_on_its_way_is_waited_for() {
    let _watch = watch();
    let (mut reader, writer) = pipe().unwrap();
    let (_gate, outlet) = gated(Some(File::from(OwnedFd::from(writer))));
    let output = Arc::new(OutputThread::spawn(outlet, "test").unwrap());
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn({
        let output = Arc::clone(&output);
        move || {
            // More than a pipe holds.
            let guest = memory(&[b'x'; 4 * CAPACITY]);
            output.write_memory(&guest.get_slice(GuestAddress(0), 4 * CAPACITY).unwrap());
            done.send(()).unwrap();
        }
    });
    read_exactly(&mut reader, 1);
    assert!(!output.flush(Duration::from_millis(10)));
    assert_eq!(lock(&output.shared.state).flushing, 0);
    read_exactly(&mut reader, 4 * CAPACITY - 1);
    ended.recv_timeout(LONG).unwrap();
    assert!(output.flush(LONG));
    assert_eq!(lock(&output.shared.state).flushing, 0);
}
