//! Checked against VIRTIO 1.3, sections 2.7.2, 3.1.2 and 4.2.4, and the drivers that depend on more than these say.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::QueueT;

use super::super::Version;
use super::super::tests::{Bench, SERVED};
use crate::bus::MmioDevice;
use crate::lock;
use crate::virtio::testing::RAM;

const PAGE: u64 = 0x1000;

impl Bench {
    fn legacy() -> Self {
        Self::of(Version::Legacy)
    }

    /// Queue `index` with `size` descriptors at page `pfn` and QueueAlign `align`, as Linux does it.
    fn set_legacy_queue(&self, index: u32, size: u32, align: u32, pfn: u64) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index);
        assert_eq!(self.read(VIRTIO_MMIO_QUEUE_PFN), 0, "not in use");
        self.write(VIRTIO_MMIO_QUEUE_NUM, size);
        self.write(VIRTIO_MMIO_QUEUE_ALIGN, align);
        self.write(VIRTIO_MMIO_QUEUE_PFN, u32::try_from(pfn).unwrap());
    }

    /// The steps of section 3.1.1 without 5 and 6, in the order of Linux.
    fn start_legacy(&self) {
        self.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
        self.write(VIRTIO_MMIO_STATUS, 0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(DRIVER);
        self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        self.write(VIRTIO_MMIO_DRIVER_FEATURES, 1 | 1 << 29);
        self.set_legacy_queue(0, 64, 0x1000, RAM / PAGE);
        self.set_status(DRIVER_OK);
    }

    /// Table, available and used ring of each active queue.
    fn rings(&self) -> Vec<(u64, u64, u64)> {
        let log = lock(&self.log);
        let queues = &log.active.as_ref().expect("not active").queues;
        queues
            .iter()
            .map(|active| &active.queue)
            .map(|queue| (queue.desc_table(), queue.avail_ring(), queue.used_ring()))
            .collect()
    }

    fn is_active(&self) -> bool {
        lock(&self.log).active.is_some()
    }
}

#[test]
fn identification() {
    let bench = Bench::legacy();
    assert_eq!(bench.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(bench.read(VIRTIO_MMIO_VERSION), 1);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(bench.read(VIRTIO_MMIO_VENDOR_ID), 0x554d_4551);
    for register in [
        VIRTIO_MMIO_QUEUE_READY,
        VIRTIO_MMIO_SHM_LEN_LOW,
        VIRTIO_MMIO_CONFIG_GENERATION,
    ] {
        assert_eq!(bench.read(register), 0, "{register:#x} is version 2's");
    }
}

#[test]
fn one_word_of_features_without_version_1() {
    let bench = Bench::legacy();
    assert_eq!(
        bench.read(VIRTIO_MMIO_DEVICE_FEATURES),
        1 | 1 << 27 | 1 << 28 | 1 << 29
    );
    bench.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

#[test]
fn a_driver_gets_what_is_offered_of_what_it_asks() {
    let bench = Bench::legacy();
    bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
    bench.write(VIRTIO_MMIO_DRIVER_FEATURES, u32::MAX);
    bench.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    bench.write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    bench.set_legacy_queue(0, 64, 0x1000, RAM / PAGE);
    bench.set_status(DRIVER_OK);
    assert_eq!(
        lock(&bench.log).active.as_ref().unwrap().features,
        1 | 1 << 27 | 1 << 28 | 1 << 29
    );
}

#[test]
fn a_queue_is_one_piece_with_an_aligned_used_ring() {
    for (size, align, used) in [
        // 16 bytes a descriptor; 2 an available entry, and 6.
        (64, 0x1000, 0x1000),
        (16, 0x1000, 0x1000),
        (16, 4, 0x100 + 40),
        (16, 64, 0x140),
        (64, 0x200, 0x600),
        (1, 1, 0x18),
    ] {
        let bench = Bench::legacy();
        bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
        bench.set_legacy_queue(0, size, align, RAM / PAGE + 3);
        assert_eq!(u64::from(bench.read(VIRTIO_MMIO_QUEUE_PFN)), RAM / PAGE + 3);
        bench.set_status(DRIVER_OK);
        let table = RAM + 3 * PAGE;
        let available = table + 16 * u64::from(size);
        assert_eq!(bench.rings(), [(table, available, table + used)]);
    }
}

#[test]
fn a_driver_that_is_silent_on_size_and_alignment_gets_the_defaults() {
    let bench = Bench::legacy();
    bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
    bench.write(VIRTIO_MMIO_QUEUE_PFN, (RAM / PAGE) as u32);
    bench.set_status(DRIVER_OK);
    assert_eq!(bench.rings(), [(RAM, RAM + 0x400, RAM + 0x1000)]);
}

#[test]
fn the_page_size_outlives_a_reset_of_the_device_and_not_one_of_the_machine() {
    let bench = Bench::legacy();
    bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x4000);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    bench.set_legacy_queue(0, 16, 0x1000, RAM / 0x4000);
    bench.set_status(DRIVER_OK);
    assert_eq!(bench.rings()[0].0, RAM);
    bench.transport.reset();
    bench.set_legacy_queue(0, 16, 0x1000, RAM);
    bench.set_status(DRIVER_OK);
    assert_eq!(bench.rings()[0].0, RAM, "pages of one byte, as on QEMU");
}

#[test]
fn a_driver_as_linux_has_it() {
    let bench = Bench::legacy();
    bench.start_legacy();
    assert_eq!(bench.status(), ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(bench.rings().len(), 1);
    assert_eq!(lock(&bench.log).activations, 1);
    let log = lock(&bench.log);
    assert!(
        log.active.as_ref().unwrap().queues[0]
            .queue
            .event_idx_enabled()
    );
}

#[test]
fn page_zero_resets_the_device() {
    let bench = Bench::legacy();
    bench.start_legacy();
    bench.notifier().used(0);
    bench.write(VIRTIO_MMIO_QUEUE_PFN, 0);
    assert!(!bench.is_active());
    assert_eq!(bench.status(), 0);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_PFN), 0);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert!(!bench.line.level());
    bench.start_legacy();
    assert!(bench.is_active());
}

/// A device that needs a reset rests, whatever its driver sets up.
#[test]
fn a_queue_set_up_for_a_broken_device_starts_nothing() {
    let bench = Bench::legacy();
    bench.start_legacy();
    bench.notifier().needs_reset(&"test");
    let activations = lock(&bench.log).activations;
    bench.set_legacy_queue(1, 8, 0x1000, RAM / PAGE + 2);
    assert_eq!(lock(&bench.log).activations, activations);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    bench.start_legacy();
    assert!(bench.is_active());
}

#[test]
fn a_queue_set_up_after_driver_ok_is_served() {
    let bench = Bench::legacy();
    // The order of early xv6, which also sets a bit that came later.
    bench.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
    bench.set_legacy_queue(0, 8, 0x1000, RAM / PAGE);
    assert_eq!(bench.rings().len(), 1);

    // The first one goes on where the device was in it.
    bench.set_legacy_queue(1, 8, 0x1000, RAM / PAGE + 2);
    let log = lock(&bench.log);
    let queues = &log.active.as_ref().unwrap().queues;
    let positions: Vec<_> = queues
        .iter()
        .map(|active| {
            (
                active.index,
                active.queue.next_avail(),
                active.queue.next_used(),
            )
        })
        .collect();
    assert_eq!(positions, [(0, SERVED, SERVED), (1, 0, 0)]);
    assert_eq!(queues.len(), 2);
}

#[test]
fn the_first_notification_starts_the_device_of_a_driver_that_is_not_ready() {
    let bench = Bench::legacy();
    assert!(
        bench.transport.notify_event(0).is_none(),
        "it has to come through the register"
    );
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert!(!bench.is_active(), "no queue yet");
    bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
    bench.set_status(ACKNOWLEDGE | DRIVER);
    bench.set_legacy_queue(0, 8, 0x1000, RAM / PAGE);
    assert!(!bench.is_active(), "the ring may not be there yet");
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert!(bench.is_active());
    bench.set_status(DRIVER_OK);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(lock(&bench.log).activations, 1);
    let log = lock(&bench.log);
    let kick = &log.active.as_ref().unwrap().queues[0].kick;
    assert_eq!(kick.read().unwrap(), 3);
}

#[test]
fn a_driver_that_gave_up_is_not_served() {
    let bench = Bench::legacy();
    bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
    bench.set_status(FAILED);
    bench.set_legacy_queue(0, 8, 0x1000, RAM / PAGE);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    bench.set_status(DRIVER_OK);
    assert!(!bench.is_active());
}

#[test]
fn an_impossible_queue_needs_a_reset_and_nothing_more() {
    for (size, align, pfn) in [
        (0, 0x1000, RAM / PAGE),
        (3, 0x1000, RAM / PAGE),
        (128, 0x1000, RAM / PAGE),
        (u32::MAX, 0x1000, RAM / PAGE),
        (16, 0, RAM / PAGE),
        (16, 3, RAM / PAGE),
        (16, 1 << 31, RAM / PAGE + 1),
        (2, 2, RAM / PAGE),
        (16, 0x1000, 1),
        (16, 0x1000, u64::from(u32::MAX)),
    ] {
        let bench = Bench::legacy();
        bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, 0x1000);
        bench.set_legacy_queue(0, size, align, pfn);
        bench.set_status(DRIVER_OK);
        assert_eq!(
            bench.status() & NEEDS_RESET,
            NEEDS_RESET,
            "{size} {align} {pfn:#x}"
        );
        assert!(!bench.is_active());
        bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        assert!(!bench.is_active());
        bench.start_legacy();
        assert!(bench.is_active());
    }
}

#[test]
fn odd_page_sizes_are_taken_as_qemu_takes_them() {
    for (size, shift) in [(0, 0), (1, 0), (0x3000, 12), (1 << 31, 31), (u32::MAX, 0)] {
        let bench = Bench::legacy();
        bench.write(VIRTIO_MMIO_GUEST_PAGE_SIZE, size);
        bench.set_legacy_queue(0, 16, 0x1000, RAM >> shift);
        bench.set_status(DRIVER_OK);
        assert_eq!(bench.rings()[0].0, RAM, "{size:#x}");
    }
}

#[test]
fn a_queue_in_use_does_not_change() {
    let bench = Bench::legacy();
    bench.start_legacy();
    let rings = bench.rings();
    bench.write(VIRTIO_MMIO_QUEUE_NUM, 8);
    bench.write(VIRTIO_MMIO_QUEUE_ALIGN, 8);
    bench.write(VIRTIO_MMIO_QUEUE_PFN, 1);
    assert_eq!(bench.rings(), rings);
    assert_eq!(lock(&bench.log).activations, 1);
    bench.write(VIRTIO_MMIO_QUEUE_SEL, 2);
    bench.write(VIRTIO_MMIO_QUEUE_PFN, 1);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_PFN), 0);
}

#[test]
fn the_configuration_space_is_where_it_is() {
    let bench = Bench::legacy();
    bench.transport.write(0x101, &[5]);
    let mut data = [0; 2];
    bench.transport.read(0x100, &mut data);
    assert_eq!(data, [0, 5]);
}
