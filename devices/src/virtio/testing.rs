//! Drivers for tests: guest memory, split queues and an interrupt line.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::Duration;

pub use hv_test_limit::until;
use hv_test_limit::{LIMIT, Watch, watch};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use proptest::prelude::*;
use serde_json::Value;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};

use super::transport::mmio::{MmioTransport, RegisterPage, RegisterPages, Version};
use super::{Notifier, VirtioDevice};
use crate::bus::MmioDevice;
use crate::interrupt::IrqLine;
use crate::memory::GuestMemoryMmap;

/// Guest memory starts where RAM does on the board.
pub const RAM: u64 = 0x8000_0000;
pub const RAM_SIZE: usize = 4 << 20;
pub const TABLE: u64 = RAM;
pub const AVAILABLE: u64 = RAM + 0x2000;
pub const USED: u64 = RAM + 0x3000;
/// Where buffers may go.
pub const DATA: u64 = RAM + 0x1_0000;

pub fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), RAM_SIZE)]).unwrap()
}

/// The page of a slot, full of what a transport overwrites.
pub fn page() -> RegisterPage {
    RegisterPages::new(1).unwrap().get(0).unwrap()
}

/// Device-readable buffer.
pub fn readable(address: u64, length: u32) -> (u64, u32, u16) {
    (address, length, 0)
}

/// Device-writable buffer.
pub fn writable(address: u64, length: u32) -> (u64, u32, u16) {
    (address, length, VRING_DESC_F_WRITE as u16)
}

/// Chains buffers in table entries from `first` on.
pub fn chain(first: u16, buffers: &[(u64, u32, u16)]) -> Vec<Descriptor> {
    (0..)
        .zip(buffers)
        .map(|(n, &(address, length, flags))| {
            let last = usize::from(n) + 1 == buffers.len();
            let next = if last { 0 } else { VRING_DESC_F_NEXT as u16 };
            Descriptor::new(address, length, flags | next, first + n + 1)
        })
        .collect()
}

/// The device's side of a queue at [`TABLE`], [`AVAILABLE`] and [`USED`], of which `next` chains have been used.
pub fn queue(size: u16, event_idx: bool, next: u16) -> Queue {
    let state = QueueState {
        max_size: size,
        next_avail: next,
        next_used: next,
        event_idx_enabled: event_idx,
        size,
        ready: true,
        desc_table: TABLE,
        avail_ring: AVAILABLE,
        used_ring: USED,
    };
    Queue::try_from(state).unwrap()
}

/// The driver's side of a queue at [`TABLE`], [`AVAILABLE`] and [`USED`].
pub struct Ring<'a> {
    pub memory: &'a GuestMemoryMmap,
    pub size: u16,
    pub available: u16,
}

impl<'a> Ring<'a> {
    pub fn new(memory: &'a GuestMemoryMmap, size: u16) -> Self {
        Self {
            memory,
            size,
            available: 0,
        }
    }

    /// Stores descriptors in table entries from `first` on.
    pub fn describe(&self, first: u16, descriptors: &[Descriptor]) {
        for (n, descriptor) in (u64::from(first)..).zip(descriptors) {
            self.memory
                .write_obj(
                    RawDescriptor::from(*descriptor),
                    GuestAddress(TABLE + 16 * n),
                )
                .unwrap();
        }
    }

    /// Makes the chain that starts at `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.memory
            .write_obj(head, GuestAddress(AVAILABLE + 4 + 2 * slot))
            .unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory
            .write_obj(self.available, GuestAddress(AVAILABLE + 2))
            .unwrap();
    }

    pub fn used_index(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// Head and length of the used element `n`.
    pub fn used(&self, n: u16) -> (u32, u32) {
        let element = USED + 4 + 8 * u64::from(n % self.size);
        (
            self.memory.read_obj(GuestAddress(element)).unwrap(),
            self.memory.read_obj(GuestAddress(element + 4)).unwrap(),
        )
    }
}

/// An interrupt line that can be waited for.
#[derive(Default)]
pub struct TestLine {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct LineState {
    level: bool,
    assertions: usize,
    needs_reset: bool,
}

impl TestLine {
    pub fn level(&self) -> bool {
        self.state.lock().unwrap().level
    }

    /// How often the line was asserted.
    pub fn assertions(&self) -> usize {
        self.state.lock().unwrap().assertions
    }

    /// Whether a device that notifies by it needs a reset.
    pub fn needs_reset(&self) -> bool {
        self.state.lock().unwrap().needs_reset
    }

    /// Waits until `done` holds, looking again after each change and at no other time: what a device does and does not tell of
    /// counts as not done.
    pub fn wait(&self, mut done: impl FnMut() -> bool) {
        let mut state = self.state.lock().unwrap();
        while !done() {
            let (changed, result) = self.changed.wait_timeout(state, LIMIT).unwrap();
            assert!(!result.timed_out(), "the device did not answer");
            state = changed;
        }
    }
}

impl IrqLine for TestLine {
    fn set_level(&self, asserted: bool) {
        let mut state = self.state.lock().unwrap();
        state.level = asserted;
        state.assertions += usize::from(asserted);
        self.changed.notify_all();
    }
}

/// For a device without a transport: each notification asserts the line.
impl Notifier for TestLine {
    fn used(&self, _queue: u16) {
        self.set_level(true);
    }

    fn config(&self, _offset: usize, _bytes: &[u8]) {
        self.set_level(true);
    }

    fn needs_reset(&self, _reason: &dyn std::fmt::Display) {
        self.state.lock().unwrap().needs_reset = true;
        self.changed.notify_all();
    }
}

/// Waits until the threads of this process that have this name are asleep, and returns their ids: whatever comes now has to
/// wake them. A thread that has only been interrupted counts as asleep, which makes a test weaker and never fails it.
pub fn wait_asleep(name: &str) -> Vec<libc::pid_t> {
    let mut before = None;
    let mut ids = Vec::new();
    until(|| {
        std::thread::sleep(Duration::from_millis(5));
        let now = sleepers(name);
        let same = now.is_some() && now == before;
        before = now;
        if same && let Some(sleepers) = &before {
            ids = sleepers.iter().map(|(id, _)| *id).collect();
        }
        same
    });
    ids
}

/// The threads of this name and how often each has gone to sleep, if all of them sleep.
fn sleepers(name: &str) -> Option<Vec<(libc::pid_t, String)>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let task = task.ok()?.path();
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task.join("status")) else {
            continue;
        };
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_owned()
        };
        if field("Name:") == name {
            if !field("State:").starts_with('S') {
                return None;
            }
            let id = field("Pid:").parse().ok()?;
            found.push((id, field("voluntary_ctxt_switches:")));
        }
    }
    found.sort();
    (!found.is_empty()).then_some(found)
}

/// Whether an operation on a descriptor does not block, and whether the descriptor stays behind at an exec.
pub fn descriptor_flags(file: &impl AsFd) -> (bool, bool) {
    let status = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap());
    let own = FdFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFD).unwrap());
    (
        status.contains(OFlag::O_NONBLOCK),
        own.contains(FdFlag::FD_CLOEXEC),
    )
}

/// Returns what the calling thread logs meanwhile.
pub fn logged(action: impl FnOnce()) -> Vec<String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Log).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    MESSAGES.set(Some(Vec::new()));
    action();
    MESSAGES.take().unwrap_or_default()
}

thread_local! {
    static MESSAGES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps the messages of threads that want theirs.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        MESSAGES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &log::Record<'_>) {
        MESSAGES.with_borrow_mut(|messages| {
            if let Some(messages) = messages {
                messages.push(record.args().to_string());
            }
        });
    }

    fn flush(&self) {}
}

/// The entries of each queue that [`Driver`] sets up, as a rule and at most.
const QUEUE_SIZE: u16 = 8;
pub const MAX_QUEUE_SIZE: u16 = 128;

/// The memory of one queue: the table, and where the rings are in it, in bytes.
pub const PAGE: u64 = 0x1000;
const AVAILABLE_IN_PAGE: u64 = 0x800;
const USED_IN_PAGE: u64 = 0xa00;

/// The registers of a device.
fn transport(
    device: Box<dyn VirtioDevice>,
    memory: &Arc<GuestMemoryMmap>,
    line: &Arc<TestLine>,
) -> MmioTransport {
    MmioTransport::new(
        Version::Modern,
        device,
        memory.clone(),
        line.clone(),
        page(),
    )
    .unwrap()
}

/// A whole driver, for devices with any number of queues: queue `n` has memory of its own from [`RAM`] on.
pub struct Driver {
    pub memory: Arc<GuestMemoryMmap>,
    pub line: Arc<TestLine>,
    pub transport: MmioTransport,
    /// The entries of each queue.
    size: u16,
    /// How many chains were offered to each queue, and how many of them have been seen used.
    counts: Vec<(u16, u16)>,
    _watch: Watch,
}

impl Driver {
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let (memory, line) = (Arc::new(memory()), Arc::<TestLine>::default());
        let transport = transport(device, &memory, &line);
        Self {
            memory,
            line,
            transport,
            size: QUEUE_SIZE,
            counts: Vec::new(),
            _watch: watch(),
        }
    }

    /// Another device on the same memory, with another interrupt line.
    fn replace(&mut self, device: Box<dyn VirtioDevice>) {
        self.line = Arc::default();
        self.transport = transport(device, &self.memory, &self.line);
    }

    /// Has another device take the place of this one: on the same memory, with another interrupt line, and the state that
    /// this one has come to, as text. It is paused then.
    pub fn migrate(&mut self, device: Box<dyn VirtioDevice>) {
        let state = serde_json::to_string(&self.transport.save()).unwrap();
        let level = self.line.level();
        self.replace(device);
        let saved = serde_json::from_str(&state).unwrap();
        self.transport.restore(saved).unwrap();
        assert_eq!(self.line.level(), level);
        assert_eq!(
            serde_json::to_string(&self.transport.save()).unwrap(),
            state
        );
    }

    pub fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    pub fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport
            .read(u64::from(VIRTIO_MMIO_CONFIG) + offset, &mut data);
        data
    }

    /// Resets the device and starts it with these features and all of its queues.
    pub fn start(&mut self, features: u64) {
        self.start_with(features, QUEUE_SIZE);
    }

    /// The same with queues of this size.
    pub fn start_with(&mut self, features: u64, size: u16) {
        assert!(size <= MAX_QUEUE_SIZE);
        self.size = size;
        self.write(VIRTIO_MMIO_STATUS, 0);
        self.write(VIRTIO_MMIO_STATUS, 3);
        for (word, half) in [(0, features), (1, features >> 32)] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, half as u32);
        }
        self.write(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 11, "features are refused");
        self.counts = vec![(0, 0); self.transport.queue_count() as usize];
        for queue in 0..self.transport.queue_count() {
            let page = Self::page(queue as u16);
            self.memory
                .write_slice(&[0; PAGE as usize], GuestAddress(page))
                .unwrap();
            self.write(VIRTIO_MMIO_QUEUE_SEL, queue);
            self.write(VIRTIO_MMIO_QUEUE_NUM, size.into());
            self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, page as u32);
            self.write(
                VIRTIO_MMIO_QUEUE_AVAIL_LOW,
                (page + AVAILABLE_IN_PAGE) as u32,
            );
            self.write(VIRTIO_MMIO_QUEUE_USED_LOW, (page + USED_IN_PAGE) as u32);
            self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.write(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 15);
    }

    /// Where the memory of a queue begins.
    pub fn page(queue: u16) -> u64 {
        let page = RAM + PAGE * u64::from(queue);
        assert!(page < DATA);
        page
    }

    /// Stores `buffers` in a table of their own, and returns what takes their place in a chain (VIRTIO 1.3, section 2.7.5.3).
    pub fn indirect(&self, table: u64, buffers: &[(u64, u32, u16)]) -> (u64, u32, u16) {
        for (n, descriptor) in (0..).zip(chain(0, buffers)) {
            self.memory
                .write_obj(
                    RawDescriptor::from(descriptor),
                    GuestAddress(table + 16 * n),
                )
                .unwrap();
        }
        let length = 16 * buffers.len() as u32;
        (table, length, VRING_DESC_F_INDIRECT as u16)
    }

    /// Makes a chain of `buffers` available, in table entries from `head` on, and notifies the queue.
    pub fn give(&mut self, queue: u16, head: u16, buffers: &[(u64, u32, u16)]) {
        self.offer(queue, head, buffers);
        self.notify(queue);
    }

    pub fn notify(&self, queue: u16) {
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue.into());
    }

    /// Makes a chain of `buffers` available, in table entries from `head` on, without a notification.
    pub fn offer(&mut self, queue: u16, head: u16, buffers: &[(u64, u32, u16)]) {
        let page = Self::page(queue);
        for (n, descriptor) in (u64::from(head)..).zip(chain(head, buffers)) {
            let address = GuestAddress(page + 16 * n);
            self.memory
                .write_obj(RawDescriptor::from(descriptor), address)
                .unwrap();
        }
        let (offered, _) = &mut self.counts[usize::from(queue)];
        let slot = u64::from(*offered % self.size);
        let ring = page + AVAILABLE_IN_PAGE;
        self.memory
            .write_obj(head, GuestAddress(ring + 4 + 2 * slot))
            .unwrap();
        *offered = offered.wrapping_add(1);
        self.memory
            .store(*offered, GuestAddress(ring + 2), Ordering::Release)
            .unwrap();
    }

    /// Whether the device wants to be notified of the next chain.
    pub fn is_asked(&self, queue: u16) -> bool {
        let flags = GuestAddress(Self::page(queue) + USED_IN_PAGE);
        self.memory.read_obj::<u16>(flags).unwrap() == 0
    }

    /// Head and length of the next used chain, if there is one.
    pub fn used(&mut self, queue: u16) -> Option<(u32, u32)> {
        let page = Self::page(queue);
        let index: u16 = self
            .memory
            .load(GuestAddress(page + USED_IN_PAGE + 2), Ordering::Acquire)
            .unwrap();
        let (_, seen) = &mut self.counts[usize::from(queue)];
        if index == *seen {
            return None;
        }
        let entry = page + USED_IN_PAGE + 4 + 8 * u64::from(*seen % self.size);
        *seen = seen.wrapping_add(1);
        let word = |address| self.memory.read_obj(GuestAddress(address)).unwrap();
        Some((word(entry), word(entry + 4)))
    }

    /// Waits for the next used chain: its head and length.
    pub fn wait_used(&mut self, queue: u16) -> (u32, u32) {
        let line = self.line.clone();
        let mut used = None;
        line.wait(|| {
            used = self.used(queue);
            used.is_some()
        });
        used.unwrap()
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

/// How a file with a state is damaged: at which place, and what is there then.
#[derive(Clone, Debug)]
pub struct Damage(prop::sample::Index, Kind);

#[derive(Clone, Debug)]
enum Kind {
    Is(Value),
    Without,
    Repeated(u16),
}

/// Any damage that leaves it a state by its form, now and then.
pub fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let number = prop_oneof![
        any::<u64>(),
        0..=64_u64,
        (0..64_u32).prop_map(|bit| 1 << bit),
        (RAM..RAM + 0x1000),
    ];
    let kind = prop_oneof![
        6 => number.prop_map(|number| Kind::Is(number.into())),
        4 => any::<bool>().prop_map(|bit| Kind::Is(bit.into())),
        1 => Just(Kind::Is(Value::Null)),
        1 => "[a-z]{0,3}".prop_map(|text| Kind::Is(text.into())),
        1 => Just(Kind::Is(Value::Array(Vec::new()))),
        1 => Just(Kind::Without),
        2 => any::<u16>().prop_map(Kind::Repeated),
    ];
    let damage = (any::<prop::sample::Index>(), kind);
    prop::collection::vec(damage.prop_map(|(place, kind)| Damage(place, kind)), 1..4)
}

fn places(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Array(list) => {
            // Not each byte of a packet.
            for (n, value) in list.iter().enumerate().take(4) {
                places(value, &format!("{path}/{n}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                places(value, &format!("{path}/{name}"), found);
            }
        }
        _ => {}
    }
}

fn damage(value: &mut Value, Damage(place, kind): &Damage) {
    let mut found = Vec::new();
    places(value, "", &mut found);
    let place = value.pointer_mut(place.get::<String>(&found)).unwrap();
    match (kind, place) {
        // What takes the place of a whole structure is refused by its form, which says little.
        (Kind::Is(new), place) if !place.is_object() => *place = new.clone(),
        (Kind::Without, Value::Array(list)) => drop(list.pop()),
        (Kind::Repeated(times), Value::Array(list)) => {
            if let Some(last) = list.last().cloned() {
                list.resize(usize::from(*times), last);
            }
        }
        _ => {}
    }
}

impl Driver {
    /// Has another device take the place of this one, as [`migrate`](Self::migrate) does, from a damaged state. Whether it
    /// took it or not, it is paused and resumed, and then as after a reset.
    pub fn migrate_damaged(&mut self, device: Box<dyn VirtioDevice>, damages: &[Damage]) {
        let mut state = serde_json::to_value(self.transport.save()).unwrap();
        for one in damages {
            damage(&mut state, one);
        }
        self.replace(device);
        let before = serde_json::to_value(self.transport.save()).unwrap();
        let restored = serde_json::from_value(state)
            .map_err(|error| error.to_string())
            .and_then(|state| self.transport.restore(state).map_err(|e| e.to_string()));
        if restored.is_err() {
            let after = serde_json::to_value(self.transport.save()).unwrap();
            assert_eq!(before, after, "a state that is refused changes nothing");
        }
        for _ in 0..2 {
            self.transport.resume();
            for queue in 0..self.transport.queue_count() {
                self.notify(queue as u16);
            }
            self.transport.pause();
        }
        self.transport.resume();
        self.write(VIRTIO_MMIO_STATUS, 0);
    }
}
