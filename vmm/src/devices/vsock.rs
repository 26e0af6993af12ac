//! Vsocks.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::vsock::{Endpoint, Vsock};

use super::{DeviceKind, Kind, Opened, Opening};
use crate::Error;

/// A vsock of the guest's: connections between programs of the guest and Unix sockets of the host, by Firecracker's convention. A guest
/// has one at most, because its driver serves no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's address: 3 to 2^32 - 2. On one host, several guests may have the same.
    pub cid: u32,
    /// The Unix socket at which programs of the host connect to the guest. The guest's connections to the host's port `P` go to the socket
    /// whose path is this with `_P` behind it. At most 96 bytes.
    pub path: PathBuf,
}

impl VsockConfig {
    /// A vsock for a guest with this address, on a socket at this path.
    pub fn new(cid: u32, path: impl Into<PathBuf>) -> VsockConfig {
        VsockConfig {
            cid,
            path: path.into(),
        }
    }
}

impl From<VsockConfig> for DeviceKind {
    fn from(vsock: VsockConfig) -> DeviceKind {
        DeviceKind::Vsock(vsock)
    }
}

impl Kind for VsockConfig {
    fn name(&self) -> &'static str {
        "vsock"
    }

    fn second(&self) -> Option<Error> {
        Some(Error::TwoVsocks)
    }

    fn open(&self, _: &Opening) -> Result<Box<dyn Opened>, Error> {
        let endpoint = Endpoint::open(self.cid, &self.path)?;
        Ok(Box::new(OpenVsock(Arc::new(endpoint))))
    }
}

/// A vsock whose socket is open.
struct OpenVsock(Arc<Endpoint>);

impl Opened for OpenVsock {
    fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        Ok(Box::new(Vsock::new(self.0.clone())?))
    }
}
