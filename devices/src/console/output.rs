//! Console output through a bounded buffer that one thread empties.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::{VolatileMemoryError, VolatileSlice, WriteVolatile};
use vmm_sys_util::eventfd::EventFd;

use super::{ConsoleOutput, copy_memory};
use crate::lock;
use crate::thread::{self, Role};

/// What an [`OutputThread`] writes to.
pub trait Outlet: Send + 'static {
    /// Writes all of `bytes`, however long that takes.
    ///
    /// # Errors
    /// Nobody reads it any more, and nobody will: output is dropped from then on.
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Another descriptor of the file behind it, if that has no reader who could keep a writer waiting.
    fn file(&self) -> Option<File> {
        None
    }
}

/// Any file, pipe or terminal. The descriptor may be blocking or not; its flags are left as they are, because a
/// terminal shares them with other processes.
impl Outlet for File {
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_to(&*self, bytes)
    }

    fn file(&self) -> Option<File> {
        let is_file = self.metadata().is_ok_and(|metadata| metadata.is_file());
        is_file.then(|| self.try_clone().ok()).flatten()
    }
}

/// How much output may wait for a slow reader before the writing vCPU blocks, in bytes.
const CAPACITY: usize = 64 * 1024;

/// How long the thread lets output gather after the first byte. A UART hands over one byte at a time: waking a thread
/// and calling write(2) for each would cost more than the rest of the byte's path together. A reader at a terminal
/// does not notice a millisecond.
const GATHER: Duration = Duration::from_millis(1);

/// How many bytes end the gathering early.
const GATHER_LIMIT: usize = CAPACITY / 4;

/// Console output through a thread of its own, named `console-out`.
///
/// - [`ConsoleOutput::write`] stores into a bounded buffer and returns; it blocks only while the buffer is full, and
///   not then if the output is [lossy](Self::set_lossy).
/// - The thread writes what has gathered with one system call. If the reader has gone for good, output is dropped and
///   the guest runs on.
/// - A large piece of guest memory goes straight into a regular file, behind what has gathered: a copy and two changes of
///   threads would cost as much as its write.
/// - [`close`](Self::close) lets blocked writers go and never waits longer than it is told to.
///
/// Dropping it closes it without waiting for output that is still in the buffer.
pub struct OutputThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Set if whoever brings a large piece may write it.
    file: Option<File>,
    state: Mutex<State>,
    /// The thread waits here for bytes, or for a reason not to wait for more.
    work: Condvar,
    /// Writers wait here for room, and flush for the end of the output.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that the thread has not taken yet, at most `CAPACITY`.
    pending: Vec<u8>,
    /// Somebody is writing bytes that are no longer pending: the thread, or who has brought a large piece.
    writing: bool,
    /// The thread sleeps until someone notifies `work`.
    idle: bool,
    /// How many callers of flush wait: no gathering then.
    flushing: usize,
    /// The reader has gone: output is dropped.
    dead: bool,
    /// No more bytes are accepted; what is pending still goes out.
    closed: bool,
    /// What there is no room for is dropped.
    lossy: bool,
    /// The last try_write found no room for all it was given.
    starved: bool,
    /// Where to say that there is room again.
    room: Option<Arc<EventFd>>,
}

impl OutputThread {
    /// Starts the thread, which owns `outlet` from here on.
    ///
    /// # Errors
    /// If the host cannot start a thread.
    pub fn spawn(mut outlet: impl Outlet) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            file: outlet.file(),
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let thread = thread::spawn(Role::ConsoleOutput, {
            let shared = Arc::clone(&shared);
            move || shared.drain(&mut outlet)
        })?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits until everything written so far has gone out, at most for `timeout`. Returns whether nothing is left,
    /// which is also so when the reader has gone.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared.flush(timeout)
    }

    /// Whether bytes that there is no room for are dropped, instead of waited for. Writers that wait now are let go.
    pub fn set_lossy(&self, lossy: bool) {
        let mut state = lock(&self.shared.state);
        state.lossy = lossy;
        if lossy {
            self.shared.there_is_room(&mut state);
        }
    }

    /// Ends the output: from now on bytes are dropped and no writer blocks, those that are blocked included. Waits at
    /// most for `timeout` until what was written before has gone out, and returns whether it has. A thread that is
    /// stuck behind a reader who does not read is left behind; it ends with the process.
    pub fn close(&self, timeout: Duration) -> bool {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        self.shared.work.notify_one();
        self.shared.there_is_room(&mut state);
        drop(state);
        let flushed = self.shared.flush(timeout);
        if flushed && let Some(thread) = lock(&self.thread).take() {
            // The buffer is empty and no write(2) is under way, so the thread is about to return.
            let _ = thread.join();
        }
        flushed
    }
}

impl Drop for OutputThread {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl ConsoleOutput for OutputThread {
    fn write(&self, bytes: &[u8]) {
        self.shared.write(bytes);
    }

    fn write_memory(&self, memory: &VolatileSlice<'_>) {
        match &self.shared.file {
            Some(file) if memory.len() >= GATHER_LIMIT => self.shared.write_through(file, memory),
            _ => copy_memory(self, memory),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.shared.state);
        let taken = self.shared.store(&mut state, bytes);
        state.starved = taken < bytes.len();
        taken
    }

    fn set_room_event(&self, event: Arc<EventFd>) {
        lock(&self.shared.state).room = Some(event);
    }
}

impl State {
    fn drained(&self) -> bool {
        self.pending.is_empty() && !self.writing
    }
}

impl Shared {
    fn write(&self, mut bytes: &[u8]) {
        let mut state = lock(&self.state);
        while !bytes.is_empty() {
            let taken = self.store(&mut state, bytes);
            if taken == 0 {
                state = wait(&self.progress, state);
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Writes what has gathered, and this behind it. Waits for nothing but other writes to the same file.
    fn write_through(&self, mut file: &File, memory: &VolatileSlice<'_>) {
        let mut state = lock(&self.state);
        while state.writing {
            state = wait(&self.progress, state);
        }
        if state.dead || state.closed {
            return;
        }
        let gathered = std::mem::take(&mut state.pending);
        state.writing = true;
        self.there_is_room(&mut state);
        drop(state);

        let written = write_to(file, &gathered).and_then(|()| {
            file.write_all_volatile(memory)
                .map_err(|error| match error {
                    VolatileMemoryError::IOError(error) => error,
                    other => io::Error::other(other),
                })
        });

        let mut state = lock(&self.state);
        self.written(&mut state, written);
        if !state.pending.is_empty() {
            self.work.notify_one();
        }
    }

    /// A write has ended.
    fn written(&self, state: &mut State, result: io::Result<()>) {
        state.writing = false;
        if let Err(error) = result {
            // Not worth more than a debug line: `hvrun | head` ends like this.
            log::debug!("console output ends: {error}");
            state.dead = true;
            state.pending.clear();
            self.there_is_room(state);
        }
        self.progress.notify_all();
    }

    /// Takes what there is room for, and drops the rest if nobody is to wait for it. Returns how many bytes are dealt
    /// with.
    fn store(&self, state: &mut State, bytes: &[u8]) -> usize {
        if state.dead || state.closed {
            return bytes.len();
        }
        let room = CAPACITY.saturating_sub(state.pending.len());
        let (now, rest) = bytes.split_at(room.min(bytes.len()));
        let dropped = if state.lossy { rest.len() } else { 0 };
        if now.is_empty() {
            return dropped;
        }
        let before = state.pending.len();
        state.pending.extend_from_slice(now);
        let reached_limit = before < GATHER_LIMIT && state.pending.len() >= GATHER_LIMIT;
        if std::mem::take(&mut state.idle) || reached_limit {
            self.work.notify_one();
        }
        now.len().saturating_add(dropped)
    }

    fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = lock(&self.state);
        state.flushing = state.flushing.saturating_add(1);
        self.work.notify_one();
        while !state.drained() {
            let left =
                deadline.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            state = wait_timeout(&self.progress, state, left);
        }
        state.flushing = state.flushing.saturating_sub(1);
        state.drained()
    }

    /// Lets go on who waits for room.
    fn there_is_room(&self, state: &mut State) {
        self.progress.notify_all();
        if std::mem::take(&mut state.starved)
            && let Some(room) = &state.room
        {
            // It fails only if the counter overflows, and then the event is signalled already.
            let _ = room.write(1);
        }
    }

    /// The thread's body: until closed and empty.
    fn drain(&self, outlet: &mut impl Outlet) {
        // The two buffers swap places, so a steady stream allocates nothing.
        let mut batch = Vec::new();
        let mut state = lock(&self.state);
        loop {
            if state.pending.is_empty() && state.closed {
                return;
            }
            if state.pending.is_empty() || state.writing {
                state.idle = true;
                state = wait(&self.work, state);
                state.idle = false;
                continue;
            }
            if !state.closed && state.flushing == 0 && state.pending.len() < GATHER_LIMIT {
                // A wake-up before its time only makes this batch smaller.
                state = wait_timeout(&self.work, state, GATHER);
                if state.pending.is_empty() || state.writing {
                    // Meanwhile somebody else writes it.
                    continue;
                }
            }
            std::mem::swap(&mut batch, &mut state.pending);
            state.writing = true;
            self.there_is_room(&mut state);
            drop(state);

            let result = outlet.pass_on(&batch);
            batch.clear();

            state = lock(&self.state);
            self.written(&mut state, result);
        }
    }
}

/// Writes all of `bytes`. A non-blocking descriptor that takes nothing is waited for.
pub(super) fn write_to(mut output: impl Write + AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::NONE) {
                    // A hang-up ends the wait too; the next write then says so.
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait<'a>(condvar: &Condvar, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

fn wait_timeout<'a>(
    condvar: &Condvar,
    guard: MutexGuard<'a, State>,
    timeout: Duration,
) -> MutexGuard<'a, State> {
    condvar
        .wait_timeout(guard, timeout)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, pipe};
    use std::os::fd::OwnedFd;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

    use super::*;
    use crate::borrowed;

    /// Far longer than anything here takes; reaching it is a failure.
    const LONG: Duration = Duration::from_secs(60);

    fn spawn(writer: PipeWriter) -> OutputThread {
        OutputThread::spawn(File::from(OwnedFd::from(writer))).unwrap()
    }

    fn piped() -> (PipeReader, OutputThread) {
        let (reader, writer) = pipe().unwrap();
        (reader, spawn(writer))
    }

    #[test]
    fn everything_comes_out_in_order() {
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
        assert_eq!(read.join().unwrap(), expected);
    }

    #[test]
    fn a_non_blocking_descriptor_loses_nothing() {
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
        assert_eq!(read.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_that_went_away_costs_output_not_the_guest() {
        let (reader, output) = piped();
        drop(reader);
        output.write(&vec![b'x'; 4 * CAPACITY]);
        assert!(output.close(LONG));
    }

    #[test]
    fn who_does_not_wait_is_told_when_there_is_room() {
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
            let mut fds = [PollFd::new(borrowed(&room), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(60_000_u16)), Ok(1));
            room.read().unwrap();
        }
        assert!(output.close(LONG));
        assert_eq!(output.try_write(b"dropped"), 7);
        drop(output);
        assert!(reading.expect("it was never full").join().unwrap() == expected);
    }

    #[test]
    fn a_stuck_reader_blocks_the_writer_until_close() {
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
        writer.join().unwrap();
        drop(reader);
    }

    #[test]
    fn a_lossy_output_waits_for_nobody() {
        let (mut reader, output) = piped();
        let output = Arc::new(output);
        let writer = std::thread::spawn({
            let output = Arc::clone(&output);
            move || output.write(&vec![b'x'; 4 << 20])
        });
        while output.flush(Duration::from_millis(10)) {}
        output.set_lossy(true);
        writer.join().unwrap();
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
        let read = read.join().unwrap();
        assert!((1 << 20..2 << 20).contains(&read), "{read}");
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
                    while !rest.is_empty() {
                        rest = &rest[output.try_write(rest)..];
                    }
                }
            }
            position += count;
        }
        text[..position].to_vec()
    }

    #[test]
    fn guest_memory_comes_out_between_what_is_before_and_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output");
        let output = OutputThread::spawn(File::create(&path).unwrap()).unwrap();
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
        assert!(read.join().unwrap() == expected);
    }

    #[test]
    fn several_writers_of_guest_memory_take_turns() {
        const PIECES: usize = 20;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output");
        let output = OutputThread::spawn(File::create(&path).unwrap()).unwrap();
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
        let file = tempfile::NamedTempFile::new().unwrap();
        let output = OutputThread::spawn(File::open(file.path()).unwrap()).unwrap();
        let memory = memory(&[b'x'; CAPACITY]);
        let all = memory.get_slice(GuestAddress(0), CAPACITY).unwrap();
        for _ in 0..4 {
            output.write_memory(&all);
            output.write(&[b'x'; CAPACITY]);
        }
        assert!(output.close(LONG));
        output.write_memory(&all);
    }
}
