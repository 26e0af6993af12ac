//! vhost-net: the host's kernel serves both queues, between the guest's memory and the tap interface.
//!
//! A thread of this process only forwards its notifications: the driver reads their cause from a register of the
//! transport, which the kernel cannot update.
//!
//! Source: Linux, `include/uapi/linux/vhost.h` and `drivers/vhost/net.c`.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::net::VhostNet;
use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::net::Net as Kernel;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::eventfd::EventFd;

use super::MAX_PACKET;
use super::backend::Backend as _;
use super::device::{Link, RECEIVE, STATUS, Served, TRANSMIT};
use super::receive::{Received, discard};
use super::tap::Tap;
use crate::device_file::{DeviceFile, HostDevice};
use crate::memory::GuestMemoryMmap;
use crate::virtio::{Activation, ActiveQueue, Notifier, QueuePosition};
use crate::{borrowed, lock};

/// The features that change how the queues work, which the kernel has to support.
const QUEUES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Who serves the queues of a network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vhost {
    /// The host's kernel if it can, else this process.
    #[default]
    Auto,
    /// The host's kernel.
    On,
    /// This process.
    Off,
}

impl Vhost {
    /// Opens vhost-net for a device; `None` if this process serves its queues.
    ///
    /// # Errors
    /// If vhost-net is required and cannot be opened.
    pub fn open(self) -> Result<Option<VhostNetFile>, OpenError> {
        if self == Self::Off {
            return Ok(None);
        }
        let kernel = Kernel::new(CurrentMemory::default());
        match kernel.map_err(io_error) {
            Ok(kernel) => Ok(Some(VhostNetFile {
                kernel: Arc::new(kernel),
                required: self == Self::On,
            })),
            Err(_) if self == Self::Auto => Ok(None),
            Err(error) => Err(OpenError(DeviceFile::refused(HostDevice::VhostNet, &error))),
        }
    }
}

/// The memory of the device that is served. It holds on to it, so that the memory stays mapped
/// while the kernel uses it.
#[derive(Clone, Default)]
struct CurrentMemory(Arc<Mutex<Arc<GuestMemoryMmap>>>);

impl GuestAddressSpace for CurrentMemory {
    type M = GuestMemoryMmap;
    type T = Arc<GuestMemoryMmap>;

    fn memory(&self) -> Self::T {
        lock(&self.0).clone()
    }
}

/// An open `/dev/vhost-net`. It serves one device, after each reset anew.
#[derive(Clone)]
pub struct VhostNetFile {
    kernel: Arc<Kernel<CurrentMemory>>,
    /// This process does not serve the queues in its place.
    required: bool,
}

impl fmt::Debug for VhostNetFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostNetFile")
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// A device's use of the file. Dropping it stops the kernel and has it forget queues and memory.
struct InUse(VhostNetFile);

impl Drop for InUse {
    fn drop(&mut self) {
        if let Err(error) = self.0.kernel.reset_owner() {
            log::debug!("vhost-net keeps its queues: {error}");
        }
        *lock(&self.0.kernel.mem().0) = Arc::default();
    }
}

/// Why vhost-net cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}; or leave vhost=on away")]
pub struct OpenError(DeviceFile);

fn io_error(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::VhostOpen(error)
        | vhost::Error::IoctlError(error)
        | vhost::Error::IOError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Passes the guest's memory and the queues to the kernel.
fn set_up(
    file: &VhostNetFile,
    activation: &Activation,
    queues: [&ActiveQueue; 2],
    used: &[EventFd; 2],
    failed: &EventFd,
) -> vhost::Result<InUse> {
    let memory = &activation.memory;
    let kernel = &file.kernel;
    kernel.set_owner()?;
    let in_use = InUse(file.clone());
    *lock(&kernel.mem().0) = Arc::clone(memory);
    let wanted = activation.features & QUEUES;
    if wanted & !kernel.get_features()? != 0 {
        return Err(vhost::Error::InvalidOperation);
    }
    kernel.set_features(wanted)?;
    let regions = memory.iter().map(|region| {
        let start = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|_| vhost::Error::InvalidGuestMemory)?;
        Ok(VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: start as u64,
            mmap_offset: 0,
            mmap_handle: -1,
        })
    });
    kernel.set_mem_table(&regions.collect::<vhost::Result<Vec<_>>>()?)?;
    for ((index, active), used) in queues.into_iter().enumerate().zip(used) {
        let queue = &active.queue;
        kernel.set_vring_num(index, queue.size())?;
        kernel.set_vring_base(index, queue.next_avail())?;
        let rings = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: queue.desc_table(),
            used_ring_addr: queue.used_ring(),
            avail_ring_addr: queue.avail_ring(),
            log_addr: None,
        };
        kernel.set_vring_addr(index, &rings)?;
        kernel.set_vring_call(index, used)?;
        kernel.set_vring_err(index, failed)?;
        kernel.set_vring_kick(index, &active.kick)?;
    }
    Ok(in_use)
}

/// That the host's kernel is to serve the queues of one device.
pub(super) struct Wanted {
    file: VhostNetFile,
    /// The device's back end.
    tap: Arc<Tap>,
    /// That this process serves them in its place has been logged. A driver can make it happen any number of times.
    reported: AtomicBool,
}

impl Wanted {
    /// Has `file` serve a device on `tap`.
    pub fn new(file: VhostNetFile, tap: &Arc<Tap>) -> Self {
        Self {
            file,
            tap: Arc::clone(tap),
            reported: AtomicBool::new(false),
        }
    }

    /// Has the kernel serve the queues, which are the receive queue and the transmit queue. `None` if this process has to.
    ///
    /// # Errors
    /// The kernel refuses, and it is required.
    pub fn start(
        &self,
        link: &Arc<Link>,
        activation: &Activation,
        queues: [&ActiveQueue; 2],
    ) -> io::Result<Option<Server>> {
        match Server::start(self, Arc::clone(link), activation, queues) {
            Ok(server) => return Ok(Some(server)),
            Err(error) if self.file.required => {
                let why = format!(
                    "the host's kernel does not serve its queues, leave vhost=on away: {error}"
                );
                return Err(io::Error::new(error.kind(), why));
            }
            Err(error) if !self.reported.swap(true, Ordering::Relaxed) => {
                log::warn!(
                    "tap interface '{}': the host's kernel does not serve the guest's queues, so hvrun does: {error}",
                    self.tap.name()
                );
            }
            Err(_) => {}
        }
        Ok(None)
    }
}

/// vhost-net serving one device, and the forwarding of its notifications. The kernel stops using the queues when this is
/// dropped, at the latest.
pub(super) struct Server {
    in_use: InUse,
    tap: Arc<Tap>,
    link: Arc<Link>,
    /// Of each queue, by its index.
    used: [EventFd; 2],
    failed: EventFd,
    notifier: Arc<dyn Notifier>,
    lost: Lost,
}

/// What becomes of the packets that come while the link is down: the kernel has the tap only while it is up, and the tap keeps
/// them until then.
struct Lost {
    /// Room for the longest packet.
    space: Vec<u8>,
    /// The tap gives nothing more.
    gone: bool,
}

impl Lost {
    /// Loses some of them, if there are any.
    fn discard(&mut self, tap: &Tap) {
        self.gone |= discard(tap, &mut self.space) == Received::Gone;
    }
}

/// Whether the event, which does not block, was signalled since this was asked last.
fn is_signalled(event: &EventFd) -> bool {
    event.read().is_ok()
}

impl Server {
    fn start(
        wanted: &Wanted,
        link: Arc<Link>,
        activation: &Activation,
        queues: [&ActiveQueue; 2],
    ) -> io::Result<Self> {
        let nonblocking = libc::EFD_NONBLOCK | libc::EFD_CLOEXEC;
        let used = [EventFd::new(nonblocking)?, EventFd::new(nonblocking)?];
        let failed = EventFd::new(nonblocking)?;
        let in_use = set_up(&wanted.file, activation, queues, &used, &failed).map_err(io_error)?;
        let mut server = Self {
            in_use,
            tap: Arc::clone(&wanted.tap),
            link,
            used,
            failed,
            notifier: Arc::clone(&activation.notifier),
            lost: Lost {
                space: vec![0; MAX_PACKET],
                gone: false,
            },
        };
        server.connect().map_err(io_error)?;
        // The kernel looks at a queue when it is notified. For requests that are there already, the previous server of the
        // queue was notified.
        for queue in queues {
            let _ = queue.kick.write(1);
        }
        Ok(server)
    }

    /// Attaches the tap to the queues while the link is up, and detaches it otherwise.
    fn connect(&mut self) -> vhost::Result<()> {
        let tap = self.link.is_up().then_some(self.tap.file());
        let kernel = &self.in_use.0.kernel;
        kernel.set_backend(0, tap)?;
        kernel.set_backend(1, tap)
    }

    /// Forwards notifications until it is told to stop. Then the kernel does not serve the queues any more.
    pub fn run(&mut self, stop: &AtomicBool) -> Served {
        self.hand_on(stop);
        let served = self.stop().unwrap_or_else(|error| {
            self.notifier.needs_reset(&error);
            Vec::new()
        });
        // What the kernel has used until then.
        self.forward_used();
        Served {
            positions: served,
            pending: None,
        }
    }

    /// Takes the queues from the kernel.
    fn stop(&mut self) -> vhost::Result<Vec<QueuePosition>> {
        let kernel = &self.in_use.0.kernel;
        [RECEIVE, TRANSMIT]
            .into_iter()
            .map(|index| {
                kernel.set_backend(index.into(), None)?;
                let base = kernel.get_vring_base(index.into())?;
                // The index of a ring has 16 bits.
                let next = u16::try_from(base).map_err(|_| vhost::Error::InvalidQueue)?;
                Ok(QueuePosition { index, next })
            })
            .collect()
    }

    /// Tells the driver of the used buffers that the kernel has signalled.
    fn forward_used(&self) {
        for (queue, used) in [RECEIVE, TRANSMIT].into_iter().zip(&self.used) {
            if is_signalled(used) {
                self.notifier.used(queue);
            }
        }
    }

    fn hand_on(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            if self.link.take_changed() {
                self.notifier.config(STATUS, &self.link.status());
                if self.link.is_up() {
                    // Those that came after the last look.
                    self.lost.discard(&self.tap);
                }
                if let Err(error) = self.connect() {
                    self.notifier.needs_reset(&error);
                    return;
                }
            }
            let [received, transmitted] = &self.used;
            let events = [self.link.event(), &self.failed, received, transmitted];
            // What is ready is asked of each event below, when it is taken from it: one that is signalled between the wait and
            // that must not be lost.
            let events = events.map(|event| PollFd::new(borrowed(event), PollFlags::POLLIN));
            let packets = PollFd::new(self.tap.readiness(), PollFlags::POLLIN);
            let unwanted = !self.link.is_up() && !self.lost.gone;
            let fds = events.into_iter().chain(unwanted.then_some(packets));
            let mut fds: Vec<_> = fds.collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => {
                    self.notifier.needs_reset(&error);
                    return;
                }
            }
            let _ = self.link.event().read();
            if unwanted {
                self.lost.discard(&self.tap);
            }
            self.forward_used();
            if is_signalled(&self.failed) {
                self.notifier
                    .needs_reset(&"the host's kernel finds its queues broken");
                return;
            }
        }
    }
}
