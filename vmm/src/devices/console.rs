//! Virtio consoles.

use std::io;
use std::sync::Arc;

use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::console::{Console, Ports};

use super::{DeviceKind, Kind, Opened, Opening};
use crate::Error;
use crate::consoles::{Chardev, PortConfig};

/// A virtio console device: a console, further ports, or both.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ConsoleConfig {
    /// The chardev of its console (`hvc0`), if it has one.
    pub console: Option<Chardev>,
    /// Its ports that are no consoles.
    pub ports: Vec<PortConfig>,
}

impl ConsoleConfig {
    /// A console (`hvc0`) without further ports.
    pub fn new(console: Chardev) -> ConsoleConfig {
        ConsoleConfig {
            console: Some(console),
            ports: Vec::new(),
        }
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>, chardev: Chardev) -> ConsoleConfig {
        let name = name.into();
        self.ports.push(PortConfig { name, chardev });
        self
    }
}

impl From<ConsoleConfig> for DeviceKind {
    fn from(console: ConsoleConfig) -> DeviceKind {
        DeviceKind::Console(console)
    }
}

impl Kind for ConsoleConfig {
    fn name(&self) -> &'static str {
        "console"
    }

    fn second(&self) -> Option<Error> {
        Some(Error::TwoConsoles)
    }

    /// Its chardevs are opened with the serial port's: what one of them prints may depend on the other.
    fn open(&self, opening: &Opening) -> Result<Box<dyn Opened>, Error> {
        match opening.ports {
            Some(ports) => Ok(Box::new(OpenConsole(ports.clone()))),
            None => Err(Error::ConsoleOfNothing),
        }
    }
}

/// A virtio console whose chardevs are open.
struct OpenConsole(Arc<Ports>);

impl Opened for OpenConsole {
    fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        Ok(Box::new(Console::new(self.0.clone())?))
    }
}
