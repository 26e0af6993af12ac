//! The console device's features and configuration space, and its start and stop.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::port::{PortState, Ports};
use super::worker::{self, ServiceState, State};
use crate::state::{self, RestoreError};
use crate::thread::{Role, WorkerThread};
use crate::virtio::serving::Serving;
use crate::virtio::{Activation, QueuePosition, VirtioDevice};

/// Feature bits (VIRTIO 1.3, section 5.3.3).
pub(super) mod feature {
    pub const SIZE: u64 = 1 << 0;
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERGENCY_WRITE: u64 = 1 << 2;
}

/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 64;

/// Offset in the configuration space of the register for single characters (section 5.3.4).
const EMERGENCY_WRITE: u64 = 8;

/// A virtio console device, served by a thread named `virtio-console`.
pub struct Console {
    ports: Arc<Ports>,
    queue_sizes: Vec<u16>,
    thread: WorkerThread,
    serving: Option<Serving<(State, Vec<QueuePosition>)>>,
    /// While nobody serves the queues.
    state: Option<State>,
}

/// What a console device knows beside its queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsoleState {
    ports: Vec<PortState>,
    /// `None` if no driver has been ready since the reset.
    service: Option<ServiceState>,
}

impl Console {
    /// A device with these ports, of which port 0 comes first.
    ///
    /// # Errors
    /// If the host has no thread left.
    pub fn new(ports: Arc<Ports>) -> io::Result<Self> {
        // Two for each port, and two for control.
        let pairs = ports.all.len().saturating_add(ports.are_announced().into());
        Ok(Self {
            queue_sizes: vec![QUEUE_SIZE; pairs.saturating_mul(2)],
            ports,
            thread: WorkerThread::spawn(Role::Console)?,
            serving: None,
            state: None,
        })
    }
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn name(&self) -> String {
        "virtio console".into()
    }

    fn features(&self) -> u64 {
        let announced = if self.ports.are_announced() {
            feature::MULTIPORT
        } else {
            0
        };
        feature::SIZE | feature::EMERGENCY_WRITE | announced
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// `struct virtio_console_config` (section 5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let size = self.ports.all.first().map(|port| port.size());
        let max_nr_ports = u32::try_from(self.ports.all.len()).unwrap_or(u32::MAX);
        let config = size
            .unwrap_or_default()
            .to_bytes()
            .into_iter()
            .chain(max_nr_ports.to_le_bytes());
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(config.skip(offset)) {
            *to = from;
        }
    }

    /// A character that a driver prints before it is ready, as when it crashes early.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if offset == EMERGENCY_WRITE
            && let (Some(port), Some(byte)) = (self.ports.all.first(), data.first())
        {
            port.output.try_write(&[*byte]);
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let state = self.state.take();
        let mut state = state.unwrap_or_else(|| State::new(&self.ports.all));
        let ports = Arc::clone(&self.ports);
        self.serving = Some(Serving::start(&self.thread, move |stop| {
            let Ports { all, wake } = &*ports;
            let positions = worker::serve(activation, all, &mut state, stop, wake);
            (state, positions)
        }));
        Ok(())
    }

    fn pause(&mut self) -> Vec<QueuePosition> {
        let Some(serving) = self.serving.take() else {
            return Vec::new();
        };
        // It fails only if the counter overflows, and then the event is signalled already.
        let wake = || drop(self.ports.wake.write(1));
        let Some((state, positions)) = serving.stop(wake) else {
            return Vec::new();
        };
        self.state = Some(state);
        positions
    }

    fn reset(&mut self) {
        self.pause();
        self.state = None;
    }

    fn save(&self) -> Value {
        state::to_value(&ConsoleState {
            ports: self.ports.all.iter().map(|port| port.save()).collect(),
            service: self.state.as_ref().map(State::save),
        })
    }

    fn restore(&mut self, state: Value) -> Result<(), RestoreError> {
        let ConsoleState { ports, service } = state::from_value(state)?;
        let all = &self.ports.all;
        if ports.len() != all.len() {
            return Err(RestoreError::mismatch(format!(
                "the virtio console had {} ports, and has {}",
                ports.len(),
                all.len()
            )));
        }
        all.iter()
            .zip(&ports)
            .try_for_each(|(port, state)| port.check(state))?;
        let service = service
            .map(|service| State::restored(all, service))
            .transpose()?;
        for (port, state) in all.iter().zip(&ports) {
            port.restore(state);
        }
        self.state = service;
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.pause();
    }
}
