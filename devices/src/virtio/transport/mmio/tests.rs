//! Checked against VIRTIO 1.3, sections 2.1, 3.1.1 and 4.2.2.

use std::sync::Mutex;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::QueueT;
use vm_memory::GuestAddress;

use super::*;
use crate::memory::GuestMemoryMmap;
use crate::virtio::testing::{AVAILABLE, RAM, RAM_SIZE, TABLE, TestLine, USED, memory, page};
use crate::virtio::{Activation, ActiveQueue, Notifier, QueuePosition, SharedMemory};

/// What the device has been through. `active` is there from activation to reset.
#[derive(Default)]
pub(super) struct Log {
    pub active: Option<Activation>,
    pub activations: usize,
    pub resets: usize,
    config: [u8; 6],
    fail: bool,
}

/// How many chains of each queue the device has served when it is paused.
pub(super) const SERVED: u16 = 3;

/// Two queues, feature bits 0 and 40, six bytes of configuration.
struct Device(Arc<Mutex<Log>>);

impl VirtioDevice for Device {
    fn device_id(&self) -> u32 {
        42
    }

    fn name(&self) -> String {
        "test device".into()
    }
    fn features(&self) -> u64 {
        1 | 1 << 50
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 16]
    }
    fn shared_memory(&self) -> &[SharedMemory] {
        &[SharedMemory {
            id: 1,
            base: 0x12_3456_7000,
            length: 0x2_0000_1000,
        }]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let log = lock(&self.0);
        for (to, from) in data.iter_mut().zip(log.config.iter().skip(offset as usize)) {
            *to = *from;
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut log = lock(&self.0);
        for (to, from) in log.config.iter_mut().skip(offset as usize).zip(data) {
            *to = *from;
        }
    }
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let mut log = lock(&self.0);
        assert!(log.active.is_none(), "activated twice");
        if log.fail {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        log.activations += 1;
        log.active = Some(activation);
        Ok(())
    }
    fn pause(&mut self) -> Vec<QueuePosition> {
        let active = lock(&self.0).active.take();
        let queues = active.into_iter().flat_map(|active| active.queues);
        queues
            .map(|ActiveQueue { index, queue, .. }| QueuePosition {
                index,
                next: queue.next_avail().wrapping_add(SERVED),
            })
            .collect()
    }
    fn reset(&mut self) {
        let mut log = lock(&self.0);
        log.resets += 1;
        log.active = None;
    }
}

pub(super) struct Bench {
    pub transport: MmioTransport,
    pub line: Arc<TestLine>,
    pub log: Arc<Mutex<Log>>,
}

impl Bench {
    fn new() -> Self {
        Self::of(Version::Modern)
    }

    pub fn of(version: Version) -> Self {
        let (line, log) = (Arc::<TestLine>::default(), Arc::<Mutex<Log>>::default());
        let device = Box::new(Device(log.clone()));
        let transport =
            MmioTransport::new(version, device, Arc::new(memory()), line.clone(), page()).unwrap();
        Self {
            transport,
            line,
            log,
        }
    }

    pub fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    pub fn status(&self) -> u32 {
        self.read(VIRTIO_MMIO_STATUS)
    }

    /// Adds to the status, as drivers do.
    pub fn set_status(&self, bits: u32) {
        self.write(VIRTIO_MMIO_STATUS, self.status() | bits);
    }

    fn set_features(&self, features: u64) {
        for (word, shift) in [(0, 0), (1, 32)] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, (features >> shift) as u32);
        }
    }

    fn offered(&self) -> u64 {
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        let low = u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES));
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
        low | u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES)) << 32
    }

    fn negotiate(&self, features: u64) {
        self.set_status(ACKNOWLEDGE);
        self.set_status(DRIVER);
        self.set_features(features);
        self.set_status(FEATURES_OK);
    }

    fn set_queue(&self, index: u32, size: u32, table: u64, available: u64, used: u64) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index);
        self.write(VIRTIO_MMIO_QUEUE_NUM, size);
        for (register, address) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, table),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, available),
            (VIRTIO_MMIO_QUEUE_USED_LOW, used),
        ] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn active_features(&self) -> Option<u64> {
        let log = lock(&self.log);
        log.active.as_ref().map(|active| active.features)
    }

    /// All steps of section 3.1.1, with queue 0 set up.
    fn start(&self) {
        self.negotiate(self.offered());
        self.set_queue(0, 64, TABLE, AVAILABLE, USED);
        self.set_status(DRIVER_OK);
    }

    pub fn notifier(&self) -> Arc<dyn Notifier> {
        lock(&self.log).active.as_ref().unwrap().notifier.clone()
    }
}

#[test]
fn identification() {
    let bench = Bench::new();
    assert_eq!(bench.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(bench.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(bench.read(VIRTIO_MMIO_VENDOR_ID), 0x554d_4551);
    for register in (VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH).step_by(4) {
        assert_eq!(bench.read(register), u32::MAX);
    }
    assert_eq!(bench.transport.queue_count(), 2);
    assert!(bench.transport.notify_event(1).is_some());
    assert!(bench.transport.notify_event(2).is_none());
}

/// Section 4.2.2: SHMSel selects, and the length of a region that does not exist reads as -1.
#[test]
fn shared_memory_regions_are_selected_by_their_id() {
    let bench = Bench::new();
    let region = |id| {
        bench.write(VIRTIO_MMIO_SHM_SEL, id);
        [
            VIRTIO_MMIO_SHM_LEN_LOW,
            VIRTIO_MMIO_SHM_LEN_HIGH,
            VIRTIO_MMIO_SHM_BASE_LOW,
            VIRTIO_MMIO_SHM_BASE_HIGH,
        ]
        .map(|register| bench.read(register))
    };
    assert_eq!(region(1), [0x1000, 2, 0x3456_7000, 0x12]);
    assert_eq!(region(2), [u32::MAX; 4]);
    assert_eq!(region(0x101), [u32::MAX; 4]);
    region(1);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(bench.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
}

#[test]
fn empty_slot() {
    for version in [Version::Modern, Version::Legacy] {
        let slot = EmptySlot::new(version, page());
        slot.write(VIRTIO_MMIO_STATUS.into(), &[1, 0, 0, 0]);
        for offset in (0..0x1000).step_by(4) {
            let mut data = [0; 4];
            slot.read(offset, &mut data);
            let mut same = [0; 4];
            hv_core::virtio_mmio::read_empty_slot(version.number(), offset, &mut same);
            assert_eq!(data, same, "{offset:#x}");
        }
    }
}

#[test]
fn a_reset_selects_the_first_word_and_queue() {
    let bench = Bench::new();
    for select in [
        VIRTIO_MMIO_DEVICE_FEATURES_SEL,
        VIRTIO_MMIO_DRIVER_FEATURES_SEL,
        VIRTIO_MMIO_QUEUE_SEL,
    ] {
        bench.write(select, 1);
    }
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(
        bench.read(VIRTIO_MMIO_DEVICE_FEATURES),
        1 | 1 << 28 | 1 << 29
    );
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    bench.set_status(ACKNOWLEDGE);
    bench.set_status(DRIVER);
    bench.write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    bench.set_status(FEATURES_OK);
    bench.set_queue(0, 64, TABLE, AVAILABLE, USED);
    bench.set_status(DRIVER_OK);
    assert_eq!(lock(&bench.log).active.as_ref().unwrap().features, 1);
}

#[test]
fn rings_may_be_anywhere_in_memory() {
    let base = 0x5_0000_0000;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(base), 0x1_0000)]).unwrap();
    let (line, log) = (Arc::<TestLine>::default(), Arc::<Mutex<Log>>::default());
    let device = Box::new(Device(log.clone()));
    let memory = Arc::new(memory);
    let transport =
        MmioTransport::new(Version::Modern, device, memory, line.clone(), page()).unwrap();
    let bench = Bench {
        transport,
        line,
        log,
    };
    bench.negotiate(bench.offered());
    let rings = [base + 0x1000, base + 0x2000, base + 0x3000];
    let [table, available, used] = rings;
    bench.set_queue(0, 64, table, available, used);
    bench.set_status(DRIVER_OK);
    let log = lock(&bench.log);
    let queue = &log.active.as_ref().unwrap().queues[0].queue;
    let found = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
    assert_eq!(found, rings);
}

#[test]
fn features_come_in_words() {
    let bench = Bench::new();
    assert_eq!(bench.offered(), 1 | 1 << 50 | 1 << 28 | 1 << 29 | 1 << 32);
    bench.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    bench.start();
    let offered = bench.offered();
    assert_eq!(lock(&bench.log).active.as_ref().unwrap().features, offered);
}

#[test]
fn a_driver_that_never_writes_the_high_word_is_served() {
    let bench = Bench::new();
    bench.set_status(ACKNOWLEDGE | DRIVER);
    bench.write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    bench.set_status(FEATURES_OK);
    assert_eq!(bench.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    bench.set_queue(0, 8, TABLE, AVAILABLE, USED);
    bench.set_status(DRIVER_OK);
    let log = lock(&bench.log);
    let active = log.active.as_ref().unwrap();
    assert_eq!(active.features, 1);
    assert!(!active.queues[0].queue.event_idx_enabled());
    assert_eq!(active.queues[0].queue.size(), 8);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let bench = Bench::new();
    for features in [1 << 1, 1 << 63, u64::MAX] {
        bench.negotiate(features);
        assert_eq!(
            bench.status(),
            ACKNOWLEDGE | DRIVER,
            "FEATURES_OK stays clear"
        );
    }
    bench.set_status(DRIVER_OK);
    assert_eq!(bench.status() & DRIVER_OK, 0, "not without agreement");
    bench.negotiate(1);
    assert_eq!(bench.status() & FEATURES_OK, FEATURES_OK);
    bench.set_features(0);
    bench.set_status(DRIVER_OK);
    assert_eq!(
        lock(&bench.log).active.as_ref().unwrap().features,
        1,
        "agreed is agreed"
    );
}

#[test]
fn queues_are_selected_and_set_up() {
    let bench = Bench::new();
    for (index, size) in [(0, 64), (1, 16), (2, 0), (u32::MAX, 0)] {
        bench.write(VIRTIO_MMIO_QUEUE_SEL, index);
        assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_NUM_MAX), size);
        assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0);
    }
    bench.write(VIRTIO_MMIO_QUEUE_READY, 1);
    bench.negotiate(bench.offered());
    bench.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    bench.write(VIRTIO_MMIO_QUEUE_READY, 2);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0, "bit 0 counts");
    bench.set_queue(1, 16, TABLE, AVAILABLE, USED);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 1);
    bench.write(VIRTIO_MMIO_QUEUE_NUM, 8);
    bench.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
    bench.set_status(DRIVER_OK);
    bench.set_queue(0, 16, TABLE, AVAILABLE, USED);
    bench.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0, "too late");
    let log = lock(&bench.log);
    let queues = &log.active.as_ref().unwrap().queues;
    assert_eq!(queues.len(), 1, "only what was made ready");
    assert_eq!(queues[0].index, 1);
    assert_eq!(queues[0].queue.size(), 16, "a ready queue does not change");
    assert_eq!(queues[0].queue.desc_table(), TABLE);
    assert_eq!(queues[0].queue.avail_ring(), AVAILABLE);
    assert_eq!(queues[0].queue.used_ring(), USED);
    assert!(queues[0].queue.event_idx_enabled());
}

#[test]
fn an_impossible_queue_needs_a_reset_and_nothing_more() {
    let end = RAM + RAM_SIZE as u64;
    for (size, table, available, used) in [
        (0, TABLE, AVAILABLE, USED),
        (3, TABLE, AVAILABLE, USED),
        (128, TABLE, AVAILABLE, USED),
        (0x1_0010, TABLE, AVAILABLE, USED),
        (16, TABLE + 8, AVAILABLE, USED),
        (16, TABLE, AVAILABLE + 1, USED),
        (16, TABLE, AVAILABLE, USED + 2),
        (16, 0, AVAILABLE, USED),
        (16, end - 16, AVAILABLE, USED),
        (16, TABLE, end - 36, USED),
        (16, TABLE, AVAILABLE, end - 132),
        (16, u64::MAX - 15, AVAILABLE, USED),
        (16, TABLE, u64::MAX - 1, USED),
        (16, TABLE, AVAILABLE, u64::MAX - 3),
    ] {
        let bench = Bench::new();
        bench.negotiate(bench.offered());
        bench.set_queue(0, size, table, available, used);
        bench.set_status(DRIVER_OK);
        assert_eq!(
            bench.status() & (NEEDS_RESET | DRIVER_OK),
            NEEDS_RESET | DRIVER_OK
        );
        assert_eq!(
            bench.read(VIRTIO_MMIO_INTERRUPT_STATUS),
            VIRTIO_MMIO_INT_CONFIG
        );
        assert!(bench.line.level());
        assert_eq!(lock(&bench.log).activations, 0);
        // The way out.
        bench.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(bench.status(), 0);
        assert!(!bench.line.level());
        bench.start();
        assert_eq!(
            bench.status(),
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
        );
        assert_eq!(lock(&bench.log).activations, 1);
    }
}

#[test]
fn the_last_bytes_of_ram_hold_a_queue() {
    let bench = Bench::new();
    let end = RAM + RAM_SIZE as u64;
    bench.negotiate(bench.offered());
    bench.set_queue(0, 16, end - 256, TABLE, USED);
    bench.set_queue(1, 16, TABLE, end - 38, end - 256);
    bench.set_status(DRIVER_OK);
    assert_eq!(lock(&bench.log).active.as_ref().unwrap().queues.len(), 2);
}

/// A guest makes its device fail as often as it likes.
#[test]
fn the_first_failure_of_a_device_is_told_of() {
    let bench = Bench::new();
    let told = Arc::<Mutex<Vec<String>>>::default();
    for listener in [told.clone(), Arc::default()] {
        bench.transport.on_failure(Box::new(move |reason| {
            lock(&listener).push(reason.to_string());
        }));
    }
    assert!(lock(&told).is_empty());
    for round in 0..3 {
        bench.negotiate(bench.offered());
        bench.set_queue(0, 3, TABLE, AVAILABLE, USED);
        bench.set_status(DRIVER_OK);
        assert_eq!(bench.status() & NEEDS_RESET, NEEDS_RESET);
        bench.write(VIRTIO_MMIO_STATUS, 0);
        bench.start();
        bench.notifier().needs_reset(&round);
        bench.write(VIRTIO_MMIO_STATUS, 0);
    }
    let told = lock(&told);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("queue 0 is impossible"), "{told:?}");
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let bench = Bench::new();
    lock(&bench.log).fail = true;
    bench.start();
    assert_eq!(bench.status() & NEEDS_RESET, NEEDS_RESET);
}

#[test]
fn status_bits_are_never_cleared_but_by_reset() {
    let bench = Bench::new();
    bench.start();
    bench.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
    bench.write(VIRTIO_MMIO_STATUS, 0x100);
    bench.write(VIRTIO_MMIO_STATUS, NEEDS_RESET | DRIVER_OK);
    assert_eq!(
        bench.status(),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    );
    assert_eq!(lock(&bench.log).activations, 1);
}

#[test]
fn a_driver_that_gave_up_is_not_served() {
    let bench = Bench::new();
    bench.negotiate(1);
    bench.set_status(FAILED);
    bench.set_status(DRIVER_OK);
    assert_eq!(bench.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED);
    assert_eq!(lock(&bench.log).activations, 0);
}

/// The registers read the same afterwards, the interrupt is there, and the queue goes on where it was.
#[test]
fn a_slot_is_restored_with_its_queues_and_its_interrupt() {
    let bench = Bench::new();
    bench.start();
    bench.notifier().config(0, &[9]);
    bench.notifier().used(0);
    bench.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    bench.write(VIRTIO_MMIO_SHM_SEL, 1);
    bench.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    let features = bench.active_features();
    let state = bench.transport.save();
    assert_eq!(bench.active_features(), None, "it is paused");

    let other = Bench::new();
    other.transport.restore(state.clone()).unwrap();
    assert!(other.line.level());
    assert!(lock(&other.log).active.is_none());
    for register in (0..0x100).step_by(4) {
        assert_eq!(other.read(register), bench.read(register), "{register:#x}");
    }
    other.transport.resume();
    bench.transport.resume();
    for bench in [&bench, &other] {
        let log = lock(&bench.log);
        let active = log.active.as_ref().unwrap();
        assert_eq!(active.queues[0].queue.next_avail(), SERVED);
        assert_eq!(Some(active.features), features);
    }
    // Put into a device that is not new, it lowers the line as well.
    let idle = Bench::new().transport.save();
    other.transport.restore(idle).unwrap();
    assert!(!other.line.level());
    assert_eq!(other.status(), 0);
}

#[test]
fn a_state_that_no_slot_has_is_refused() {
    let bench = Bench::new();
    bench.start();
    let state = serde_json::to_value(bench.transport.save()).unwrap();
    let other = Bench::new();
    let before = other.transport.save();
    for (place, value, mismatch) in [
        ("/version", serde_json::json!("Legacy"), true),
        ("/page_shift", 32.into(), false),
        ("/interrupt/interrupt_status", 4.into(), false),
        ("/negotiation/device_id", 1.into(), true),
        ("/negotiation/queues", serde_json::json!([]), true),
        ("/negotiation/status", 0x100.into(), false),
        // Ready without FEATURES_OK, and started without being ready.
        ("/negotiation/status", 7.into(), false),
        ("/negotiation/status", 11.into(), false),
        ("/negotiation/driver_features", (1_u64 << 1).into(), true),
        ("/negotiation/queues/0/size", 65.into(), false),
        ("/negotiation/queues/0/size", 0.into(), false),
        ("/negotiation/queues/0/size", u32::MAX.into(), false),
        ("/negotiation/queues/0/used_ring", u64::MAX.into(), false),
        ("/negotiation/device", true.into(), true),
    ] {
        let mut damaged = state.clone();
        *damaged.pointer_mut(place).unwrap() = value;
        let damaged = serde_json::from_value(damaged).unwrap();
        let error = other.transport.restore(damaged).unwrap_err();
        assert_eq!(
            matches!(error, RestoreError::Mismatch(_)),
            mismatch,
            "{place}"
        );
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(other.transport.save(), before, "{place}");
    }
    let restored = other
        .transport
        .restore(serde_json::from_value(state).unwrap());
    assert_eq!(restored, Ok(()));
}

#[test]
fn a_device_that_is_resumed_gets_its_queues_where_it_left_them() {
    let bench = Bench::new();
    // One that is not started is not started by it.
    bench.transport.pause();
    bench.transport.resume();
    assert!(lock(&bench.log).active.is_none());
    bench.start();
    for round in 0..3 {
        let before = lock(&bench.log).active.as_ref().unwrap().features;
        bench.transport.pause();
        assert!(lock(&bench.log).active.is_none());
        bench.transport.resume();
        let log = lock(&bench.log);
        let active = log.active.as_ref().unwrap();
        assert_eq!(active.features, before);
        let [queue] = active.queues.as_slice() else {
            panic!("queue 1 was not set up");
        };
        assert_eq!(queue.index, 0);
        let next = SERVED * (round + 1);
        assert_eq!(queue.queue.next_avail(), next);
        assert_eq!(queue.queue.next_used(), next);
    }
    assert_eq!(lock(&bench.log).resets, 0);
    // Nor is one that waits for a reset.
    bench.notifier().needs_reset(&"test");
    bench.transport.pause();
    bench.transport.resume();
    assert!(lock(&bench.log).active.is_none());
    bench.write(VIRTIO_MMIO_STATUS, 0);
    bench.start();
    let log = lock(&bench.log);
    let active = log.active.as_ref().unwrap();
    assert_eq!(active.queues[0].queue.next_avail(), 0);
}

#[test]
fn reset_forgets_everything() {
    let bench = Bench::new();
    bench.start();
    bench.notifier().used(0);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert!(lock(&bench.log).active.is_none());
    assert_eq!(bench.status(), 0);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert!(!bench.line.level());
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0);
    bench.negotiate(0);
    bench.set_status(DRIVER_OK);
    let log = lock(&bench.log);
    let active = log.active.as_ref().unwrap();
    assert!(active.queues.is_empty());
    assert_eq!(active.features, 0);
}

#[test]
fn taking_a_queue_from_a_live_device_stops_it() {
    let bench = Bench::new();
    bench.start();
    bench.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    bench.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert!(lock(&bench.log).active.is_some(), "that one was not in use");
    bench.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    bench.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0);
    assert!(lock(&bench.log).active.is_none());
}

#[test]
fn interrupt_status_and_line() {
    let bench = Bench::new();
    bench.start();
    let notifier = bench.notifier();
    notifier.used(0);
    assert_eq!(
        bench.read(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_VRING
    );
    assert!(bench.line.level());
    notifier.used(0);
    assert_eq!(
        bench.line.assertions(),
        2,
        "each notification is an edge for an irqfd"
    );
    let generation = bench.read(VIRTIO_MMIO_CONFIG_GENERATION);
    notifier.config(1, &[7]);
    assert_ne!(bench.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    assert_eq!(bench.read(VIRTIO_MMIO_CONFIG), 7 << 8);
    bench.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert!(bench.line.level(), "the other cause is still there");
    bench.write(VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX);
    assert!(!bench.line.level());
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_notification_kicks_its_queue() {
    let bench = Bench::new();
    for queue in [1, 1, 2, u32::MAX] {
        bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    }
    assert_eq!(bench.transport.notify_event(1).unwrap().read().unwrap(), 2);
    bench.start();
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(
        lock(&bench.log).active.as_ref().unwrap().queues[0]
            .kick
            .read()
            .unwrap(),
        1
    );
}

#[test]
fn configuration_space_takes_any_width_and_registers_are_written_by_words() {
    let bench = Bench::new();
    let config = u64::from(VIRTIO_MMIO_CONFIG);
    bench.transport.write(config, &[1]);
    bench.transport.write(config + 1, &[2, 3]);
    bench.transport.write(config + 3, &[4, 5, 6, 7, 8]);
    let mut data = [0; 8];
    bench.transport.read(config, &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 0, 0]);
    bench.transport.read(u64::MAX, &mut data);
    assert_eq!(lock(&bench.log).config, [1, 2, 3, 4, 5, 6]);

    for data in [&[1][..], &[1, 0], &[1, 0, 0, 0, 0, 0, 0, 0]] {
        bench.transport.write(VIRTIO_MMIO_STATUS.into(), data);
        assert_eq!(bench.status(), 0);
    }
}

#[test]
fn a_slot_reads_the_same_in_its_page() {
    let pages = RegisterPages::new(2).unwrap();
    let (line, log) = (Arc::<TestLine>::default(), Arc::<Mutex<Log>>::default());
    let device = Box::new(Device(log.clone()));
    let page = pages.get(1).unwrap();
    let transport = MmioTransport::new(
        Version::Modern,
        device,
        Arc::new(memory()),
        line.clone(),
        page,
    )
    .unwrap();
    let bench = Bench {
        transport,
        line,
        log,
    };
    assert!(pages.get(2).is_none());
    let (start, size) = pages.host_range();
    assert_eq!(size, 0x2000);
    let shown = |register: u32| {
        let address = start.wrapping_add(0x1000 + register as usize).cast::<u32>();
        // SAFETY: in the second page, and aligned.
        u32::from_le(unsafe { address.read_volatile() })
    };
    let same = || {
        for register in (0..0x1000).step_by(4) {
            assert_eq!(shown(register), bench.read(register), "{register:#x}");
        }
    };
    same();
    bench.start();
    same();
    assert_eq!(shown(VIRTIO_MMIO_STATUS), bench.status());
    let notifier = bench.notifier();
    notifier.used(0);
    assert_eq!(shown(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    bench.write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(shown(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    notifier.needs_reset(&"test");
    assert_eq!(shown(VIRTIO_MMIO_STATUS), bench.status());
    assert_eq!(shown(VIRTIO_MMIO_STATUS) & NEEDS_RESET, NEEDS_RESET);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(shown(VIRTIO_MMIO_STATUS), 0);
    assert_eq!(shown(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    same();

    let mut beyond = [0; 4];
    bench.transport.read(0xffe, &mut beyond);
    bench.transport.read(u64::MAX, &mut beyond);
    assert_eq!(beyond, [0; 4], "nothing is read beyond the page");
}
