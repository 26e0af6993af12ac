//! Network interfaces.

use std::io;
use std::sync::Arc;

use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::net::{Backend as _, Mac, Net, Tap, Vhost, VhostNetFile};

use super::cable::Cable;
use super::{DeviceKind, Kind, Opened, Opening};
use crate::Error;

/// A network interface of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetConfig {
    /// The host's tap interface. It is created if it does not exist and the user has the permission.
    pub tap: String,
    /// The guest's Ethernet address; `None` for a random one.
    pub mac: Option<Mac>,
    /// The longest IP packet that the guest may send or receive, in bytes, 68 at least; `None` for the tap interface's MTU.
    pub mtu: Option<u16>,
    /// Whether the host's kernel (vhost-net) or hvrun serves its queues.
    pub vhost: Vhost,
}

impl NetConfig {
    /// An interface with a random address at this tap interface, whose MTU it has, served by vhost-net if the host has that.
    pub fn tap(name: impl Into<String>) -> NetConfig {
        NetConfig {
            tap: name.into(),
            mac: None,
            mtu: None,
            vhost: Vhost::Auto,
        }
    }
}

impl From<NetConfig> for DeviceKind {
    fn from(net: NetConfig) -> DeviceKind {
        DeviceKind::Net(net)
    }
}

impl Kind for NetConfig {
    fn name(&self) -> &'static str {
        "net"
    }

    fn open(&self, opening: &Opening) -> Result<Box<dyn Opened>, Error> {
        let vhost = self.vhost.open()?;
        let tap = Tap::open(&self.tap)?;
        if let (Some(guest), Some(host)) = (self.mtu, tap.info().mtu)
            && guest > host
        {
            log::warn!(
                "tap interface '{0}': the host drops what is longer than its own MTU, {host}: make that larger \
                 (ip link set {0} mtu {guest})",
                tap.name()
            );
        }
        Ok(Box::new(Interface {
            mtu: self.mtu,
            tap: Arc::new(tap),
            mac: match self.mac {
                Some(mac) => mac,
                None => Mac::random().map_err(Error::host("choose an Ethernet address"))?,
            },
            vhost,
            index: opening.index,
            cable: Cable::default(),
        }))
    }
}

/// A network interface whose tap interface is open.
struct Interface {
    tap: Arc<Tap>,
    mac: Mac,
    mtu: Option<u16>,
    /// Open for as long as the machine is there.
    vhost: Option<VhostNetFile>,
    index: usize,
    cable: Cable,
}

impl Opened for Interface {
    fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        let tap = self.tap.clone();
        let net = Net::on_tap(tap, self.mac, self.mtu, self.vhost.clone(), self.index)?;
        self.cable.attach(&net);
        Ok(Box::new(net))
    }

    fn cable(&self) -> Option<&Cable> {
        Some(&self.cable)
    }
}
