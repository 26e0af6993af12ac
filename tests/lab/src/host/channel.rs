//! The controller's end of the stream to the agent.
//!
//! A thread reads it and sorts what arrives into [`Task`]s, one for every process and every single request; whoever
//! waits, waits on its task.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hv_lab_agent::protocol::{self, Event, ExitStatus, Frames, Request, Stream, WINDOW};

use super::error::{Error, ErrorKind, Result};
use super::logs::Logs;

/// How long the agent, which never stops reading, may take to do so: a host that takes longer hangs.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The id of [`Event::Ready`]; those of tasks begin behind it.
const AGENT: u32 = 0;

/// A connection to an agent.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    writer: Mutex<UnixStream>,
    /// The same stream, to shut it down while another thread writes.
    stream: UnixStream,
    next_id: AtomicU32,
    table: Mutex<Table>,
    logs: Arc<Logs>,
}

#[derive(Debug, Default)]
struct Table {
    tasks: BTreeMap<u32, Arc<Task>>,
    /// Why the stream is of no use any more.
    lost: Option<Error>,
}

/// A process, or a request that is answered once.
#[derive(Debug)]
pub(super) struct Task {
    id: u32,
    state: Mutex<TaskState>,
    changed: Condvar,
}

/// What is known of a task.
#[derive(Debug, Default)]
pub(super) struct TaskState {
    /// The answer to the request: the process id for a process, else 0; or why it was refused.
    pub(super) answer: Option<std::result::Result<u32, String>>,
    /// How the process ended.
    pub(super) status: Option<ExitStatus>,
    /// Output that arrived and was not taken yet.
    pub(super) outputs: BTreeMap<Stream, Output>,
    /// How many bytes of input the agent takes now.
    pub(super) input_credit: u32,
    /// The process takes no more input.
    pub(super) input_closed: bool,
    /// Why nothing more will arrive.
    pub(super) lost: Option<Error>,
}

/// One output of a process.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) data: VecDeque<u8>,
    pub(super) ended: bool,
    /// Where everything is written to that arrives, as a record.
    pub(super) log: Option<File>,
    /// How many bytes `data` may hold before the agent, and so the process, has to wait.
    limit: usize,
    /// How much credit the agent used and was not given back.
    owed: u32,
}

impl Output {
    pub(super) fn new(limit: usize, log: Option<File>) -> Self {
        Self {
            limit,
            log,
            ..Self::default()
        }
    }

    /// The credit to give back now: in large pieces, and only while there is room.
    fn repay(&mut self) -> Option<u32> {
        let due = self.owed >= WINDOW / 4 && self.data.len() <= self.limit && !self.ended;
        due.then(|| std::mem::take(&mut self.owed))
    }
}

impl Channel {
    /// Takes over a stream at whose other end an agent is, or soon will be.
    pub(super) fn new(stream: UnixStream, logs: Arc<Logs>) -> std::io::Result<Self> {
        let reader = stream.try_clone()?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let agent = Arc::new(Task::new(AGENT, TaskState::default()));
        let table = Table {
            tasks: BTreeMap::from([(AGENT, agent)]),
            lost: None,
        };
        let shared = Arc::new(Shared {
            stream: stream.try_clone()?,
            writer: Mutex::new(stream),
            next_id: AtomicU32::new(AGENT + 1),
            table: Mutex::new(table),
            logs,
        });
        let channel = Self { shared };
        let receiver = channel.clone();
        thread::Builder::new()
            .name("lab-channel".into())
            .spawn(move || receiver.receive(reader))?;
        Ok(channel)
    }

    /// Waits until the agent serves.
    pub(super) fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let agent = lock(&self.shared.table).tasks.get(&AGENT).cloned();
        match agent {
            Some(agent) => self
                .wait_answer(&agent, "the nested host's start", timeout)
                .map(drop),
            None => Err(self.lost()),
        }
    }

    /// Sends a request under a new id and returns its task.
    pub(super) fn begin(&self, request: &Request, state: TaskState) -> Result<Arc<Task>> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let task = Arc::new(Task::new(id, state));
        {
            let mut table = lock(&self.shared.table);
            if table.lost.is_some() {
                drop(table);
                return Err(self.lost());
            }
            table.tasks.insert(id, Arc::clone(&task));
        }
        let sent = self.send(id, request);
        if sent.is_err() {
            self.forget(&task);
        }
        sent.map(|()| task)
    }

    /// Sends a request about a task.
    pub(super) fn send(&self, id: u32, request: &Request) -> Result<()> {
        let frame = (request.encode(id))
            .map_err(|error| Error::new(ErrorKind::Refused, error.to_string()))?;
        let mut writer = lock(&self.shared.writer);
        writer.write_all(&frame).map_err(|error| {
            // Half a frame may have gone: nothing more can be said.
            let _ = writer.shutdown(Shutdown::Both);
            let message = format!("the nested host does not listen any more: {error}");
            Error::new(ErrorKind::Host, message).with_logs(&self.shared.logs)
        })
    }

    /// Waits for the answer to a request.
    pub(super) fn wait_answer(&self, task: &Task, what: &str, timeout: Duration) -> Result<u32> {
        let answer = self.wait(task, what, timeout, |state| state.answer.clone())?;
        answer.map_err(|why| Error::new(ErrorKind::Refused, why))
    }

    /// Waits until `found` finds in a task's state what it looks for. It sees what arrived before the host was lost.
    pub(super) fn wait<T>(
        &self,
        task: &Task,
        what: &str,
        timeout: Duration,
        mut found: impl FnMut(&mut TaskState) -> Option<T>,
    ) -> Result<T> {
        // So far away that it is not there: wait for ever.
        let deadline = Instant::now().checked_add(timeout);
        let mut state = lock(&task.state);
        loop {
            if let Some(found) = found(&mut state) {
                let repay: Vec<_> = repayments(&mut state);
                drop(state);
                self.repay(task.id, &repay);
                return Ok(found);
            }
            if let Some(why) = &state.lost {
                return Err(why.clone());
            }
            state =
                match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                    Some(Duration::ZERO) => {
                        return Err(Error::timeout(what, timeout).with_logs(&self.shared.logs));
                    }
                    Some(rest) => {
                        let waited = task.changed.wait_timeout(state, rest);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => task
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                };
        }
    }

    /// Drops a task: what still arrives for it is thrown away.
    pub(super) fn forget(&self, task: &Task) {
        lock(&self.shared.table).tasks.remove(&task.id);
    }

    pub(super) fn logs(&self) -> &Arc<Logs> {
        &self.shared.logs
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        // It fails if the stream has ended, which is as well.
        let _ = self.shared.stream.shutdown(Shutdown::Both);
    }

    fn lost(&self) -> Error {
        let why = lock(&self.shared.table).lost.clone();
        why.unwrap_or_else(|| Error::new(ErrorKind::Host, "the nested host was not connected"))
    }

    /// The thread that reads.
    fn receive(&self, mut stream: UnixStream) {
        let mut frames = Frames::new();
        let mut bytes = vec![0; 64 * 1024];
        let why = loop {
            match stream.read(&mut bytes) {
                Ok(0) => break "its control stream ended".to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => break format!("its control stream failed: {error}"),
                Ok(count) => frames.push(bytes.get(..count).unwrap_or_default()),
            }
            if let Err(error) = self.dispatch(&mut frames) {
                break format!("its agent breaks the protocol: {error}");
            }
        };
        let why = Error::new(ErrorKind::Host, format!("the nested host is gone: {why}"))
            .with_logs(&self.shared.logs);
        let tasks = {
            let mut table = lock(&self.shared.table);
            table.lost = Some(why.clone());
            std::mem::take(&mut table.tasks)
        };
        for task in tasks.values() {
            lock(&task.state).lost = Some(why.clone());
            task.changed.notify_all();
        }
    }

    fn dispatch(&self, frames: &mut Frames) -> protocol::Result<()> {
        while let Some((id, event)) = frames.next_event()? {
            let Some(task) = lock(&self.shared.table).tasks.get(&id).cloned() else {
                continue;
            };
            let mut state = lock(&task.state);
            state.apply(event);
            let repay = repayments(&mut state);
            drop(state);
            task.changed.notify_all();
            self.repay(id, &repay);
        }
        Ok(())
    }

    fn repay(&self, id: u32, credits: &[(Stream, u32)]) {
        for &(stream, bytes) in credits {
            // If it cannot be sent, the stream is lost, and whoever waits hears of that.
            let _ = self.send(id, &Request::Credit(stream, bytes));
        }
    }
}

impl Task {
    fn new(id: u32, state: TaskState) -> Self {
        Self {
            id,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

impl TaskState {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Ready { version, .. } if version != protocol::VERSION => {
                let wanted = protocol::VERSION;
                self.answer = Some(Err(format!(
                    "the agent speaks version {version} of the protocol, not {wanted}"
                )));
            }
            Event::Ready { .. } | Event::Done => self.answer = Some(Ok(0)),
            Event::Started(pid) => self.answer = Some(Ok(pid)),
            Event::Failed(why) => self.answer = Some(Err(why)),
            Event::Output(stream, data) => {
                if let Some(output) = self.outputs.get_mut(&stream) {
                    if let Some(log) = &mut output.log {
                        // A record that cannot be written must not end what it records.
                        let _ = log.write_all(&data);
                    }
                    output.owed =
                        (output.owed).saturating_add(u32::try_from(data.len()).unwrap_or(u32::MAX));
                    output.data.extend(data);
                }
            }
            Event::EndOutput(stream) => {
                if let Some(output) = self.outputs.get_mut(&stream) {
                    output.ended = true;
                }
            }
            Event::InputCredit(bytes) => {
                self.input_credit = self.input_credit.saturating_add(bytes)
            }
            Event::InputClosed => self.input_closed = true,
            Event::Exited(status) => self.status = Some(status),
        }
    }
}

fn repayments(state: &mut TaskState) -> Vec<(Stream, u32)> {
    (state.outputs.iter_mut())
        .filter_map(|(&stream, output)| Some((stream, output.repay()?)))
        .collect()
}

/// A lock whose holder panicked is taken all the same: what it guards is never left half-changed, and one test's
/// failure must not become every other's.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
