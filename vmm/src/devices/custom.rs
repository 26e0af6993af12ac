//! Virtio devices of the program's own.

use std::fmt;
use std::io;
use std::sync::Arc;

use hv_devices::virtio::VirtioDevice;

use super::{DeviceKind, Kind, Opened, Opening};
use crate::Error;

/// A virtio device of the program's own.
#[derive(Clone)]
pub struct CustomConfig(Arc<PowerOn>);

type PowerOn = dyn Fn() -> io::Result<Box<dyn VirtioDevice>> + Send + Sync;

impl CustomConfig {
    /// A device that `power_on` makes for each boot of the guest, in its state after power-on.
    pub fn new(
        power_on: impl Fn() -> io::Result<Box<dyn VirtioDevice>> + Send + Sync + 'static,
    ) -> CustomConfig {
        CustomConfig(Arc::new(power_on))
    }
}

impl fmt::Debug for CustomConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomConfig").finish_non_exhaustive()
    }
}

impl From<CustomConfig> for DeviceKind {
    fn from(custom: CustomConfig) -> DeviceKind {
        DeviceKind::Custom(custom)
    }
}

impl Kind for CustomConfig {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn open(&self, _: &Opening) -> Result<Box<dyn Opened>, Error> {
        Ok(Box::new(self.clone()))
    }
}

impl Opened for CustomConfig {
    fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        (self.0)()
    }
}
