//! The vsock device's features and configuration space, and its start and stop.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::eventfd::EventFd;

use super::endpoint::Endpoint;
use super::muxer::Muxer;
use super::worker::{self, State};
use crate::state::{self, RestoreError};
use crate::virtio::serving::Serving;
use crate::virtio::{Activation, QueuePosition, VirtioDevice};

/// The feature bit of stream sockets (VIRTIO 1.3, section 5.10.3).
const STREAM: u64 = 1 << 0;

/// Descriptors in each queue: Linux fills the first with buffers of 4 KiB.
const QUEUE_SIZE: u16 = 256;

/// A virtio vsock device, served by the thread of its [`Endpoint`]. A guest's driver serves one of them at most.
pub struct Vsock {
    endpoint: Arc<Endpoint>,
    wake: Arc<EventFd>,
    serving: Option<Serving<(State, Vec<QueuePosition>)>>,
    /// While nobody serves the queues.
    state: Option<State>,
}

/// What a vsock device knows beside its queues, as far as it lasts: connections do not outlive the process that has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VsockState {
    /// The guest's driver has read it.
    cid: u32,
}

impl Vsock {
    /// A device without connections.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(endpoint: Arc<Endpoint>) -> io::Result<Self> {
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self {
            endpoint,
            wake: Arc::new(wake),
            serving: None,
            state: None,
        })
    }

    fn new_state(&self, transport_reset: bool) -> State {
        State {
            muxer: Muxer::new(Arc::clone(&self.endpoint.socket)),
            transport_reset,
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn name(&self) -> String {
        "vsock".into()
    }

    fn features(&self) -> u64 {
        STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    /// `struct virtio_vsock_config` (section 5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = u64::from(self.endpoint.socket.cid()).to_le_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(config.into_iter().skip(offset)) {
            *to = from;
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let state = self.state.take();
        let mut state = state.unwrap_or_else(|| self.new_state(false));
        let wake = Arc::clone(&self.wake);
        self.serving = Some(Serving::start(&self.endpoint.thread, move |stop| {
            let positions = worker::serve(activation, &mut state, stop, &wake);
            (state, positions)
        }));
        Ok(())
    }

    fn pause(&mut self) -> Vec<QueuePosition> {
        let Some(serving) = self.serving.take() else {
            return Vec::new();
        };
        // It fails only if the counter overflows, and then the event is signalled already.
        let wake = || drop(self.wake.write(1));
        let Some((state, positions)) = serving.stop(wake) else {
            return Vec::new();
        };
        self.state = Some(state);
        positions
    }

    /// All connections end.
    fn reset(&mut self) {
        self.pause();
        self.state = None;
    }

    fn save(&self) -> Value {
        state::to_value(&VsockState {
            cid: self.endpoint.socket.cid(),
        })
    }

    /// The connections that there were are gone, which the driver is told.
    fn restore(&mut self, state: Value) -> Result<(), RestoreError> {
        let VsockState { cid } = state::from_value(state)?;
        if cid != self.endpoint.socket.cid() {
            return Err(RestoreError::mismatch(format!(
                "the vsock had the CID {cid}"
            )));
        }
        self.state = Some(self.new_state(true));
        Ok(())
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.pause();
    }
}
