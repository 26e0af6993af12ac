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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_the_programs_own_is_made_for_each_boot() {
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let custom = CustomConfig::new({
            let made = made.clone();
            move || {
                made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        });
        assert_eq!(custom.name(), "custom");
        assert_eq!(format!("{custom:?}"), "CustomConfig { .. }");
        for count in 1..3 {
            let refused = custom.power_on().err().map(|error| error.kind());
            assert_eq!(refused, Some(io::ErrorKind::OutOfMemory));
            assert_eq!(made.load(std::sync::atomic::Ordering::SeqCst), count);
        }
    }
}
