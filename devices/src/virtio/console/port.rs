//! The ports of the console device, as the host's side sees them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chardev::{InputSink, OutputSink};
use crate::lock;
use crate::state::RestoreError;
use crate::sync::{EventFd, Mutex};

/// The most ports a device can have.
pub const MAX_PORTS: usize = 16;

/// How much input may wait for the guest, in bytes.
const CAPACITY: usize = 4096;

/// What a port is.
pub struct PortConfig {
    /// What the guest knows it by (in Linux, /dev/virtio-ports/NAME); may be empty.
    pub name: String,
    /// A console (in Linux, /dev/hvcN) and not a plain channel. A device whose only port has no name is always a
    /// console.
    pub is_console: bool,
    /// Whether the port leads to a user's terminal. The driver of a single console without a name that does is not told of
    /// ports (VIRTIO_CONSOLE_F_MULTIPORT).
    pub on_terminal: bool,
    /// Where goes what the guest writes. The port takes its room event.
    pub output: Arc<dyn OutputSink>,
}

/// All ports of a device. They outlive it, as what is connected to them does: a machine that is switched on again has
/// a new device on the same ports.
pub struct Ports {
    pub(super) all: Vec<Arc<Port>>,
    /// Wakes the worker of the device.
    pub(super) wake: Arc<EventFd>,
}

impl Ports {
    /// These ports, of which port 0 comes first.
    ///
    /// # Errors
    /// If there is no port, or more than [`MAX_PORTS`], or if the host has no file descriptor left.
    pub fn new(ports: Vec<PortConfig>) -> io::Result<Self> {
        if ports.is_empty() || ports.len() > MAX_PORTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let mut all: Vec<Port> = ports
            .into_iter()
            .map(|config| {
                config.output.set_room_event(Arc::clone(&wake));
                Port::new(config, Arc::clone(&wake))
            })
            .collect();
        if let [only] = all.as_mut_slice()
            && only.name.is_empty()
        {
            only.is_console = true;
        }
        Ok(Self {
            all: all.into_iter().map(Arc::new).collect(),
            wake,
        })
    }

    /// The port with this number, for its input and its size.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Arc<Port>> {
        self.all.get(number).cloned()
    }

    /// Whether the device offers VIRTIO_CONSOLE_F_MULTIPORT, by which the driver reports when a port is open in the guest.
    ///
    /// A single console without a name does not need it. Without the feature, the terminal's size is in the configuration
    /// space, which every driver reads, and not in a message that Linux before 6.15 misinterprets. But then the driver does not
    /// report when it is ready for input: Linux discards input between its first buffer and the console's registration. A
    /// person at a terminal types later than that. A pipe or a socket may have sent data already, so its input has to wait until the
    /// port is open.
    pub(super) fn are_announced(&self) -> bool {
        !matches!(self.all.as_slice(), [only] if only.is_console && only.name.is_empty() && only.on_terminal)
    }
}

/// A port. Input that the guest has no buffer for waits here, up to a limit; it stays across resets of the device.
pub struct Port {
    pub(super) name: String,
    pub(super) is_console: bool,
    on_terminal: bool,
    pub(super) output: Arc<dyn OutputSink>,
    state: Mutex<State>,
    /// Wakes the worker.
    wake: Arc<EventFd>,
}

#[derive(Default)]
struct State {
    input: VecDeque<u8>,
    /// The last `receive` found no room for all it was given.
    starved: bool,
    room: Option<EventFd>,
    size: Size,
    resized: bool,
    /// The guest reads its input by other means than the device.
    read_elsewhere: bool,
}

/// What a port holds for the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortState {
    /// By which the guest knows the port.
    name: String,
    input: Vec<u8>,
    read_elsewhere: bool,
    /// What the guest was told, unless it is `resized`.
    size: Size,
    resized: bool,
}

/// The size of a console's terminal, in characters; zero if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Size {
    pub columns: u16,
    pub rows: u16,
}

impl Size {
    /// Columns and rows as they are in the configuration space (VIRTIO 1.3, section 5.3.4).
    pub fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.columns.to_le_bytes(), self.rows.to_le_bytes());
        [a, b, c, d]
    }
}

impl Port {
    pub(super) fn new(config: PortConfig, wake: Arc<EventFd>) -> Self {
        Self {
            name: config.name,
            is_console: config.is_console,
            on_terminal: config.on_terminal,
            output: config.output,
            state: Mutex::default(),
            wake,
        }
    }

    /// Sets the size of the terminal behind a console, in characters, and tells the guest.
    pub fn set_size(&self, columns: u16, rows: u16) {
        let mut state = lock(&self.state);
        state.size = Size { columns, rows };
        state.resized = true;
        drop(state);
        self.wake();
    }

    pub(super) fn size(&self) -> Size {
        lock(&self.state).size
    }

    /// The size, if it has changed since this was asked last.
    pub(super) fn take_resized(&self) -> Option<Size> {
        let mut state = lock(&self.state);
        std::mem::take(&mut state.resized).then_some(state.size)
    }

    /// A driver is ready: it is the one to get the input.
    pub(super) fn driver_is_ready(&self) {
        lock(&self.state).read_elsewhere = false;
    }

    /// Whether there is input for the driver.
    pub(super) fn has_input(&self) -> bool {
        let state = lock(&self.state);
        !state.input.is_empty() && !state.read_elsewhere
    }

    /// Takes up to a buffer's worth of input for the driver, and returns how many bytes it is.
    pub(super) fn take_input(&self, buffer: &mut [u8]) -> usize {
        let mut state = lock(&self.state);
        if state.read_elsewhere {
            return 0;
        }
        state.take(buffer)
    }

    /// The state, while no worker serves the port.
    pub(super) fn save(&self) -> PortState {
        let state = lock(&self.state);
        PortState {
            name: self.name.clone(),
            input: state.input.iter().copied().collect(),
            read_elsewhere: state.read_elsewhere,
            size: state.size,
            resized: state.resized,
        }
    }

    /// Whether this is a state of this port.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&self, state: &PortState) -> Result<(), RestoreError> {
        if state.name != self.name {
            return Err(RestoreError::mismatch(format!(
                "a port named '{}' was saved where one named '{}' is",
                state.name, self.name
            )));
        }
        RestoreError::unless(state.input.len() <= CAPACITY, "too much input of a port")
    }

    /// Puts a saved state, which was checked, in place of this one. Input that has come since is lost: none is to be given
    /// before. The terminal is another one, and the guest is told if its size is.
    pub(super) fn restore(&self, saved: &PortState) {
        let mut state = lock(&self.state);
        state.input = saved.input.iter().copied().collect();
        state.read_elsewhere = saved.read_elsewhere;
        state.resized |= saved.resized || saved.size != state.size;
    }

    fn wake(&self) {
        // It fails only if the counter overflows, and then the event is signalled already.
        let _ = self.wake.write(1);
    }
}

impl State {
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.input.len());
        for (to, from) in buffer.iter_mut().zip(self.input.drain(..count)) {
            *to = from;
        }
        if self.input.is_empty()
            && std::mem::take(&mut self.starved)
            && let Some(room) = &self.room
        {
            // As above.
            let _ = room.write(1);
        }
        count
    }
}

impl InputSink for Port {
    fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let taken = CAPACITY.saturating_sub(state.input.len()).min(bytes.len());
        state.input.extend(bytes.iter().take(taken));
        state.starved = taken < bytes.len();
        drop(state);
        if taken > 0 {
            self.wake();
        }
        taken
    }

    fn set_room_event(&self, event: EventFd) {
        lock(&self.state).room = Some(event);
    }

    /// From the first time on, until a driver starts anew, all input is for this reader: a guest with a console by SBI
    /// and an idle driver would lose half of it otherwise.
    fn take_received(&self, buffer: &mut [u8]) -> usize {
        let mut state = lock(&self.state);
        state.read_elsewhere = true;
        state.take(buffer)
    }
}
