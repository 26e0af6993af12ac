//! The console device's features and configuration space, and its start and stop.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::eventfd::EventFd;

use super::port::{Port, Size};
use super::worker::Worker;
use crate::console::ConsoleOutput;
use crate::virtio::{Activation, VirtioDevice};

/// Feature bits (VIRTIO 1.3, section 5.3.3).
pub(super) mod feature {
    pub const SIZE: u64 = 1 << 0;
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERGENCY_WRITE: u64 = 1 << 2;
}

/// The most ports a device can have.
pub const MAX_PORTS: usize = 16;

/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 64;

/// Offset in the configuration space of the register for single characters (section 5.3.4).
const EMERGENCY_WRITE: u64 = 8;

/// What a port is.
pub struct PortConfig {
    /// What the guest knows it by (in Linux, /dev/virtio-ports/NAME); may be empty.
    pub name: String,
    /// A console (in Linux, /dev/hvcN) and not a plain channel. Without more ports the one port is always a console.
    pub is_console: bool,
    /// Where goes what the guest writes. The device takes its room event.
    pub output: Arc<dyn ConsoleOutput>,
}

/// A virtio console device, served by a thread named `virtio-console`.
pub struct Console {
    ports: Vec<Arc<Port>>,
    queue_sizes: Vec<u16>,
    wake: Arc<EventFd>,
    worker: Option<Worker>,
}

impl Console {
    /// A device with these ports, of which port 0 comes first.
    ///
    /// # Errors
    /// If there is no port, or more than [`MAX_PORTS`], or if the host has no file descriptor left.
    pub fn new(ports: Vec<PortConfig>) -> io::Result<Self> {
        if ports.is_empty() || ports.len() > MAX_PORTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let several = ports.len() > 1;
        // Two for each port, and two for control if there are several.
        let pairs = ports.len().saturating_add(several.into());
        let ports = ports.into_iter().map(|mut config| {
            config.is_console |= !several;
            config.output.set_room_event(Arc::clone(&wake));
            Arc::new(Port::new(config, Arc::clone(&wake)))
        });
        Ok(Self {
            ports: ports.collect(),
            queue_sizes: vec![QUEUE_SIZE; pairs.saturating_mul(2)],
            wake,
            worker: None,
        })
    }

    /// The port with this number, for its input and its size.
    #[must_use]
    pub fn port(&self, number: usize) -> Option<Arc<Port>> {
        self.ports.get(number).cloned()
    }
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        let several = if self.ports.len() > 1 {
            feature::MULTIPORT
        } else {
            0
        };
        feature::SIZE | feature::EMERGENCY_WRITE | several
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// `struct virtio_console_config` (section 5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let Size { columns, rows } = self
            .ports
            .first()
            .map(|port| port.size())
            .unwrap_or_default();
        let max_nr_ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        let config = columns
            .to_le_bytes()
            .into_iter()
            .chain(rows.to_le_bytes())
            .chain(max_nr_ports.to_le_bytes());
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(config.skip(offset)) {
            *to = from;
        }
    }

    /// A character that a driver prints before it is ready, as when it crashes early.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if offset == EMERGENCY_WRITE
            && let (Some(port), Some(byte)) = (self.ports.first(), data.first())
        {
            port.output.try_write(&[*byte]);
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let worker = Worker::spawn(activation, &self.ports, &self.wake)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
