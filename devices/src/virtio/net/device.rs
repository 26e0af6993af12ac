//! The network device's features and configuration space, and its start and stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
    VIRTIO_NET_S_LINK_UP,
};
use vmm_sys_util::eventfd::EventFd;

use super::MAX_PACKET;
use super::backend::Backend;
use super::mac::Mac;
use super::tap::Tap;
use super::vhost::{self, VhostNetFile};
use super::worker::{self, Setup};
use crate::state::{self, RestoreError};
use crate::thread::{Role, WorkerThread};
use crate::virtio::serving::Serving;
use crate::virtio::{Activation, ActiveQueue, QueuePosition, VirtioDevice};

/// Descriptors in each queue, as in QEMU.
const QUEUE_SIZE: u16 = 256;

/// Bytes of `struct virtio_net_hdr_v1`, and of the header without `num_buffers` that the legacy interface has unless
/// buffers are mergeable (VIRTIO 1.3, sections 5.1.6 and 5.1.6.1).
const HEADER: usize = 12;
const LEGACY_HEADER: usize = 10;

/// The longest IP packet where nobody has said otherwise, in bytes.
const DEFAULT_MTU: u16 = 1500;

/// Whether the cable is plugged in, as the guest sees it. It is at first.
#[derive(Debug)]
pub struct Link {
    up: AtomicBool,
    changed: AtomicBool,
    /// Wakes the worker.
    wake: EventFd,
}

impl Link {
    /// Plugs the cable in or out. Packets are lost while it is out.
    pub fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::AcqRel) != up {
            self.changed.store(true, Ordering::Release);
            self.wake();
        }
    }

    /// Whether it is plugged in.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// The configuration space's `status` field, which is at [`STATUS`] (VIRTIO 1.3, section 5.1.4).
    pub(super) fn status(&self) -> [u8; 2] {
        let status = if self.is_up() {
            VIRTIO_NET_S_LINK_UP
        } else {
            0
        };
        let [low, high, ..] = status.to_le_bytes();
        [low, high]
    }

    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.wake
    }

    pub(super) fn wake(&self) {
        // It fails only if the counter overflows, and then the event is signalled already.
        let _ = self.wake.write(1);
    }
}

/// The queues (section 5.1.2).
pub(super) const RECEIVE: u16 = 0;
pub(super) const TRANSMIT: u16 = 1;

/// Where `status` is in the configuration space: behind the address.
pub(super) const STATUS: usize = 6;

/// Who serves the queues.
enum Server {
    /// The host's kernel.
    Kernel(Box<vhost::Server>),
    /// This process.
    Own(Box<(Setup, Activation, ActiveQueue, ActiveQueue)>),
}

/// How far the queues have been served.
#[derive(Default)]
pub(super) struct Served {
    /// Of the queues that are not broken.
    pub positions: Vec<QueuePosition>,
    /// A packet that was taken from the back end, and for which the driver has no room yet.
    pub pending: Option<Vec<u8>>,
}

/// What a network device knows beside its queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetState {
    /// The guest's driver has read these.
    mac: [u8; 6],
    mtu: Option<u16>,
    link_up: bool,
    /// The driver has not been told of the link's last change.
    link_changed: bool,
    /// As in [`Served`].
    pending: Option<Vec<u8>>,
}

/// A virtio network device with one pair of queues, served by the host's kernel or by a thread named `virtio-net-N`.
pub struct Net {
    backend: Arc<dyn Backend>,
    mac: Mac,
    /// What the driver is told of the longest IP packet, in bytes.
    mtu: Option<u16>,
    link: Arc<Link>,
    /// The host's kernel is to serve the queues.
    vhost: Option<Arc<vhost::Wanted>>,
    thread: WorkerThread,
    serving: Option<Serving<Served>>,
    /// As in [`Served`], while nobody serves the queues.
    pending: Option<Vec<u8>>,
}

impl Net {
    /// A device on `backend` with the address `mac`, whose queues a thread of this process serves. The driver is told that IP
    /// packets are at most `mtu` bytes long, 68 at least; `None` stands for the back end's MTU. `index` only names the thread.
    ///
    /// # Errors
    /// If the host has no file descriptor or thread left.
    pub fn new(
        backend: Arc<dyn Backend>,
        mac: Mac,
        mtu: Option<u16>,
        index: usize,
    ) -> io::Result<Self> {
        let link = Link {
            up: AtomicBool::new(true),
            changed: AtomicBool::new(false),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        };
        Ok(Self {
            mac,
            mtu: mtu.or(backend.info().mtu),
            backend,
            link: Arc::new(link),
            vhost: None,
            thread: WorkerThread::spawn(Role::Net(index))?,
            serving: None,
            pending: None,
        })
    }

    /// The same on a tap interface, whose queues `vhost` serves if there is one: the kernel needs no other part of a back end than
    /// the interface's descriptor.
    ///
    /// # Errors
    /// As those of [`new`](Self::new).
    pub fn on_tap(
        tap: Arc<Tap>,
        mac: Mac,
        mtu: Option<u16>,
        vhost: Option<VhostNetFile>,
        index: usize,
    ) -> io::Result<Self> {
        let vhost = vhost.map(|file| Arc::new(vhost::Wanted::new(file, &tap)));
        let mut net = Self::new(tap, mac, mtu, index)?;
        net.vhost = vhost;
        Ok(net)
    }

    /// The cable.
    #[must_use]
    pub fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn name(&self) -> String {
        format!("network interface on {}", self.backend.info().name)
    }

    fn features(&self) -> u64 {
        let mtu = self.mtu.map_or(0, |_| 1 << VIRTIO_NET_F_MTU);
        self.backend.info().features
            | mtu
            | 1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_STATUS
            | 1 << VIRTIO_NET_F_MRG_RXBUF
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    /// `struct virtio_net_config` (section 5.1.4), up to the MTU. Between status and MTU is the number of queue pairs, which is
    /// that of a feature that is not offered.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mtu = self.mtu.unwrap_or(0).to_le_bytes();
        let config = self.mac.0.into_iter().chain(self.link.status());
        let config = config.chain([0, 0]).chain(mtu);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(config.skip(offset)) {
            *to = from;
        }
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let features = activation.features;
        let mut take = |index| {
            let queues = &mut activation.queues;
            let position = queues.iter().position(|queue| queue.index == index)?;
            Some(queues.swap_remove(position))
        };
        let (Some(receive), Some(transmit)) = (take(RECEIVE), take(TRANSMIT)) else {
            // A driver that is not finished, or uses no network.
            return Ok(());
        };
        let long = features & (1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF) != 0;
        let header = if long { HEADER } else { LEGACY_HEADER };
        let setup = Setup {
            backend: Arc::clone(&self.backend),
            link: Arc::clone(&self.link),
            header,
            pending: self.pending.take(),
            mtu: self.mtu.unwrap_or(DEFAULT_MTU),
        };
        let vhost = self.vhost.clone();
        // By the device's thread, because a vCPU's may not change an interface. The driver waits for it: it is to know whether
        // its device works.
        let server = self.thread.run(move || {
            setup.backend.configure(header, features)?;
            let queues = [&receive, &transmit];
            let kernel = match vhost {
                Some(vhost) => vhost.start(&setup.link, &activation, queues)?,
                None => None,
            };
            Ok(match kernel {
                Some(server) => Server::Kernel(Box::new(server)),
                None => Server::Own(Box::new((setup, activation, receive, transmit))),
            })
        });
        let ended = || Err(io::Error::other("the device's thread has ended"));
        let server = server.wait().unwrap_or_else(ended)?;
        self.serving = Some(Serving::start(&self.thread, move |stop| match server {
            Server::Kernel(mut server) => server.run(stop),
            Server::Own(own) => {
                let (setup, activation, receive, transmit) = *own;
                worker::serve(setup, &activation, receive, transmit, stop)
            }
        }));
        Ok(())
    }

    fn pause(&mut self) -> Vec<QueuePosition> {
        let Some(serving) = self.serving.take() else {
            return Vec::new();
        };
        let served = serving.stop(|| self.link.wake()).unwrap_or_default();
        self.pending = served.pending;
        served.positions
    }

    fn reset(&mut self) {
        self.pause();
        self.pending = None;
    }

    fn save(&self) -> Value {
        state::to_value(&NetState {
            mac: self.mac.0,
            mtu: self.mtu,
            link_up: self.link.is_up(),
            link_changed: self.link.changed.load(Ordering::Acquire),
            pending: self.pending.clone(),
        })
    }

    /// A packet that was taken from the back end comes first, unless the host's kernel serves the queues, which knows
    /// nothing of it: then it is lost, as packets are.
    fn restore(&mut self, state: Value) -> Result<(), RestoreError> {
        let state: NetState = state::from_value(state)?;
        let name = self.name();
        if state.mac != self.mac.0 {
            let mac = Mac(state.mac);
            return Err(RestoreError::mismatch(format!(
                "the {name} had the address {mac}"
            )));
        }
        if state.mtu != self.mtu {
            return Err(RestoreError::mismatch(format!(
                "the {name} had another MTU"
            )));
        }
        let length = state.pending.as_ref().map_or(0, Vec::len);
        RestoreError::unless(length <= MAX_PACKET, "a packet that is too long")?;
        self.pending = state.pending;
        self.link.up.store(state.link_up, Ordering::Release);
        self.link
            .changed
            .store(state.link_changed, Ordering::Release);
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.pause();
    }
}
