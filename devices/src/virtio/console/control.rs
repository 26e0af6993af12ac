//! The conversation about ports over the control queues (VIRTIO 1.3, section 5.3.6.2), apart from the queues.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::port::{Port, Size};
use crate::state::RestoreError;

/// Events (section 5.3.6.2).
pub(super) mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const DEVICE_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// Bytes of `struct virtio_console_control`: id, event, value.
pub(super) const MESSAGE_SIZE: usize = 8;

/// Bytes of `struct virtio_console_resize`.
const SIZE_BYTES: usize = 4;

/// How many messages to the driver may wait for a buffer. A driver that asks and does not listen is not heard.
const MAX_PENDING: usize = 256;

/// The device's side of the conversation.
pub(super) struct Control {
    ports: Vec<PortState>,
    pending: VecDeque<Vec<u8>>,
}

/// What has become of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlState {
    /// Of each port.
    ready: Vec<bool>,
    open: Vec<bool>,
    /// Messages that the driver has not got yet.
    pending: VecDeque<Vec<u8>>,
}

struct PortState {
    port: Arc<Port>,
    /// The driver knows the port.
    ready: bool,
    /// Somebody in the guest has opened it.
    open: bool,
}

impl Control {
    pub fn new(ports: &[Arc<Port>]) -> Self {
        let state = |port: &Arc<Port>| PortState {
            port: Arc::clone(port),
            ready: false,
            open: false,
        };
        Self {
            ports: ports.iter().map(state).collect(),
            pending: VecDeque::new(),
        }
    }

    pub fn save(&self) -> ControlState {
        ControlState {
            ready: self.ports.iter().map(|port| port.ready).collect(),
            open: self.ports.iter().map(|port| port.open).collect(),
            pending: self.pending.clone(),
        }
    }

    /// A conversation about these ports that goes on from a saved state.
    ///
    /// # Errors
    /// It is none about these ports.
    pub fn restored(ports: &[Arc<Port>], state: ControlState) -> Result<Self, RestoreError> {
        RestoreError::unless(
            state.ready.len() == ports.len() && state.open.len() == ports.len(),
            "the ports of a console",
        )?;
        // The longest one has a port's name or a size.
        let rest = ports.iter().map(|port| port.name.len()).max();
        let longest = MESSAGE_SIZE.saturating_add(rest.unwrap_or(0).max(SIZE_BYTES));
        RestoreError::unless(
            state.pending.len() <= MAX_PENDING
                && state.pending.iter().all(|message| message.len() <= longest),
            "messages about a console's ports",
        )?;
        let flags = state.ready.into_iter().zip(state.open);
        let ports = ports
            .iter()
            .zip(flags)
            .map(|(port, (ready, open))| PortState {
                port: Arc::clone(port),
                ready,
                open,
            });
        Ok(Self {
            ports: ports.collect(),
            pending: state.pending,
        })
    }

    /// Whether somebody in the guest reads from the port with this number.
    pub fn is_open(&self, id: usize) -> bool {
        self.ports.get(id).is_some_and(|state| state.open)
    }

    /// The message that is to go to the driver next.
    pub fn next(&self) -> Option<&[u8]> {
        self.pending.front().map(Vec::as_slice)
    }

    /// The next message has gone.
    pub fn sent(&mut self) {
        self.pending.pop_front();
    }

    /// A message from the driver. One about a port that does not exist, or with an event that is not a driver's, is
    /// ignored.
    pub fn receive(&mut self, message: [u8; MESSAGE_SIZE]) {
        let [a, b, c, d, e, f, g, h] = message;
        let id = u32::from_le_bytes([a, b, c, d]);
        let (event, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
        if event == event::DEVICE_READY {
            if value == 1 {
                for id in (0..).take(self.ports.len()) {
                    self.send(id, event::DEVICE_ADD, 1, &[]);
                }
            }
            return;
        }
        let state = usize::try_from(id)
            .ok()
            .and_then(|id| self.ports.get_mut(id));
        let Some(state) = state else { return };
        match event {
            event::PORT_READY if value == 1 => {
                state.ready = true;
                let port = Arc::clone(&state.port);
                if port.is_console {
                    self.send(id, event::CONSOLE_PORT, 1, &[]);
                    // Not known yet is nothing to tell; a change later is told anyway.
                    let size = port.size();
                    if size != Size::default() {
                        self.resize(id, size);
                    }
                }
                if !port.name.is_empty() {
                    self.send(id, event::PORT_NAME, 1, port.name.as_bytes());
                }
                // The host's side is always there.
                self.send(id, event::PORT_OPEN, 1, &[]);
            }
            event::PORT_READY => state.ready = false,
            event::PORT_OPEN => state.open = value != 0,
            _ => {}
        }
    }

    /// Tells the driver of the size of a console's terminal, if it knows the port.
    pub fn resized(&mut self, id: u32, size: Size) {
        let state = usize::try_from(id).ok().and_then(|id| self.ports.get(id));
        if state.is_some_and(|state| state.ready && state.port.is_console) {
            self.resize(id, size);
        }
    }

    /// Columns come before rows (section 5.3.6.2). Linux reads it like that from 6.15 on, and in later releases of its
    /// long-term series; before, it took the first number for the rows. A console without ports beside it has its size in
    /// the configuration space, which has always been understood.
    fn resize(&mut self, id: u32, size: Size) {
        let (columns, rows) = (size.columns.to_le_bytes(), size.rows.to_le_bytes());
        self.send(id, event::RESIZE, 0, &[columns, rows].concat());
    }

    fn send(&mut self, id: u32, event: u16, value: u16, rest: &[u8]) {
        if self.pending.len() < MAX_PENDING {
            let mut message = Vec::with_capacity(MESSAGE_SIZE.saturating_add(rest.len()));
            message.extend_from_slice(&id.to_le_bytes());
            message.extend_from_slice(&event.to_le_bytes());
            message.extend_from_slice(&value.to_le_bytes());
            message.extend_from_slice(rest);
            self.pending.push_back(message);
        }
    }
}
