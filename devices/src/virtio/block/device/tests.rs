//! The whole device behind its registers, with a driver that behaves and with one that does not.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;

use hv_test_limit::LIMIT;
use proptest::prelude::*;
use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_INDIRECT};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{Call, TestBackend};
use super::super::{ImageFormat, OnError, Raw, RequestError};
use super::*;
use crate::bus::MmioDevice;
use crate::memory::{GuestMemoryMmap, GuestSlice};
use crate::virtio::testing::{
    AVAILABLE, DATA, Driver, RAM, RAM_SIZE, Ring, TABLE, TestLine, USED, chain, damages, memory,
    page, readable, until, writable,
};
use crate::virtio::transport::mmio::{MmioTransport, Version};

struct Bench {
    file: NamedTempFile,
    memory: Arc<GuestMemoryMmap>,
    line: Arc<TestLine>,
    transport: MmioTransport,
}

impl Bench {
    fn new(read_only: bool) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(
            &(0..64 * 512_u32)
                .map(|n| (n / 512) as u8)
                .collect::<Vec<_>>(),
        )
        .unwrap();
        let disk = Arc::new(Raw::open(file.path(), read_only, ImageFormat::Raw).unwrap());
        let block = Block::new(disk, Serial::default(), 0).unwrap();
        let (memory, line) = (Arc::new(memory()), Arc::<TestLine>::default());
        let transport = MmioTransport::new(
            Version::Modern,
            Box::new(block),
            memory.clone(),
            line.clone(),
            page(),
        )
        .unwrap();
        Self {
            file,
            memory,
            line,
            transport,
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

    fn start(&self, features: u64, size: u16) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        self.memory
            .write_slice(&[0; 0x4000], GuestAddress(TABLE))
            .unwrap();
        self.write(VIRTIO_MMIO_STATUS, 3);
        self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        self.write(VIRTIO_MMIO_DRIVER_FEATURES, features as u32);
        self.write(VIRTIO_MMIO_STATUS, 11);
        self.write(VIRTIO_MMIO_QUEUE_NUM, size.into());
        self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, TABLE as u32);
        self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE as u32);
        self.write(VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32);
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        self.write(VIRTIO_MMIO_STATUS, 15);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 15);
    }

    /// Stores the header of request `n`, and returns its buffers around `data`.
    fn request(
        &self,
        n: u64,
        kind: u32,
        sector: u64,
        data: (u64, u32, u16),
    ) -> [(u64, u32, u16); 3] {
        let (header, status) = (DATA + n * 32, DATA + n * 32 + 16);
        self.memory
            .write_obj(u64::from(kind), GuestAddress(header))
            .unwrap();
        self.memory
            .write_obj(sector, GuestAddress(header + 8))
            .unwrap();
        self.memory
            .write_obj(0xff_u8, GuestAddress(status))
            .unwrap();
        [readable(header, 16), data, writable(status, 1)]
    }

    fn byte(&self, address: u64) -> u8 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }
}

const BUFFERS: u64 = DATA + 0x1_0000;

fn config<const N: usize>(bench: &Bench, offset: u64) -> [u8; N] {
    let mut data = [0; N];
    bench
        .transport
        .read(u64::from(VIRTIO_MMIO_CONFIG) + offset, &mut data);
    data
}

#[test]
fn configuration_space() {
    let bench = Bench::new(false);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_ID), 2);
    assert_eq!(u64::from_le_bytes(config(&bench, 0)), 64);
    assert_eq!(u32::from_le_bytes(config(&bench, 4)), 0);
    assert_eq!(u32::from_le_bytes(config(&bench, 12)), 254);
    assert_eq!(u32::from_le_bytes(config(&bench, 20)), 512);
    for (offset, value) in [
        (36, MAX_DISCARD_SECTORS),
        (40, MAX_DISCARD_SEGMENTS),
        (44, 8), // discard_sector_alignment
        (48, MAX_WRITE_ZEROES_SECTORS),
        (52, MAX_WRITE_ZEROES_SEGMENTS),
    ] {
        assert_eq!(
            u32::from_le_bytes(config(&bench, offset)),
            value,
            "{offset}"
        );
    }
    assert_eq!(
        config(&bench, 56),
        [1, 0, 0, 0, 0, 0, 0, 0],
        "zeros beyond the end"
    );
    assert_eq!(config(&bench, 0x1000), [0; 8]);
    // SEG_MAX, BLK_SIZE, FLUSH, DISCARD, WRITE_ZEROES, indirect descriptors and event index.
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_FEATURES), 0x3000_6244);

    let bench = Bench::new(true);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_FEATURES), 0x3000_0264);
    assert_eq!(config(&bench, 36), [0; 24]);
}

#[test]
fn a_disk_is_known_by_its_image_and_served_on_the_spot() {
    let backend = Arc::new(TestBackend::new(8, false));
    let block = Block::new(backend, Serial::default(), 0).unwrap();
    assert_eq!(block.name(), "disk 'test.img'");
    assert_eq!(block.device_id(), 2);
    assert!(block.notify_handler(0).is_some());
}

/// Requests that come one at a time are served by the thread that makes them, once the worker has seen that they do.
#[test]
fn a_request_that_comes_alone_is_served_where_it_is_made() {
    let backend = Arc::new(TestBackend::new(8, false));
    let block = Block::new(backend.clone(), Serial::default(), 0).unwrap();
    let mut driver = Driver::new(Box::new(block));
    driver.start(0);
    let (header, status, data) = (DATA, DATA + 16, DATA + 512);
    driver.put(header, &[0; 16]);
    until(|| {
        driver.put(status, &[0xff]);
        let buffers = [
            readable(header, 16),
            writable(data, 512),
            writable(status, 1),
        ];
        driver.give(0, 0, &buffers);
        assert_eq!(driver.wait_used(0), (0, 513));
        assert_eq!(driver.get(status, 1), [0]);
        // It is not also served by the worker.
        let calls = backend.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls == [Call::ReadNow(0, 512)]
    });
}

/// A back end that has no quick path is asked for one in vain.
#[test]
fn nothing_is_quick_unless_a_back_end_says_so() {
    struct Slow(Info);
    impl Backend for Slow {
        fn info(&self) -> &Info {
            &self.0
        }
        fn read(&self, _: &[GuestSlice<'_>], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn write(&self, _: &[GuestSlice<'_>], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
        fn discard(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
            Ok(())
        }
    }
    let slow = Slow(TestBackend::new(8, false).info().clone());
    assert!(!slow.read_now(&[], 0) && !slow.write_now(&[], 0));
}

#[test]
fn serial_texts() {
    assert_eq!(
        "abc 1".parse::<Serial>().unwrap().0,
        *b"abc 1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    assert_eq!(
        "12345678901234567890".parse::<Serial>().unwrap().0,
        *b"12345678901234567890"
    );
    for text in ["", "abc 1", "12345678901234567890"] {
        assert_eq!(text.parse::<Serial>().unwrap().to_string(), text);
    }
    assert_eq!(
        "123456789012345678901".parse::<Serial>(),
        Err(SerialError::TooLong(21))
    );
    assert_eq!("a\n".parse::<Serial>(), Err(SerialError::NotAscii));
    assert_eq!("ä".parse::<Serial>(), Err(SerialError::NotAscii));
}

#[test]
fn requests_are_served_with_and_without_event_index() {
    let bench = Bench::new(false);
    for features in [0, 1 << VIRTIO_RING_F_EVENT_IDX, 1 << VIRTIO_BLK_F_FLUSH] {
        bench.start(features, 16);
        let mut ring = Ring::new(&bench.memory, 16);
        // Round the ring more than twice, in bursts that change their size.
        for burst in 0..12_u16 {
            let count = burst % 5 + 1;
            // Used event: tell of the last one of the burst.
            let last = ring.available.wrapping_add(count).wrapping_sub(1);
            bench
                .memory
                .write_obj(last, GuestAddress(AVAILABLE + 4 + 2 * 16))
                .unwrap();
            for n in 0..u64::from(count) {
                let sector = (u64::from(burst) * 5 + n) % 64;
                let buffers =
                    bench.request(n, VIRTIO_BLK_T_IN, sector, writable(BUFFERS + n * 512, 512));
                ring.describe(n as u16 * 3, &chain(n as u16 * 3, &buffers));
                ring.offer(n as u16 * 3);
            }
            bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
            bench.line.wait(|| ring.used_index() == ring.available);
            for n in 0..u64::from(count) {
                assert_eq!(bench.byte(DATA + n * 32 + 16), 0);
                assert_eq!(
                    u64::from(bench.byte(BUFFERS + n * 512)),
                    (u64::from(burst) * 5 + n) % 64
                );
                let used = ring.used(ring.available.wrapping_sub(count).wrapping_add(n as u16));
                assert_eq!(used, (n as u32 * 3, 513));
            }
            bench.write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
        }
    }
}

#[test]
fn what_was_offered_before_the_driver_was_ready_is_served() {
    let bench = Bench::new(false);
    bench.write(VIRTIO_MMIO_STATUS, 11);
    bench.write(VIRTIO_MMIO_QUEUE_NUM, 16);
    bench.write(VIRTIO_MMIO_QUEUE_DESC_LOW, TABLE as u32);
    bench.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE as u32);
    bench.write(VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32);
    bench.write(VIRTIO_MMIO_QUEUE_READY, 1);
    let mut ring = Ring::new(&bench.memory, 16);
    ring.describe(
        0,
        &chain(
            0,
            &bench.request(0, VIRTIO_BLK_T_IN, 5, writable(BUFFERS, 512)),
        ),
    );
    ring.offer(0);
    bench.write(VIRTIO_MMIO_STATUS, 15);
    bench.line.wait(|| ring.used_index() == 1);
    assert_eq!(bench.byte(BUFFERS), 5);
}

#[test]
fn indirect_descriptors() {
    let bench = Bench::new(false);
    bench.start(1 << 28, 4);
    let mut ring = Ring::new(&bench.memory, 4);
    // More buffers than the queue has descriptors.
    let [header, _, status] = bench.request(0, VIRTIO_BLK_T_IN, 7, (0, 0, 0));
    let mut buffers = vec![header];
    buffers.extend((0..64).map(|n| writable(BUFFERS + n * 64, 8)));
    buffers.push(status);
    let table = DATA + 0x8000;
    for (n, descriptor) in (0..).zip(chain(0, &buffers)) {
        bench
            .memory
            .write_obj(
                RawDescriptor::from(descriptor),
                GuestAddress(table + 16 * n),
            )
            .unwrap();
    }
    let length = 16 * buffers.len() as u32;
    ring.describe(
        2,
        &[Descriptor::new(
            table,
            length,
            VRING_DESC_F_INDIRECT as u16,
            0,
        )],
    );
    ring.offer(2);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    bench.line.wait(|| ring.used_index() == 1);
    assert_eq!(ring.used(0), (2, 513));
    assert!((0..64).all(|n| bench.byte(BUFFERS + n * 64) == 7));
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let bench = Bench::new(false);
    bench.start(0, 16);
    let mut ring = Ring::new(&bench.memory, 16);
    bench
        .memory
        .write_obj(1_u16, GuestAddress(AVAILABLE))
        .unwrap();
    ring.describe(
        0,
        &chain(
            0,
            &bench.request(0, VIRTIO_BLK_T_IN, 1, writable(BUFFERS, 512)),
        ),
    );
    ring.offer(0);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    until(|| ring.used_index() == 1);
    // After a reset no interrupt can come any more.
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(bench.line.assertions(), 0);
}

#[test]
fn a_paused_device_goes_on_where_it_was() {
    let bench = Bench::new(false);
    bench.start(1 << VIRTIO_BLK_F_FLUSH, 4);
    let mut ring = Ring::new(&bench.memory, 4);
    // More than the ring's entries, and pauses with and without something left to do.
    for round in 0..40_u64 {
        let data = readable(BUFFERS, 512);
        let fill = [round as u8; 512];
        bench
            .memory
            .write_slice(&fill, GuestAddress(BUFFERS))
            .unwrap();
        let buffers = bench.request(0, VIRTIO_BLK_T_OUT, round, data);
        ring.describe(0, &chain(0, &buffers));
        if round % 3 == 0 {
            bench.transport.pause();
            ring.offer(0);
            bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
            assert_eq!(u64::from(ring.used_index()), round);
        } else {
            ring.offer(0);
            bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
            bench.transport.pause();
        }
        bench.transport.resume();
        bench
            .line
            .wait(|| u64::from(ring.used_index()) == round + 1);
        bench.write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    }
    let image = std::fs::read(bench.file.path()).unwrap();
    for round in 0..40 {
        assert_eq!(image[round * 512], round as u8);
    }
}

#[test]
fn the_image_outlives_resets_of_the_device() {
    let bench = Bench::new(false);
    for round in 0..3_u8 {
        bench.start(1 << VIRTIO_BLK_F_FLUSH, 16);
        let mut ring = Ring::new(&bench.memory, 16);
        bench
            .memory
            .write_slice(&[0xa0 + round; 512], GuestAddress(BUFFERS))
            .unwrap();
        let buffers = bench.request(0, VIRTIO_BLK_T_OUT, round.into(), readable(BUFFERS, 512));
        ring.describe(0, &chain(0, &buffers));
        ring.offer(0);
        bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        bench.line.wait(|| ring.used_index() == 1);
        bench.transport.reset();
        assert_eq!(bench.read(VIRTIO_MMIO_STATUS), 0);
    }
    let image = std::fs::read(bench.file.path()).unwrap();
    assert_eq!(
        (image[0], image[512], image[1024], image[1536]),
        (0xa0, 0xa1, 0xa2, 3)
    );
}

#[test]
fn a_broken_ring_stops_the_device_until_it_is_reset() {
    let breaks: [fn(&mut Ring); 4] = [
        // A head outside the table.
        |ring| ring.offer(16),
        // More available than the ring holds.
        |ring| {
            ring.available = 16;
            ring.offer(0);
        },
        // A chain that bites its tail.
        |ring| {
            ring.describe(0, &[Descriptor::new(DATA, 16, 1, 0)]);
            ring.offer(0);
        },
        // A chain without anything.
        |ring| {
            ring.describe(0, &[Descriptor::new(DATA, 0, 0, 0)]);
            ring.offer(0);
        },
    ];
    let bench = Bench::new(false);
    for break_it in breaks {
        bench.start(0, 16);
        let mut ring = Ring::new(&bench.memory, 16);
        break_it(&mut ring);
        let before = bench.line.assertions();
        bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        until(|| bench.line.assertions() != before);
        assert_eq!(bench.read(VIRTIO_MMIO_STATUS), 15 | 64);
        assert_eq!(
            bench.read(VIRTIO_MMIO_INTERRUPT_STATUS),
            VIRTIO_MMIO_INT_CONFIG
        );
        assert_eq!(ring.used_index(), 0);
    }
    bench.start(0, 16);
}

/// What a hostile driver does.
#[derive(Clone, Debug)]
enum Step {
    Register(u32, u32),
    Access(u64, Vec<u8>),
    Read(u64, usize),
    /// A descriptor: index, address, length, flags, next.
    Describe(u16, u64, u32, u16, u16),
    /// A raw change of the available ring.
    Ring(u64, u16),
    /// A request header.
    Header(u64, u32, u64),
    Start(bool),
    Offer(u16),
}

fn address() -> impl Strategy<Value = u64> {
    let end = RAM + RAM_SIZE as u64;
    prop_oneof![
        8 => (0..64_u64).prop_map(|n| DATA + n * 16),
        1 => RAM..end,
        1 => end - 32..end + 32,
        1 => any::<u64>(),
        1 => u64::MAX - 32..=u64::MAX,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let register = (0..0x48_u32).prop_map(|n| n * 4);
    let length = prop_oneof![4 => Just(16_u32), 4 => Just(512), 2 => Just(1), 1 => 0..2048_u32, 1 => any::<u32>()];
    prop_oneof![
        1 => (register, prop_oneof![Just(0), Just(1), Just(15), any::<u32>()]).prop_map(|(r, v)| Step::Register(r, v)),
        1 => (0..0x200_u64, proptest::collection::vec(any::<u8>(), 0..9)).prop_map(|(o, d)| Step::Access(o, d)),
        1 => (prop_oneof![0..0x200_u64, any::<u64>()], 0..9_usize).prop_map(|(o, w)| Step::Read(o, w)),
        8 => (0..16_u16, address(), length, 0..8_u16, 0..17_u16).prop_map(|(i, a, l, f, n)| Step::Describe(i, a, l, f, n)),
        1 => (0..40_u64, any::<u16>()).prop_map(|(o, v)| Step::Ring(o, v)),
        4 => (0..64_u64, 0..16_u32, prop_oneof![0..70_u64, any::<u64>()]).prop_map(|(n, k, s)| Step::Header(n, k, s)),
        3 => any::<bool>().prop_map(Step::Start),
        6 => (0..17_u16).prop_map(Step::Offer),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever the driver does, the device survives, lets itself be reset and then serves a driver that behaves.
    #[test]
    fn a_hostile_driver_harms_only_itself(steps in proptest::collection::vec(step(), 0..120)) {
        let bench = Bench::new(false);
        let mut ring = Ring::new(&bench.memory, 16);
        for step in steps {
            match step {
                Step::Register(register, value) => bench.write(register, value),
                Step::Access(offset, data) => bench.transport.write(offset, &data),
                Step::Read(offset, width) => bench.transport.read(offset, &mut vec![0; width]),
                Step::Describe(index, address, length, flags, next) => {
                    ring.describe(index, &[Descriptor::new(address, length, flags, next)]);
                }
                Step::Ring(offset, value) => {
                    bench.memory.write_obj(value, GuestAddress(AVAILABLE + 2 * offset)).unwrap();
                }
                Step::Header(n, kind, sector) => {
                    bench.memory.write_obj(kind, GuestAddress(DATA + n * 16)).unwrap();
                    bench.memory.write_obj(sector, GuestAddress(DATA + n * 16 + 8)).unwrap();
                }
                Step::Start(event_index) => {
                    bench.start(u64::from(event_index) << VIRTIO_RING_F_EVENT_IDX, 16);
                    ring.available = 0;
                }
                Step::Offer(head) => {
                    ring.offer(head);
                    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
                }
            }
        }
        bench.start(0, 16);
        let mut ring = Ring::new(&bench.memory, 16);
        ring.describe(0, &chain(0, &bench.request(0, VIRTIO_BLK_T_IN, 0, writable(BUFFERS, 512))));
        ring.offer(0);
        bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        bench.line.wait(|| ring.used_index() == 1);
        prop_assert_eq!(bench.byte(DATA + 16), 0);
    }
}

/// Whether a flush is a sync, and a write one by itself, is up to what the driver has negotiated.
#[test]
fn the_driver_decides_what_is_synced() {
    for (features, syncs) in [
        (0, vec![Call::Flush]),
        (1 << VIRTIO_BLK_F_FLUSH, vec![]),
        (1 << VIRTIO_BLK_F_DISCARD, vec![Call::Flush]),
    ] {
        let backend = Arc::new(TestBackend::new(64, false));
        let mut driver = Driver::new(Box::new(
            Block::new(backend.clone(), Serial::default(), 0).unwrap(),
        ));
        driver.start(features);
        // What comes alone may be served on this thread or by the worker.
        for n in 0..40_u64 {
            driver.put(DATA, &[VIRTIO_BLK_T_OUT as u8; 1]);
            driver.put(DATA + 1, &[0; 15]);
            driver.put(DATA + 8, &(n % 64).to_le_bytes());
            let buffers = [
                readable(DATA, 16),
                readable(BUFFERS, 512),
                writable(DATA + 16, 1),
            ];
            driver.give(0, 0, &buffers);
            assert_eq!(driver.wait_used(0), (0, 1));
            assert_eq!(driver.get(DATA + 16, 1), [0]);
            let calls = backend.calls();
            let wrote = matches!(calls[0], Call::Write(..) | Call::WriteNow(..));
            assert!(wrote, "{calls:?}");
            assert_eq!(calls[1..], syncs, "{features:#x}");
        }
        driver.put(DATA, &[VIRTIO_BLK_T_FLUSH as u8]);
        driver.give(0, 0, &[readable(DATA, 16), writable(DATA + 16, 1)]);
        driver.wait_used(0);
        assert_eq!(backend.calls(), [Call::Flush]);
    }
}

/// A request at `n` table entries of 3, with its header and status before [`BUFFERS`].
fn request(driver: &Driver, n: u64, kind: u32, sector: u64) -> [(u64, u32, u16); 3] {
    let (header, status) = (DATA + n * 32, DATA + n * 32 + 16);
    let mut bytes = u64::from(kind).to_le_bytes().to_vec();
    bytes.extend(sector.to_le_bytes());
    bytes.push(0xff);
    driver.put(header, &bytes);
    let data = BUFFERS + n * 512;
    let data = if kind == VIRTIO_BLK_T_OUT {
        readable(data, 512)
    } else {
        writable(data, 512)
    };
    [readable(header, 16), data, writable(status, 1)]
}

fn device(backend: &Arc<TestBackend>) -> Box<Block> {
    Box::new(Block::new(backend.clone(), Serial::default(), 0).unwrap())
}

/// Requests that are saved in the queue are done once, by the device that goes on, and those before by the one before.
#[test]
fn requests_are_done_once_across_a_save() {
    for features in [0, 1 << VIRTIO_RING_F_EVENT_IDX] {
        let backend = Arc::new(TestBackend::new(64, false));
        let mut driver = Driver::new(device(&backend));
        driver.start(features);
        for round in 0..10_u8 {
            for n in 0..2_u64 {
                driver.put(BUFFERS + n * 512, &[round + 1; 512]);
                let sector = u64::from(round) * 2 + n;
                let request = request(&driver, n, VIRTIO_BLK_T_OUT, sector);
                // The second one without a notification, so that it is there when the device is saved, as a rule.
                driver.offer(0, n as u16 * 3, &request);
                if n == 0 {
                    driver.notify(0);
                }
            }
            driver.migrate(device(&backend));
            driver.transport.resume();
            for n in 0..2 {
                // This driver asks for no interrupt by its event index.
                let mut used = None;
                until(|| {
                    used = driver.used(0);
                    used.is_some()
                });
                assert_eq!(used, Some((n * 3, 1)));
                assert_eq!(driver.get(DATA + u64::from(n) * 32 + 16, 1), [0]);
            }
            assert_eq!(driver.used(0), None);
        }
        let writes = backend.calls().into_iter().filter_map(|call| match call {
            Call::Write(offset, _) | Call::WriteNow(offset, _) => Some(offset / 512),
            _ => None,
        });
        assert_eq!(writes.collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        let bytes = backend.bytes();
        for sector in 0..20_usize {
            assert_eq!(bytes[sector * 512], (sector / 2) as u8 + 1);
        }
    }
}

/// A device that holds what fails, and what it told of that.
fn holding(backend: &Arc<TestBackend>) -> (Driver, std::sync::mpsc::Receiver<RequestError>) {
    let (sender, told) = std::sync::mpsc::channel();
    let block = *device(backend);
    let block = block.on_error(
        OnError::Hold,
        Arc::new(move |error| sender.send(error).unwrap()),
    );
    let mut driver = Driver::new(Box::new(block));
    driver.start(1 << VIRTIO_BLK_F_FLUSH);
    (driver, told)
}

/// Whoever pauses the machine makes room; then the requests are done in their order, and the guest sees no error.
#[test]
fn a_request_that_is_held_goes_on_after_a_pause() {
    let backend = Arc::new(TestBackend::new(64, false));
    let (mut driver, told) = holding(&backend);
    for round in 0..10_u8 {
        backend.error.store(libc::ENOSPC, Ordering::Relaxed);
        for n in 0..2_u64 {
            driver.put(BUFFERS + n * 512, &[round + 1; 512]);
            let sector = u64::from(round) * 2 + n;
            let request = request(&driver, n, VIRTIO_BLK_T_OUT, sector);
            driver.give(0, n as u16 * 3, &request);
        }
        let first = told.recv_timeout(LIMIT).unwrap();
        assert_eq!(
            (first.operation, first.offset, first.length),
            ("write", u64::from(round) * 1024, 512)
        );
        // It fails once more, and holds up only itself and those behind it.
        for _ in 0..3 {
            assert_eq!(driver.used(0), None);
            driver.notify(0);
            driver.transport.pause();
            driver.transport.resume();
            assert_eq!(told.recv_timeout(LIMIT).unwrap(), first);
        }
        driver.transport.pause();
        backend.error.store(0, Ordering::Relaxed);
        backend.calls();
        driver.transport.resume();
        for n in 0..2 {
            // One interrupt may be for all of them.
            let mut used = None;
            until(|| {
                used = driver.used(0);
                used.is_some()
            });
            assert_eq!(used, Some((n * 3, 1)));
            assert_eq!(driver.get(DATA + u64::from(n) * 32 + 16, 1), [0]);
        }
        let begin = u64::from(round) * 1024;
        let writes = [0, 512].map(|offset| Call::Write(begin + offset, 512));
        assert_eq!(backend.calls(), writes);
        let from = usize::from(round) * 1024;
        assert!(
            backend.bytes()[from..from + 1024]
                .iter()
                .all(|byte| *byte == round + 1)
        );
    }
    assert!(told.try_recv().is_err());
}

/// A guest that has lost its patience resets the device, and a machine ends, without waiting for the host's storage.
#[test]
fn a_held_request_holds_up_neither_a_reset_nor_the_end() {
    let backend = Arc::new(TestBackend::new(64, false));
    let (mut driver, told) = holding(&backend);
    for _ in 0..3 {
        backend.error.store(libc::EIO, Ordering::Relaxed);
        let held = request(&driver, 0, VIRTIO_BLK_T_IN, 5);
        driver.give(0, 0, &held);
        assert_eq!(told.recv_timeout(LIMIT).unwrap().operation, "read");
        driver.transport.reset();
        backend.error.store(0, Ordering::Relaxed);
        driver.start(0);
        let good = request(&driver, 1, VIRTIO_BLK_T_IN, 6);
        driver.give(0, 3, &good);
        assert_eq!(driver.wait_used(0), (3, 513));
    }
    backend.error.store(libc::EIO, Ordering::Relaxed);
    let held = request(&driver, 0, VIRTIO_BLK_T_IN, 5);
    driver.give(0, 0, &held);
    told.recv_timeout(LIMIT).unwrap();
    drop(driver);
    assert!(
        told.recv_timeout(LIMIT) == Err(RecvTimeoutError::Disconnected),
        "the device and its listener are gone"
    );
}

/// The state of a device that holds a request has it as one that is still to be done.
#[test]
fn a_held_request_is_saved() {
    let backend = Arc::new(TestBackend::new(64, false));
    let (mut driver, told) = holding(&backend);
    backend.error.store(libc::EIO, Ordering::Relaxed);
    driver.put(BUFFERS, &[0xab; 512]);
    let held = request(&driver, 0, VIRTIO_BLK_T_OUT, 5);
    driver.give(0, 0, &held);
    told.recv_timeout(LIMIT).unwrap();
    let other = Arc::new(TestBackend::new(64, false));
    driver.migrate(device(&other));
    driver.transport.resume();
    assert_eq!(driver.wait_used(0), (0, 1));
    assert_eq!(other.bytes()[5 * 512..6 * 512], [0xab; 512]);
}

#[test]
fn another_disk_does_not_get_what_was_meant_for_this_one() {
    let driver = Driver::new(device(&Arc::new(TestBackend::new(64, false))));
    let state = driver.transport.save();
    let other = Driver::new(device(&Arc::new(TestBackend::new(65, false))));
    let error = other.transport.restore(state).unwrap_err();
    assert!(matches!(error, RestoreError::Mismatch(_)));
    let text = "the disk 'test.img' has 65 sectors, and had 64";
    assert!(error.to_string().contains(text), "{error}");
    let rng = Driver::new(Box::new(crate::virtio::rng::Rng::new().unwrap()));
    let error = other.transport.restore(rng.transport.save()).unwrap_err();
    assert!(matches!(error, RestoreError::Mismatch(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_damaged_state_harms_nothing_but_the_device(damages in damages()) {
        let backend = Arc::new(TestBackend::new(64, false));
        let mut driver = Driver::new(device(&backend));
        driver.start(0);
        let request_of_5 = request(&driver, 0, VIRTIO_BLK_T_IN, 5);
        driver.offer(0, 0, &request_of_5);
        driver.migrate_damaged(device(&backend), &damages);
        driver.start(0);
        let again = request(&driver, 0, VIRTIO_BLK_T_IN, 5);
        driver.give(0, 0, &again);
        prop_assert_eq!(driver.wait_used(0), (0, 513));
    }
}
