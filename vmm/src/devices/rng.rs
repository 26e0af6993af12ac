//! Entropy devices.

use std::io;

use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::rng::Rng;

use super::{DeviceKind, Kind, Opened, Opening};
use crate::Error;

/// An entropy device of the guest's. There is nothing to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RngConfig {}

impl From<RngConfig> for DeviceKind {
    fn from(rng: RngConfig) -> DeviceKind {
        DeviceKind::Rng(rng)
    }
}

impl Kind for RngConfig {
    fn name(&self) -> &'static str {
        "rng"
    }

    fn open(&self, _: &Opening) -> Result<Box<dyn Opened>, Error> {
        Ok(Box::new(Entropy))
    }
}

struct Entropy;

impl Opened for Entropy {
    fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        Ok(Box::new(Rng::new()?))
    }
}
