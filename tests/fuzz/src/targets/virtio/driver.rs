//! The driver, and what it knows of the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hv_devices::bus::MmioDevice;
use hv_devices::chardev::InputSink;
use hv_devices::interrupt::IrqLine;
use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::block::{Block, Serial};
use hv_devices::virtio::console::{Console, PortConfig, Ports};
use hv_devices::virtio::net::{Link, Net};
use hv_devices::virtio::rng::Rng;
use hv_devices::virtio::transport::mmio::{MmioTransport, RegisterPages, Version};
use hv_devices::virtio::vsock::Vsock;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::backends::{CID, Disk, Network, Printer, Programs};
use crate::input::Input;
use crate::mutation::Random;

/// RAM: two regions, with the border in the middle of what buffers are in.
const RAM: u64 = 0x8000_0000;
const RAM_SIZE: usize = 0x2_0000;
const BORDER: u64 = RAM + 0x1_8000;

/// The memory of each queue: the table, and where the rings are in it.
const QUEUE_STRIDE: u64 = 0x1000;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xa00;
/// What a legacy driver writes to QueueAlign.
const ALIGN: u64 = 64;

/// Where status bytes of block requests are, one for each queue entry, and other buffers.
const STATUS: u64 = RAM + 0xf000;
const DATA: u64 = RAM + 0x1_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const NEEDS_RESET: u32 = 64;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT_DESC: u64 = 1 << 28;
const VERSION_1: u64 = 1 << 32;

/// A request that takes longer is lost. Much more than any takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Block,
    Net,
    Console,
    Rng,
    Vsock,
}

/// What is behind the device.
enum Host {
    Disk(Arc<Disk>),
    Network(Arc<Network>, Arc<Link>),
    Terminal(Arc<Ports>, Arc<Printer>),
    Programs(Programs),
    Nothing,
}

#[derive(Default)]
struct Line(AtomicBool);

impl IrqLine for Line {
    fn set_level(&self, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }
}

/// A chain that the device has.
struct Outstanding {
    head: u16,
    /// Entries of the table.
    entries: u16,
    /// Bytes that the device may write.
    room: u64,
    /// Where the status byte is.
    status: Option<u64>,
}

/// A queue, as its driver knows it.
#[derive(Default)]
struct Queue {
    outstanding: Vec<Outstanding>,
    /// The next entry of the table; entries are used in a circle.
    next: u16,
    offered: u16,
    seen: u16,
}

pub struct Driver {
    kind: Kind,
    version: Version,
    size: u16,
    memory: Arc<GuestMemoryMmap>,
    line: Arc<Line>,
    transport: MmioTransport,
    host: Host,
    queues: Vec<Queue>,
    event_idx: bool,
    /// Memory as it should be, but for what the device may write.
    shadow: Vec<u8>,
    /// The bytes that the device may write.
    writable: Vec<bool>,
    /// Something was used since the interrupt was acknowledged.
    used: bool,
}

impl Driver {
    /// A driver of a device after power-on. `other` is another configuration of the device.
    pub fn new(kind: Kind, legacy: bool, other: bool, size: u16) -> Self {
        let regions = [
            (GuestAddress(RAM), (BORDER - RAM) as usize),
            (GuestAddress(BORDER), RAM_SIZE - (BORDER - RAM) as usize),
        ];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&regions).expect("memory can be made"));
        let line = Arc::<Line>::default();
        let version = if legacy {
            Version::Legacy
        } else {
            Version::Modern
        };
        let (device, host) = device(kind, other).expect("the host has threads and descriptors");
        let page = RegisterPages::new(1)
            .expect("memory can be made")
            .get(0)
            .expect("there is a slot");
        let transport = MmioTransport::new(version, device, memory.clone(), line.clone(), page);
        let transport = transport.expect("the host has descriptors");
        let queues = (0..transport.queue_count())
            .map(|_| Queue::default())
            .collect();
        Self {
            kind,
            version,
            size,
            memory,
            line,
            transport,
            host,
            queues,
            event_idx: false,
            shadow: vec![0; RAM_SIZE],
            writable: vec![false; RAM_SIZE],
            used: false,
        }
    }

    fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    /// Writes to memory, as far as there is any.
    fn put(&mut self, address: u64, bytes: &[u8]) {
        let Some(at) = address
            .checked_sub(RAM)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return;
        };
        if let Some(place) = at
            .checked_add(bytes.len())
            .and_then(|end| self.shadow.get_mut(at..end))
        {
            place.copy_from_slice(bytes);
            let _ = self.memory.write_slice(bytes, GuestAddress(address));
        }
    }

    fn get_u16(&self, address: u64) -> u16 {
        self.memory
            .load(GuestAddress(address), Ordering::Acquire)
            .expect("it is in memory")
    }

    fn get_u32(&self, address: u64) -> u32 {
        self.memory
            .read_obj(GuestAddress(address))
            .expect("it is in memory")
    }

    /// The device may write here.
    fn allow(&mut self, address: u64, length: u64) {
        let start = address.saturating_sub(RAM).min(RAM_SIZE as u64) as usize;
        let end = address
            .saturating_add(length)
            .saturating_sub(RAM)
            .min(RAM_SIZE as u64) as usize;
        self.writable[start..end].fill(true);
    }

    fn table(queue: usize) -> u64 {
        RAM + QUEUE_STRIDE * queue as u64
    }

    fn available(&self, queue: usize) -> u64 {
        match self.version {
            Version::Modern => Self::table(queue) + AVAILABLE,
            Version::Legacy => Self::table(queue) + 16 * u64::from(self.size),
        }
    }

    fn used_ring(&self, queue: usize) -> u64 {
        match self.version {
            Version::Modern => Self::table(queue) + USED,
            Version::Legacy => {
                (self.available(queue) + 6 + 2 * u64::from(self.size)).next_multiple_of(ALIGN)
            }
        }
    }

    /// Resets the device, negotiates what it offers, and sets all queues up.
    pub fn start(&mut self, event_idx: bool) {
        self.reset();
        self.event_idx = event_idx;
        self.write(VIRTIO_MMIO_STATUS, 3);
        let mut offered = 0;
        for word in [1, 0] {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, word);
            offered = offered << 32 | u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES));
        }
        assert_eq!(offered & VERSION_1 != 0, self.version == Version::Modern);
        assert!(offered & INDIRECT_DESC != 0 && offered & EVENT_IDX != 0);
        let wanted = if event_idx {
            offered
        } else {
            offered & !EVENT_IDX
        };
        for (word, half) in [(0, wanted), (1, wanted >> 32)] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, half as u32);
        }
        if self.version == Version::Modern {
            self.write(VIRTIO_MMIO_STATUS, 11);
            assert_eq!(
                self.read(VIRTIO_MMIO_STATUS),
                11,
                "what is offered can be agreed on"
            );
        } else {
            self.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 4096);
        }
        for queue in 0..self.queues.len() {
            self.put(Self::table(queue), &[0; QUEUE_STRIDE as usize]);
            self.write(VIRTIO_MMIO_QUEUE_SEL, queue as u32);
            let most = self.read(VIRTIO_MMIO_QUEUE_NUM_MAX);
            // The entropy device's queue is small.
            self.size = self.size.min(most as u16);
            self.write(VIRTIO_MMIO_QUEUE_NUM, self.size.into());
            if self.version == Version::Modern {
                self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, Self::table(queue) as u32);
                self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, self.available(queue) as u32);
                self.write(VIRTIO_MMIO_QUEUE_USED_LOW, self.used_ring(queue) as u32);
                self.write(VIRTIO_MMIO_QUEUE_READY, 1);
                assert_eq!(self.read(VIRTIO_MMIO_QUEUE_READY), 1);
            } else {
                self.write(VIRTIO_MMIO_QUEUE_ALIGN, ALIGN as u32);
                self.write(VIRTIO_MMIO_QUEUE_PFN, (Self::table(queue) >> 12) as u32);
            }
            // The ring, and the event behind it.
            self.allow(self.used_ring(queue), 6 + 8 * u64::from(self.size));
        }
        self.write(
            VIRTIO_MMIO_STATUS,
            if self.version == Version::Modern {
                15
            } else {
                7
            },
        );
        assert_eq!(
            self.read(VIRTIO_MMIO_STATUS) & NEEDS_RESET,
            0,
            "the device starts"
        );
    }

    /// Resets the device. It is silent then.
    pub fn reset(&mut self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 0);
        assert_eq!(self.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        assert!(
            !self.line.0.load(Ordering::SeqCst),
            "the line is low after a reset"
        );
        let mut before = vec![0; RAM_SIZE];
        self.memory
            .read_slice(&mut before, GuestAddress(RAM))
            .expect("it is memory");
        for queue in 0..self.queues.len() {
            self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
            self.queues[queue] = Queue::default();
        }
        self.shadow.resize(RAM_SIZE, 0);
        self.memory
            .read_slice(&mut self.shadow, GuestAddress(RAM))
            .expect("it is memory");
        assert!(
            self.shadow == before,
            "the device writes to memory after a reset"
        );
        self.writable.fill(false);
        self.used = false;
    }

    /// A place for a buffer, and its length.
    fn buffer(input: &mut Input<'_>) -> (u64, u32) {
        let length = match input.byte() {
            small @ 0..192 => u32::from(small),
            _ => u32::from(input.u16()) % 0x2000,
        };
        (DATA + u64::from(input.u16()) % 0xe000, length)
    }

    /// Makes a request that the device understands available, in pieces of any size.
    pub fn request(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let queue = match self.kind {
            Kind::Block | Kind::Rng => 0,
            Kind::Net | Kind::Console | Kind::Vsock => usize::from(kind) % self.queues.len(),
        };
        let head = self.queues[queue].next;
        if self.is_taken(queue, head) {
            return;
        }
        let mut buffers = Vec::new();
        let count = 1 + input.below(4);
        let is_read = match self.kind {
            Kind::Block => {
                let header = DATA + 0xf000 + 16 * u64::from(head);
                let types = [0, 1, 4, 8, 11, 13, 2, 99_u32];
                let kind = types[usize::from(kind) % types.len()];
                let sector = u64::from(input.byte()) % 70;
                let mut bytes = kind.to_le_bytes().to_vec();
                bytes.extend([0; 4]);
                bytes.extend(sector.to_le_bytes());
                self.put(header, &bytes);
                buffers.push((header, 16, 0));
                matches!(kind, 0 | 8)
            }
            Kind::Rng => true,
            // Receive queues are even, transmit queues odd (sections 5.1.2 and 5.3.2).
            Kind::Net | Kind::Console => queue % 2 == 0,
            // Only the second one is for packets of the driver's (section 5.10.2).
            Kind::Vsock if queue == 1 => {
                let header = DATA + 0xf000 + 64 * u64::from(head % 64);
                let bytes = packet(input);
                self.put(header, &bytes);
                buffers.push((header, bytes.len() as u32, 0));
                false
            }
            Kind::Vsock => true,
        };
        for _ in 0..count {
            let (address, length) = Self::buffer(input);
            // A disk is read and written in sectors.
            let length = if self.kind == Kind::Block && input.byte() < 192 {
                length.next_multiple_of(512)
            } else {
                length
            };
            buffers.push((address, length, if is_read { WRITE } else { 0 }));
        }
        let status = (self.kind == Kind::Block).then_some(STATUS + u64::from(head));
        if let Some(address) = status {
            self.put(address, &[0xff]);
            buffers.push((address, 1, WRITE));
        }
        self.offer(queue, &buffers, input.byte() & 1 == 0, status);
    }

    /// Whether the device has this entry of the table.
    fn is_taken(&self, queue: usize, entry: u16) -> bool {
        let mut chains = self.queues[queue].outstanding.iter();
        chains.any(|chain| (entry + self.size - chain.head) % self.size < chain.entries)
    }

    /// Makes any chain available.
    pub fn chain(&mut self, input: &mut Input<'_>) {
        let queue = input.below(self.queues.len());
        let count = input.below(6);
        let buffers: Vec<_> = (0..count)
            .map(|_| {
                let flags = u16::from(input.byte()) & WRITE;
                match input.byte() {
                    0..224 => {
                        let (address, length) = Self::buffer(input);
                        (address, length, flags)
                    }
                    // Nowhere, or beyond the end of memory. On a ring it would be the driver's fault what comes of it.
                    224..240 => (input.number() | 1 << 40, input.u32(), flags),
                    _ => (DATA + 0xff00 + u64::from(input.byte()), input.u32(), flags),
                }
            })
            .collect();
        self.offer(queue, &buffers, input.byte() & 1 == 0, None);
    }

    /// Puts a chain of these buffers (address, length, flags) into the table, or into a table of its own, and makes it available.
    fn offer(
        &mut self,
        queue: usize,
        buffers: &[(u64, u32, u16)],
        indirect: bool,
        status: Option<u64>,
    ) {
        let entries = if indirect { 1 } else { buffers.len() as u16 };
        let head = self.queues[queue].next;
        let is_free = |n| !self.is_taken(queue, (head + n) % self.size);
        if buffers.is_empty() || entries > self.size || !(0..entries).all(is_free) {
            return;
        }
        let descriptor = |&(address, length, flags): &(u64, u32, u16), next: Option<u16>| {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(length.to_le_bytes());
            bytes.extend((flags | if next.is_some() { NEXT } else { 0 }).to_le_bytes());
            bytes.extend(next.unwrap_or(0).to_le_bytes());
            bytes
        };
        if indirect {
            let table = STATUS + 0x100 + 16 * 8 * u64::from(head % 16);
            for (n, buffer) in buffers.iter().enumerate() {
                let next = (n + 1 < buffers.len()).then_some(n as u16 + 1);
                self.put(table + 16 * n as u64, &descriptor(buffer, next));
            }
            let whole = (table, 16 * buffers.len() as u32, INDIRECT);
            self.put(
                Self::table(queue) + 16 * u64::from(head),
                &descriptor(&whole, None),
            );
        } else {
            for (n, buffer) in buffers.iter().enumerate() {
                let at = |n: usize| (head + n as u16) % self.size;
                let next = (n + 1 < buffers.len()).then(|| at(n + 1));
                self.put(
                    Self::table(queue) + 16 * u64::from(at(n)),
                    &descriptor(buffer, next),
                );
            }
        }
        let mut room = 0;
        for &(address, length, flags) in buffers {
            if flags & WRITE != 0 {
                self.allow(address, length.into());
                room += u64::from(length);
            }
        }
        let ring = self.available(queue);
        let size = self.size;
        let model = &mut self.queues[queue];
        let slot = u64::from(model.offered % size);
        model.offered = model.offered.wrapping_add(1);
        model.next = (model.next + entries) % size;
        model.outstanding.push(Outstanding {
            head,
            entries,
            room,
            status,
        });
        let offered = model.offered;
        self.put(ring + 4 + 2 * slot, &head.to_le_bytes());
        // The index last, and at once, as the device may look at any time.
        let _ = self
            .memory
            .store(offered, GuestAddress(ring + 2), Ordering::Release);
        self.put(ring + 2, &offered.to_le_bytes());
    }

    pub fn notify(&mut self, input: &mut Input<'_>) {
        let queue = input.below(self.queues.len() + 1);
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
    }

    /// Acknowledges the interrupt. The device is paused meanwhile, so that it is known for what.
    pub fn acknowledge(&mut self, well_behaved: bool) {
        self.transport.pause();
        if well_behaved {
            self.take_all_used();
        }
        self.used = false;
        self.write(
            VIRTIO_MMIO_INTERRUPT_ACK,
            self.read(VIRTIO_MMIO_INTERRUPT_STATUS),
        );
        self.check_line();
        self.transport.resume();
    }

    /// The host does something: a disk breaks or is well again, packets or input arrive, a reader reads.
    pub fn host(&mut self, input: &mut Input<'_>) {
        match &mut self.host {
            Host::Disk(disk) => {
                let kind = input.byte();
                disk.broken.store(kind & 1 != 0, Ordering::Relaxed);
                disk.quick.store(kind & 2 == 0, Ordering::Relaxed);
            }
            Host::Network(network, link) => match input.below(4) {
                0 | 1 => {
                    let length = usize::from(input.u16()) % 4000;
                    let _ = network.host.send(&vec![0x5a; length]);
                }
                2 => link.set(input.byte() & 1 == 0),
                _ => while network.take() {},
            },
            Host::Terminal(ports, printer) => match input.below(4) {
                0 | 1 => {
                    let (port, count) = (input.below(4), input.below(64));
                    let bytes = input.bytes(count);
                    if let Some(port) = ports.get(port) {
                        assert!(port.receive(bytes) <= bytes.len());
                    }
                }
                2 => {
                    if let Some(port) = ports.get(input.below(4)) {
                        port.set_size(input.byte().into(), input.byte().into());
                        port.take_received(&mut [0; 4]);
                    }
                }
                _ => printer.set_room(input.u16().into()),
            },
            Host::Programs(programs) => programs.act(input),
            Host::Nothing => {}
        }
    }

    /// An access that changes nothing: a load, or a store to a register by a width that it has not.
    pub fn harmless_access(&mut self, input: &mut Input<'_>) {
        let offset = match input.byte() {
            0..200 => u64::from(input.u16()) % 0x1100,
            _ => input.number(),
        };
        let mut data = vec![0; input.choose(&[1, 2, 4, 8, 0, 3, 32])];
        self.transport.read(offset, &mut data);
        // The configuration space takes every width.
        if data.len() != 4 && offset < 0x100 {
            let bytes = vec![input.byte(); data.len()];
            self.transport.write(offset, &bytes);
            let mut after = vec![0; bytes.len()];
            self.transport.read(0, &mut after);
        }
        let mut magic = [0; 4];
        self.transport.read(0, &mut magic);
        assert_eq!(&magic, b"virt");
    }

    /// Saves the state, and puts it back. Whatever the driver has done, its machine can be saved.
    pub fn save_and_restore(&mut self) {
        let state = self.transport.save();
        let text = serde_json::to_string(&state).expect("a state is JSON");
        let same = serde_json::from_str(&text).expect("and back");
        self.transport
            .restore(same)
            .expect("a state can be put back");
        assert_eq!(
            serde_json::to_string(&self.transport.save()).expect("a state is JSON"),
            text
        );
        self.check_line();
        self.transport.resume();
    }

    fn has_failed(&self) -> bool {
        self.read(VIRTIO_MMIO_STATUS) & NEEDS_RESET != 0
    }

    fn check_line(&self) {
        let status = self.read(VIRTIO_MMIO_INTERRUPT_STATUS);
        assert_eq!(
            self.line.0.load(Ordering::SeqCst),
            status != 0,
            "line and InterruptStatus {status:#x}"
        );
    }

    /// Pauses the device, and looks at what it has done.
    pub fn settle(&mut self, well_behaved: bool) {
        self.transport.pause();
        self.check_line();
        if well_behaved {
            self.take_all_used();
            let status = self.read(VIRTIO_MMIO_INTERRUPT_STATUS);
            // A device that has failed says so instead.
            if self.used && !self.event_idx && !self.has_failed() {
                assert_eq!(
                    status & 1,
                    1,
                    "buffers were used, and the driver was not told"
                );
            }
            self.check_memory();
        }
        self.transport.resume();
    }

    fn take_all_used(&mut self) {
        for queue in 0..self.queues.len() {
            self.take_used(queue);
        }
    }

    /// Takes over what the device has used.
    fn take_used(&mut self, queue: usize) {
        let ring = self.used_ring(queue);
        let index = self.get_u16(ring + 2);
        let count = index.wrapping_sub(self.queues[queue].seen);
        let available = self.queues[queue].outstanding.len();
        assert!(
            usize::from(count) <= available,
            "{count} chains are used of {available}"
        );
        for _ in 0..count {
            let slot = u64::from(self.queues[queue].seen % self.size);
            let (head, length) = (
                self.get_u32(ring + 4 + 8 * slot),
                self.get_u32(ring + 8 + 8 * slot),
            );
            let model = &mut self.queues[queue];
            model.seen = model.seen.wrapping_add(1);
            let position = model
                .outstanding
                .iter()
                .position(|chain| u32::from(chain.head) == head);
            let chain = model
                .outstanding
                .remove(position.unwrap_or_else(|| panic!("chain {head} is not the device's")));
            assert!(
                u64::from(length) <= chain.room,
                "{length} bytes are in {}",
                chain.room
            );
            if let Some(address) = chain.status {
                let status: u8 = self
                    .memory
                    .read_obj(GuestAddress(address))
                    .expect("it is memory");
                assert!(status <= 2, "status {status}");
            }
            self.used = true;
        }
    }

    /// The device has written to nothing but its rings and the buffers for that.
    fn check_memory(&mut self) {
        let mut now = vec![0; RAM_SIZE];
        self.memory
            .read_slice(&mut now, GuestAddress(RAM))
            .expect("it is memory");
        let differs = |at: usize| now[at] != self.shadow[at] && !self.writable[at];
        if now != self.shadow
            && let Some(at) = (0..RAM_SIZE).find(|at| differs(*at))
        {
            panic!("the device wrote to {:#x}", RAM + at as u64);
        }
        self.shadow = now;
    }

    /// Notifies all queues, and, where the device uses every chain by itself, waits until it has.
    pub fn drain(&mut self, well_behaved: bool) {
        for queue in 0..self.queues.len() {
            self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
        }
        let queues: &[usize] = match self.kind {
            Kind::Block | Kind::Rng => &[0],
            // There are fewer steps than packets of the driver's that a vsock takes without an answer being taken.
            Kind::Net | Kind::Vsock => &[1],
            Kind::Console => &[],
        };
        if well_behaved {
            let limit = Instant::now() + LIMIT;
            for queue in queues {
                loop {
                    self.take_used(*queue);
                    if self.queues[*queue].outstanding.is_empty() || self.has_failed() {
                        break;
                    }
                    if let Host::Network(network, _) = &self.host {
                        while network.take() {}
                    }
                    assert!(Instant::now() < limit, "a request is lost");
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
        self.settle(well_behaved);
    }

    pub fn write_register(&mut self, input: &mut Input<'_>) {
        let register = u32::from(input.byte()) % 0x50 * 4;
        let value = match input.byte() {
            0..64 => input.byte().into(),
            64..128 => input.number() as u32,
            128..192 => (RAM as u32) + u32::from(input.u16()),
            _ => input.u32(),
        };
        self.write(register, value);
    }

    pub fn write_anywhere(&mut self, input: &mut Input<'_>) {
        let offset = u64::from(input.u16()) % 0x1010;
        let width = input.choose(&[1, 2, 4, 8, 0, 3, 32]);
        let bytes = input.bytes(width);
        self.transport.write(offset, bytes);
    }

    pub fn write_memory(&mut self, input: &mut Input<'_>) {
        let address = RAM + u64::from(input.u16()) * 2;
        let count = input.below(32);
        let bytes = input.bytes(count);
        self.put(address, bytes);
    }

    /// Writes to a word of a ring.
    pub fn write_ring(&mut self, input: &mut Input<'_>) {
        let queue = input.below(self.queues.len());
        let ring = match input.below(3) {
            0 => self.available(queue),
            1 => self.used_ring(queue),
            _ => Self::table(queue),
        };
        let address = ring + 2 * u64::from(input.byte());
        let value = input.u16();
        self.put(address, &value.to_le_bytes());
    }

    /// A second thread writes to rings and buffers while the device is notified.
    pub fn storm(&mut self, input: &mut Input<'_>) {
        let mut random = Random::new(u64::from(input.u32()));
        let (queues, rings) = (self.queues.len(), self.available(0) - RAM);
        let writes = 8 * input.below(64);
        let memory = Arc::clone(&self.memory);
        let storm = move || {
            for _ in 0..writes {
                let queue = random.below(queues) as u64;
                let area = match random.below(3) {
                    0 => 0,
                    1 => rings,
                    _ => rings + 2,
                };
                let address = RAM + QUEUE_STRIDE * queue + area + 2 * random.below(64) as u64;
                let value = match random.below(3) {
                    0 => random.number() as u16 % 16,
                    1 => random.number() as u16,
                    _ => 1 << random.below(16),
                };
                let _ = memory.store(value, GuestAddress(address & !1), Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(storm);
            for n in 0..writes {
                self.write(VIRTIO_MMIO_QUEUE_NOTIFY, (n % queues) as u32);
            }
        });
    }
}

fn device(kind: Kind, other: bool) -> std::io::Result<(Box<dyn VirtioDevice>, Host)> {
    Ok(match kind {
        Kind::Block => {
            let disk = Arc::new(Disk::new(other));
            (
                Box::new(Block::new(disk.clone(), Serial::default(), 0)?),
                Host::Disk(disk),
            )
        }
        Kind::Net => {
            // Checksum and segmentation offloads.
            let network = Arc::new(Network::new(if other { 0x3b83 } else { 0 }));
            let net = Net::new(
                network.clone(),
                "02:00:00:00:00:01".parse().expect("it is an address"),
                None,
                0,
            )?;
            let link = net.link();
            (Box::new(net), Host::Network(network, link))
        }
        Kind::Console => {
            let printer = Arc::<Printer>::default();
            printer.set_room(1 << 20);
            let names: &[&str] = if other { &["", "one", "two"] } else { &[""] };
            let port = |name: &&str| PortConfig {
                name: (*name).to_owned(),
                is_console: name.is_empty(),
                on_terminal: !other,
                output: printer.clone(),
            };
            let ports = Arc::new(Ports::new(names.iter().map(port).collect())?);
            (
                Box::new(Console::new(ports.clone())?),
                Host::Terminal(ports, printer),
            )
        }
        Kind::Rng => (Box::new(Rng::new()?), Host::Nothing),
        Kind::Vsock => {
            let programs = Programs::new(other)?;
            let vsock = Vsock::new(programs.endpoint.clone())?;
            (Box::new(vsock), Host::Programs(programs))
        }
    })
}

/// The header of a vsock packet (VIRTIO 1.3, section 5.10.6) that is mostly one that makes sense.
fn packet(input: &mut Input<'_>) -> Vec<u8> {
    let strange = input.byte();
    let mut field = |place: u8, usual: &[u64]| match strange == place {
        true => input.number(),
        false => input.choose(usual),
    };
    let client = 1 << 30;
    let mut bytes = field(1, &[CID.into()]).to_le_bytes().to_vec();
    bytes.extend(field(2, &[2]).to_le_bytes());
    for (place, usual) in [
        // Ports, of the guest and of the host.
        (3, &[1, 2][..]),
        (4, &[80, client, client + 1]),
        (5, &[0, 1, 100]),
    ] {
        bytes.extend((field(place, usual) as u32).to_le_bytes());
    }
    bytes.extend((field(6, &[1]) as u16).to_le_bytes());
    bytes.extend((field(7, &[1, 2, 3, 4, 5, 5, 6, 7]) as u16).to_le_bytes());
    for (place, usual) in [
        (8, &[0, 1, 2, 3][..]),
        (9, &[4096, 0, 1 << 18]),
        (10, &[0, 1]),
    ] {
        bytes.extend((field(place, usual) as u32).to_le_bytes());
    }
    bytes
}
