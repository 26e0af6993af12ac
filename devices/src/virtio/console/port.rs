//! A port of the console device, as the host's side sees it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::device::PortConfig;
use crate::console::{ConsoleOutput, InputSink};
use crate::lock;

/// How much input may wait for the guest, in bytes.
const CAPACITY: usize = 4096;

/// A port. Input that the guest has no buffer for waits here, up to a limit; it stays across resets of the device.
pub struct Port {
    pub(super) name: String,
    pub(super) is_console: bool,
    pub(super) output: Arc<dyn ConsoleOutput>,
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
}

/// The size of a console's terminal, in characters; zero if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub columns: u16,
    pub rows: u16,
}

impl Port {
    pub(super) fn new(config: PortConfig, wake: Arc<EventFd>) -> Self {
        Self {
            name: config.name,
            is_console: config.is_console,
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

    pub(super) fn has_input(&self) -> bool {
        !lock(&self.state).input.is_empty()
    }

    /// Takes up to a buffer's worth of input, and returns how many bytes it is.
    pub(super) fn take_input(&self, buffer: &mut [u8]) -> usize {
        let mut state = lock(&self.state);
        let count = buffer.len().min(state.input.len());
        for (to, from) in buffer.iter_mut().zip(state.input.drain(..count)) {
            *to = from;
        }
        if state.input.is_empty()
            && std::mem::take(&mut state.starved)
            && let Some(room) = &state.room
        {
            // It fails only if the counter overflows, and then the event is signalled already.
            let _ = room.write(1);
        }
        count
    }

    fn wake(&self) {
        // As above.
        let _ = self.wake.write(1);
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
}
