//! Console output through a bounded buffer that one thread empties.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::{VolatileMemoryError, WriteVolatile};

use super::{OutputSink, copy_memory};
use crate::lock;
use crate::memory::GuestSlice;
use crate::sync::{Condvar, EventFd, Instant, JoinHandle, Mutex, MutexGuard};
use crate::thread::{self, Role};

/// What an [`OutputThread`] writes to.
pub trait Outlet: Send + 'static {
    /// Writes some of `bytes`, of which there is at least one, however long that takes. Returns how many it was, or how
    /// many are nobody's concern because nobody is there.
    ///
    /// # Errors
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe): nobody reads it any more, and nobody will. Output is dropped from then
    /// on, without a word. Any other: none of `bytes` can be written now, and they come again later.
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Another descriptor of the file behind it, if that has no reader who could keep a writer waiting.
    fn file(&self) -> Option<File> {
        None
    }

    /// What people know it by, such as a path.
    fn name(&self) -> Option<String> {
        None
    }
}

/// Any file, pipe or terminal. The descriptor may be blocking or not; its flags are left as they are, because a
/// terminal shares them with other processes.
impl Outlet for File {
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_some(&*self, bytes).map_err(|error| {
            // A terminal that has hung up, which does not even say any more that it is one.
            let is_device = || {
                self.metadata()
                    .is_ok_and(|metadata| metadata.file_type().is_char_device())
            };
            if error.raw_os_error() == Some(libc::EIO) && is_device() {
                io::ErrorKind::BrokenPipe.into()
            } else {
                error
            }
        })
    }

    fn file(&self) -> Option<File> {
        let is_file = self.metadata().is_ok_and(|metadata| metadata.is_file());
        is_file.then(|| self.try_clone().ok()).flatten()
    }

    fn name(&self) -> Option<String> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.as_raw_fd())).ok()?;
        // Pipes and sockets have something else there.
        link.is_absolute().then(|| link.display().to_string())
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

/// How long after a failed write the next one is tried.
const RETRY: Duration = Duration::from_secs(1);

/// Console output through a thread of its own, named `console-out`.
///
/// - [`OutputSink::write`] stores into a bounded buffer and returns; it blocks only while the buffer is full, and
///   not then if the output is [lossy](Self::set_lossy).
/// - The thread writes what has gathered with one system call. If the reader has gone for good, output is dropped and
///   the guest runs on.
/// - A write that fails (a full file system, a limit, a broken disk) is logged once and tried again every second. What
///   was not written stays; what the buffer has no room for meanwhile is dropped and [counted](Self::lost), so that the
///   guest runs on.
/// - A large piece of guest memory goes straight into a regular file, behind what has gathered: a copy and two changes of
///   threads would cost as much as its write.
/// - [`close`](Self::close) lets blocked writers go and never waits longer than it is told to.
///
/// Dropping it closes it without waiting for output that is still in the buffer.
///
/// A process whose files may be limited in size (RLIMIT_FSIZE) has to ignore SIGXFSZ, or the signal ends it.
pub struct OutputThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Output that could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostOutput {
    /// Whose, such as `serial port`.
    pub console: String,
    /// Where it should have gone, if that has a name.
    pub target: Option<String>,
    /// How much, in bytes.
    pub bytes: u64,
    /// The host's reason.
    pub reason: String,
}

impl fmt::Display for LostOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LostOutput {
            console,
            target,
            bytes,
            reason,
        } = self;
        write!(
            f,
            "{bytes} bytes of the {console}'s output were not written"
        )?;
        if let Some(target) = target {
            write!(f, " to {target}")?;
        }
        write!(f, ": {reason}")
    }
}

/// What the thread waits for by the clock.
#[derive(Clone, Copy)]
struct Times {
    /// How long it lets output gather after the first byte.
    gather: Duration,
    /// How long after a failed write the next one is tried.
    retry: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            gather: GATHER,
            retry: RETRY,
        }
    }
}

struct Shared {
    times: Times,
    /// Whose output it is, for messages.
    console: String,
    /// Where it goes, for messages.
    target: Option<String>,
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
    /// What a write left that failed, at most `CAPACITY`. It comes before `pending`.
    kept: Vec<u8>,
    /// Bytes that the thread has not taken yet, at most `CAPACITY`.
    pending: Vec<u8>,
    /// Somebody is writing bytes that are no longer pending: the thread, or who has brought a large piece.
    writing: bool,
    /// When to try again, if the last write failed.
    failing: Option<Instant>,
    /// How many writes failed.
    failures: u64,
    /// Bytes that were dropped because writes failed.
    lost: u64,
    /// Why the last write that failed did.
    reason: String,
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
    /// A try_write found no room for all it was given, and there has been none since.
    starved: bool,
    /// Where to say that there is room again.
    room: Option<Arc<EventFd>>,
}

/// How a write ended that was to write everything.
enum Written {
    All,
    Failed(io::Error),
}

impl OutputThread {
    /// Starts the thread, which owns `outlet` from here on. `console` is whose output it is, such as `serial port`.
    ///
    /// # Errors
    /// If the host cannot start a thread.
    pub fn spawn(outlet: impl Outlet, console: impl Into<String>) -> io::Result<Self> {
        Self::with_times(outlet, console, Times::default())
    }

    /// The same with other times.
    fn with_times(
        mut outlet: impl Outlet,
        console: impl Into<String>,
        times: Times,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            times,
            console: console.into(),
            target: outlet.name(),
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

    /// Waits until everything written so far has gone out, at most for `timeout`. Returns whether there is nothing left to
    /// wait for, which is also so when the reader has gone, or another write has failed.
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
    /// most for `timeout` until what was written before has gone out, and returns whether there is nothing left to wait
    /// for. What then cannot be written is lost. A thread that is stuck behind a reader who does not read is left behind;
    /// it ends with the process.
    pub fn close(&self, timeout: Duration) -> bool {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        self.shared.there_is_room(&mut state);
        drop(state);
        let flushed = self.shared.flush(timeout);
        if flushed && let Some(thread) = lock(&self.thread).take() {
            // The buffer is empty and no write(2) is under way, so the thread is about to return.
            let _ = thread.join();
        }
        flushed
    }

    /// What was lost because it could not be written, up to now. A reader who has gone loses nothing.
    pub fn lost(&self) -> Option<LostOutput> {
        let state = lock(&self.shared.state);
        (state.lost > 0).then(|| LostOutput {
            console: self.shared.console.clone(),
            target: self.shared.target.clone(),
            bytes: state.lost,
            reason: state.reason.clone(),
        })
    }
}

impl Drop for OutputThread {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl OutputSink for OutputThread {
    fn write(&self, bytes: &[u8]) {
        self.shared.write(bytes);
    }

    fn write_memory(&self, memory: &GuestSlice<'_>) {
        let written = match &self.shared.file {
            Some(file) if memory.len() >= GATHER_LIMIT => self.shared.write_through(file, memory),
            _ => false,
        };
        if !written {
            copy_memory(self, memory);
        }
    }

    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.shared.state);
        let taken = self.shared.store(&mut state, bytes);
        // Somebody else may have found no room before, and still waits for it.
        state.starved |= taken < bytes.len();
        taken
    }

    fn set_room_event(&self, event: Arc<EventFd>) {
        lock(&self.shared.state).room = Some(event);
    }
}

impl State {
    /// There is nothing to write.
    fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.pending.is_empty()
    }

    fn drained(&self) -> bool {
        self.is_empty() && !self.writing
    }

    fn lose(&mut self, bytes: usize) {
        self.lost = self.lost.saturating_add(bytes as u64);
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

    /// Writes what has gathered, and this behind it. Waits for nothing but other writes to the same file. Returns `false`
    /// without having done anything if writes fail.
    fn write_through(&self, file: &File, memory: &GuestSlice<'_>) -> bool {
        let mut state = lock(&self.state);
        while state.writing {
            state = wait(&self.progress, state);
        }
        if state.failing.is_some() {
            return false;
        }
        if state.dead || state.closed {
            return true;
        }
        let mut rest = std::mem::take(&mut state.pending);
        state.writing = true;
        self.there_is_room(&mut state);
        drop(state);

        let mut left = *memory;
        let mut written = write_all(&mut |bytes: &[u8]| write_some(file, bytes), &mut rest);
        if matches!(written, Written::All) {
            written = write_memory(file, &mut left);
        }
        let mut lost = 0;
        if matches!(written, Written::Failed(_)) {
            let before = rest.len();
            let room = CAPACITY.saturating_sub(before).min(left.len());
            rest.resize(before.saturating_add(room), 0);
            left.copy_to(rest.get_mut(before..).unwrap_or_default());
            lost = left.len().saturating_sub(room);
        }

        let mut state = lock(&self.state);
        state.lose(lost);
        let state = self.written(state, &mut rest, written);
        // The thread may have begun to sleep because somebody else wrote. It ends if the output was closed meanwhile.
        if !state.is_empty() || state.closed {
            self.work.notify_one();
        }
        true
    }

    /// A write has ended, and left `rest`.
    fn written<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        rest: &mut Vec<u8>,
        written: Written,
    ) -> MutexGuard<'a, State> {
        state.writing = false;
        let failed = matches!(written, Written::Failed(_));
        let message = match written {
            Written::All => state.failing.take().map(|_| self.recovered(state.lost)),
            Written::Failed(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                // Not worth more than a debug line: `hvrun | head` ends like this.
                log::debug!("the {}'s output ends: {error}", self.console);
                state.dead = true;
                state.failing = None;
                state.pending.clear();
                rest.clear();
                None
            }
            Written::Failed(error) => {
                state.failures = state.failures.saturating_add(1);
                state.reason = error.to_string();
                if state.closed {
                    let left = rest.len().saturating_add(state.pending.len());
                    state.lose(left);
                    state.pending.clear();
                    state.failing = None;
                    rest.clear();
                    None
                } else {
                    std::mem::swap(&mut state.kept, rest);
                    let first = state.failing.is_none();
                    let now = Instant::now();
                    state.failing = Some(now.checked_add(self.times.retry).unwrap_or(now));
                    first.then(|| self.fails(&error))
                }
            }
        };
        if failed {
            self.there_is_room(&mut state);
        } else {
            self.progress.notify_all();
        }
        let Some(message) = message else {
            return state;
        };
        // A logger may take its time.
        drop(state);
        log::warn!("{message}");
        lock(&self.state)
    }

    fn fails(&self, error: &io::Error) -> String {
        format!(
            "the {}'s output cannot be written{}: {error}; trying again every second, dropping what exceeds {} KiB",
            self.console,
            self.to_target(),
            CAPACITY >> 10
        )
    }

    fn recovered(&self, lost: u64) -> String {
        format!(
            "the {}'s output can be written{} again; {lost} bytes of it were lost",
            self.console,
            self.to_target()
        )
    }

    fn to_target(&self) -> String {
        let target = self.target.as_ref();
        target.map_or_else(String::new, |target| format!(" to {target}"))
    }

    /// Takes what there is room for, and drops the rest if nobody is to wait for it. Returns how many bytes are dealt
    /// with.
    fn store(&self, state: &mut State, bytes: &[u8]) -> usize {
        if state.dead || state.closed {
            return bytes.len();
        }
        let room = CAPACITY.saturating_sub(state.pending.len());
        let (now, rest) = bytes.split_at(room.min(bytes.len()));
        let dropped = if state.failing.is_some() {
            state.lose(rest.len());
            rest.len()
        } else if state.lossy {
            rest.len()
        } else {
            0
        };
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
        let failures = state.failures;
        if let Some(retry) = &mut state.failing {
            *retry = Instant::now();
        }
        state.flushing = state.flushing.saturating_add(1);
        self.work.notify_one();
        while !state.settled(failures) {
            let left =
                deadline.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            state = wait_timeout(&self.progress, state, left);
        }
        state.flushing = state.flushing.saturating_sub(1);
        state.settled(failures)
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
            if state.is_empty() && state.closed {
                return;
            }
            if state.is_empty() || state.writing {
                state.idle = true;
                state = wait(&self.work, state);
                state.idle = false;
                continue;
            }
            if let Some(retry) = state.failing {
                let left = retry.saturating_duration_since(Instant::now());
                if !left.is_zero() && !state.closed {
                    state = wait_timeout(&self.work, state, left);
                    continue;
                }
            } else if !state.closed && state.flushing == 0 && state.pending.len() < GATHER_LIMIT {
                // A wake-up before its time only makes this batch smaller.
                state = wait_timeout(&self.work, state, self.times.gather);
                if state.is_empty() || state.writing || state.failing.is_some() {
                    // Meanwhile somebody else writes it, or has failed to.
                    continue;
                }
            }
            if state.kept.is_empty() {
                std::mem::swap(&mut batch, &mut state.pending);
            } else {
                std::mem::swap(&mut batch, &mut state.kept);
            }
            state.writing = true;
            self.there_is_room(&mut state);
            drop(state);

            let written = write_all(&mut |bytes: &[u8]| outlet.pass_on(bytes), &mut batch);

            state = self.written(lock(&self.state), &mut batch, written);
        }
    }
}

impl State {
    /// Nothing is left to wait for, for who began to when there had been this many failures.
    fn settled(&self, failures: u64) -> bool {
        self.drained() || (self.failing.is_some() && self.failures != failures && !self.closed)
    }
}

/// Writes all of `bytes`, and leaves in it what could not be written.
fn write_all(write: &mut impl FnMut(&[u8]) -> io::Result<usize>, bytes: &mut Vec<u8>) -> Written {
    let mut done = 0;
    let written = loop {
        let rest = bytes.get(done..).unwrap_or_default();
        if rest.is_empty() {
            break Written::All;
        }
        match write(rest) {
            Ok(count) => done = done.saturating_add(count),
            Err(error) => break Written::Failed(error),
        }
    };
    bytes.drain(..done.min(bytes.len()));
    written
}

/// Writes all of `memory` to a regular file, and leaves in it what could not be written.
fn write_memory(mut file: &File, memory: &mut GuestSlice<'_>) -> Written {
    while !memory.is_empty() {
        let result = match file.write_volatile(memory) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => memory.offset(count).map_err(io::Error::other),
            Err(VolatileMemoryError::IOError(error)) => {
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                Err(error)
            }
            Err(other) => Err(io::Error::other(other)),
        };
        match result {
            Ok(rest) => *memory = rest,
            Err(error) => return Written::Failed(error),
        }
    }
    Written::All
}

/// Writes some of `bytes`, of which there is at least one. A non-blocking descriptor that takes nothing is waited for.
pub(super) fn write_some(mut output: impl Write + AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::NONE) {
                    // A hang-up ends the wait too; the next write then says so.
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            result => return result,
        }
    }
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
mod tests;
