//! The whole device behind its registers, on a back end in memory, checked against VIRTIO 1.3, section
//! 5.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

use super::testing::{Calls, TestBackend, info};
use super::*;
use crate::borrowed;
use crate::state::RestoreError;
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{
    DATA, Driver, MAX_QUEUE_SIZE, PAGE, damages, descriptor_flags, readable, until, wait_asleep,
    writable,
};

const MODERN: u64 = 1 << VIRTIO_F_VERSION_1;
const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// Where tables of indirect descriptors go.
const TABLES: u64 = DATA + 0x10_0000;
/// What nothing was written to.
const UNTOUCHED: u8 = 0xee;

/// Numbers devices, so that their threads have names of their own.
static NEXT: AtomicUsize = AtomicUsize::new(100);

struct Bench {
    driver: Driver,
    backend: Arc<TestBackend>,
    /// The name of the worker's thread.
    thread: String,
    link: Arc<Link>,
}

impl Bench {
    fn new() -> Self {
        Self::with_info(info())
    }

    fn with_info(info: Info) -> Self {
        let backend = Arc::new(TestBackend::new(info));
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Net::new(backend.clone(), bench_mac(), None, index).unwrap();
        let link = net.link();
        let driver = Driver::new(Box::new(net));
        driver.put(DATA, &[UNTOUCHED; 0x2_0000]);
        Self {
            driver,
            backend,
            thread: format!("virtio-net-{index}"),
            link,
        }
    }

    /// Another device of the same configuration.
    fn device(&mut self) -> Box<Net> {
        let net = Net::new(self.backend.clone(), bench_mac(), None, 0).unwrap();
        self.link = net.link();
        Box::new(net)
    }

    fn wait_asleep(&self) {
        wait_asleep(&self.thread);
    }

    fn needs_reset(&self) -> bool {
        self.driver.read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }

    fn started(features: u64) -> Self {
        let mut bench = Self::new();
        bench.driver.start(features);
        bench
    }

    /// The driver sends a packet, and gets its buffer back.
    fn transmit(&mut self, packet: &[u8]) {
        self.driver.put(DATA, packet);
        let buffer = readable(DATA, packet.len() as u32);
        self.driver.give(1, 0, &[buffer]);
        assert_eq!(self.driver.wait_used(1), (0, 0));
    }

    /// The driver has room for 1000 bytes behind that of the buffers before.
    fn give_kilobyte(&mut self, head: u16) {
        let place = DATA + 1000 * u64::from(head);
        self.driver.give(0, head, &[writable(place, 1000)]);
    }

    /// A device with two packets, the first of which takes twice the room that the driver has.
    fn with_a_packet_that_waits() -> Self {
        let mut bench = Self::started(MODERN | MERGE);
        bench.backend.arrive(packet(1, 3000));
        bench.backend.arrive(packet(2, 10));
        bench.give_kilobyte(0);
        bench.give_kilobyte(1);
        bench
    }

    /// The two packets come, now that the driver has room for both.
    fn expect_both_packets(&mut self) {
        for used in [(0, 1000), (1, 1000), (2, 1000), (3, 12)] {
            assert_eq!(self.driver.wait_used(0), used);
        }
        assert!(self.driver.get(DATA, 3012) == counted(packet(1, 3000), 4));
        self.give_kilobyte(0);
        assert_eq!(self.driver.wait_used(0), (0, 22));
        assert_eq!(self.driver.get(DATA, 22), counted(packet(2, 10), 1));
    }
}

/// A device on a back end with these properties.
fn net_with(info: Info, mtu: Option<u16>) -> Net {
    Net::new(Arc::new(TestBackend::new(info)), Mac([2; 6]), mtu, 0).unwrap()
}

/// A header of 10 bytes and room for a count, and `length` bytes that tell packets and places apart.
fn packet(seed: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![seed; 10];
    packet.extend([0, 0]);
    packet.extend((0..length).map(|n| (n % 239) as u8 ^ seed));
    packet
}

/// The packet as the driver is to see it.
fn counted(mut packet: Vec<u8>, buffers: u16) -> Vec<u8> {
    packet[10..12].copy_from_slice(&buffers.to_le_bytes());
    packet
}

#[test]
fn features_are_those_of_the_device_and_the_back_end() {
    let net = |features| {
        let info = Info { features, ..info() };
        net_with(info, None)
    };
    let always = 1 << 5 | 1 << 15 | 1 << 16;
    assert_eq!(net(0).device_id(), 1);
    assert_eq!(net(0).queue_sizes().len(), 2);
    assert_eq!(net(0).features(), always);
    assert_eq!(net(0).name(), "network interface on a test");
    let offloads = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13;
    assert_eq!(net(offloads).features(), always | offloads);
}

/// Legacy drivers have a shorter header unless buffers are mergeable.
#[test]
fn each_activation_tells_the_back_end_what_was_negotiated() {
    let csum = 1 << 1;
    let mut bench = Bench::with_info(Info {
        features: csum,
        ..info()
    });
    for (features, header) in [(0, 10), (MODERN, 12), (MERGE | csum, 12), (csum, 10)] {
        bench.driver.start(features);
        assert_eq!(bench.backend.take_configured(), [(header, features)]);
    }
    bench.driver.transport.pause();
    bench.driver.transport.resume();
    assert_eq!(bench.backend.take_configured(), [(10, csum)]);
}

#[test]
fn address_and_link_are_in_the_configuration_space() {
    let mut bench = Bench::new();
    let config = [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 0, 0];
    assert_eq!(bench.driver.config(0), config);
    assert_eq!(bench.driver.config(4), [0x34, 0x56, 1, 0]);
    assert_eq!(bench.driver.config(u64::MAX / 2), [0; 4]);
    bench.driver.start(MODERN);
    for (up, status) in [(false, [0, 0]), (true, [1, 0])] {
        bench.link.set(up);
        let driver = &bench.driver;
        driver
            .line
            .wait(|| driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG != 0);
        assert_eq!(driver.config(6), status);
        bench.driver.start(MODERN);
    }
}

#[test]
fn packets_leave_as_the_driver_made_them() {
    let mut bench = Bench::started(MODERN);
    let long = packet(1, 20_000);
    bench.driver.put(DATA, &long);
    bench.driver.give(
        1,
        0,
        &[
            readable(DATA, 12),
            readable(DATA + 12, 5_000),
            readable(DATA + 5_012, 15_000),
        ],
    );
    assert_eq!(bench.driver.wait_used(1), (0, 0));
    assert!(bench.backend.sent() == long);
    bench.transmit(&packet(2, 60));
    assert_eq!(bench.backend.sent(), packet(2, 60));
}

#[test]
fn what_is_no_packet_is_lost() {
    let mut bench = Bench::started(MODERN);
    for buffers in [
        vec![readable(DATA, MAX_PACKET as u32 + 1)],
        vec![readable(DATA, 0)],
        vec![writable(DATA, 100)],
    ] {
        bench.driver.give(1, 0, &buffers);
        assert_eq!(bench.driver.wait_used(1), (0, 0));
    }
    bench.driver.put(DATA, &packet(3, 60));
    bench.driver.give(1, 0, &[readable(DATA, 72)]);
    assert_eq!(bench.backend.sent(), packet(3, 60));
}

#[test]
fn a_full_back_end_is_waited_for() {
    let mut bench = Bench::new();
    bench.backend.set_room(10);
    bench.driver.start(MODERN);
    let total = 200_u32;
    let (mut given, mut done) = (0, 0);
    let mut arrived = 0;
    while done < total {
        while given < total && given - done < 8 {
            let place = DATA + u64::from(given % 8) * 0x100;
            bench.driver.put(place, &packet(given as u8, 20));
            let head = (given % 8) as u16;
            bench.driver.give(1, head, &[readable(place, 32)]);
            given += 1;
        }
        // A packet arrives before its buffer is used: all may have arrived when the last is not used yet.
        if arrived < total && (given - arrived >= 16 || given == total) {
            assert_eq!(bench.backend.sent(), packet(arrived as u8, 20));
            arrived += 1;
        }
        while bench.driver.used(1).is_some() {
            done += 1;
        }
    }
    for n in arrived..total {
        assert_eq!(bench.backend.sent(), packet(n as u8, 20), "none is lost");
    }
}

#[test]
fn a_packet_comes_into_one_buffer() {
    for (features, count) in [(MODERN, 1), (MODERN | MERGE, 1), (MERGE, 1)] {
        let mut bench = Bench::started(features);
        bench
            .driver
            .give(0, 3, &[writable(DATA, 12), writable(DATA + 0x1000, 1600)]);
        bench.backend.arrive(packet(7, 1500));
        assert_eq!(bench.driver.wait_used(0), (3, 1512));
        let seen = [
            bench.driver.get(DATA, 12),
            bench.driver.get(DATA + 0x1000, 1501),
        ]
        .concat();
        let mut expected = counted(packet(7, 1500), count);
        expected.push(UNTOUCHED);
        assert!(seen == expected);
    }
}

#[test]
fn the_short_header_of_the_legacy_interface_has_no_count() {
    let mut bench = Bench::started(0);
    bench.driver.give(0, 0, &[writable(DATA, 1600)]);
    bench.backend.arrive(vec![0x55; 70]);
    assert_eq!(bench.driver.wait_used(0), (0, 70));
    assert_eq!(bench.driver.get(DATA, 70), [0x55; 70]);
}

#[test]
fn a_long_packet_takes_several_buffers_and_the_next_one_those_behind() {
    let mut bench = Bench::started(MODERN | MERGE);
    for head in 0..8_u16 {
        let buffer = [writable(DATA + u64::from(head) * 0x1000, 1000)];
        bench.driver.give(0, head, &buffer);
    }
    bench.backend.arrive(packet(1, 2488));
    bench.backend.arrive(packet(2, 100));
    bench.backend.arrive(packet(3, 1988));
    let mut packets = Vec::new();
    for lengths in [&[1000, 1000, 500][..], &[112], &[1000, 1000]] {
        let mut bytes = Vec::new();
        for length in lengths {
            let (head, written) = bench.driver.wait_used(0);
            assert_eq!(written, *length);
            let place = DATA + u64::from(head) * 0x1000;
            bytes.extend(bench.driver.get(place, *length as usize));
        }
        packets.push(bytes);
    }
    assert!(packets[0] == counted(packet(1, 2488), 3));
    assert!(packets[1] == counted(packet(2, 100), 1));
    assert!(packets[2] == counted(packet(3, 1988), 2));
}

#[test]
fn a_packet_waits_for_buffers() {
    // Too little room, and enough.
    let mut bench = Bench::with_a_packet_that_waits();
    assert_eq!(bench.driver.used(0), None);
    bench.give_kilobyte(2);
    bench.give_kilobyte(3);
    bench.expect_both_packets();
}

#[test]
fn a_packet_that_cannot_fit_is_lost_and_the_next_one_is_not() {
    // One buffer for each packet, and a queue full of buffers that are too small together.
    for (features, buffers) in [(MODERN, 1), (MODERN | MERGE, 8)] {
        let mut bench = Bench::started(features);
        for head in 0..buffers {
            bench
                .driver
                .give(0, head, &[writable(DATA + u64::from(head) * 0x100, 100)]);
        }
        bench.backend.arrive(packet(1, 1000));
        bench.backend.arrive(packet(2, 50));
        assert_eq!(bench.driver.wait_used(0), (0, 62));
        assert_eq!(bench.driver.get(DATA, 62), counted(packet(2, 50), 1));
    }
}

#[test]
fn buffers_without_room_come_back_empty() {
    let mut bench = Bench::started(MODERN | MERGE);
    bench.driver.give(0, 0, &[readable(DATA, 100)]);
    assert_eq!(bench.driver.wait_used(0), (0, 0));
    bench.driver.give(0, 1, &[writable(DATA, 100)]);
    bench.backend.arrive(packet(1, 10));
    assert_eq!(bench.driver.wait_used(0), (1, 22));
}

#[test]
fn without_a_link_packets_are_lost() {
    let mut bench = Bench::started(MODERN);
    bench.link.set(false);
    bench.transmit(&packet(1, 50));
    bench.link.set(true);
    bench.driver.put(DATA, &packet(2, 50));
    bench.driver.give(1, 0, &[readable(DATA, 62)]);
    assert_eq!(bench.backend.sent(), packet(2, 50));
}

/// Also those that the back end would have kept until the link is up again, and one that waits for buffers.
#[test]
fn without_a_link_packets_from_the_network_are_lost() {
    let mut bench = Bench::started(MODERN);
    bench.backend.arrive(packet(1, 50));
    bench.wait_asleep();
    bench.link.set(false);
    for _ in 0..2 * TURN {
        bench.backend.arrive(packet(2, 50));
    }
    bench.driver.give(0, 0, &[writable(DATA, 100)]);
    until(|| bench.backend.incoming() == 0);
    // A signal is no end of the network.
    bench.backend.fail_receive([libc::EINTR, libc::EINTR]);
    bench.backend.arrive(packet(4, 50));
    until(|| bench.backend.incoming() == 0);
    assert_eq!(bench.driver.used(0), None);
    bench.link.set(true);
    bench.backend.arrive(packet(3, 40));
    assert_eq!(bench.driver.wait_used(0), (0, 52));
}

/// It is asked for nothing more until the next activation.
#[test]
fn a_back_end_that_is_gone_leaves_the_guest_running() {
    let mut bench = Bench::new();
    bench.backend.fail_receive([libc::EBADFD]);
    bench.backend.arrive(packet(1, 50));
    bench.driver.start(MODERN);
    bench.driver.give(0, 0, &[writable(DATA, 100)]);
    until(|| bench.backend.calls().receives > 0);
    bench.wait_asleep();
    for _ in 0..3 {
        bench.driver.give(1, 0, &[readable(DATA, 62)]);
        assert_eq!(bench.driver.wait_used(1), (0, 0));
        bench.wait_asleep();
    }
    let calls = bench.backend.calls();
    assert_eq!((calls.receives, calls.sends), (1, 0));
    assert_eq!(bench.driver.used(0), None);
    bench.driver.start(MODERN);
    bench.driver.give(0, 0, &[writable(DATA, 100)]);
    assert_eq!(bench.driver.wait_used(0), (0, 62));
}

#[test]
fn a_packet_that_the_back_end_refuses_is_lost_and_the_next_one_is_not() {
    let mut bench = Bench::started(MODERN);
    bench.backend.fail_send([libc::EINVAL, libc::EIO]);
    for n in 0..3 {
        bench.transmit(&packet(n, 50));
    }
    assert_eq!(bench.backend.sent(), packet(2, 50));
    assert_eq!(bench.backend.calls().sends, 3);
}

/// A signal, or a back end that was readable and has nothing.
#[test]
fn a_back_end_that_has_nothing_after_all_is_asked_again() {
    let mut bench = Bench::new();
    bench.backend.fail_receive([
        libc::EAGAIN,
        libc::EINTR,
        libc::EAGAIN,
        libc::EINTR,
        libc::EINTR,
    ]);
    bench.backend.arrive(packet(1, 50));
    bench.driver.start(MODERN);
    bench.driver.give(0, 0, &[writable(DATA, 100)]);
    assert_eq!(bench.driver.wait_used(0), (0, 62));
    assert_eq!(bench.driver.get(DATA, 62), counted(packet(1, 50), 1));
}

/// A packet that was refused for now is offered again, whole and once.
#[test]
fn a_packet_that_would_block_is_kept() {
    let mut bench = Bench::new();
    let errors = [libc::EAGAIN, libc::EINTR, libc::EAGAIN, libc::EINTR];
    bench.backend.fail_send(errors);
    bench.driver.start(MODERN);
    bench.transmit(&packet(1, 50));
    assert_eq!(bench.backend.sent(), packet(1, 50));
    bench.wait_asleep();
    assert_eq!(bench.backend.calls().sends, 5);
    assert_eq!(bench.backend.try_sent(), None);
}

/// A packet without a whole header is no packet, and leaves its buffers to the next one.
#[test]
fn packets_shorter_than_a_header_are_dropped() {
    for (features, header) in [(MODERN, 12), (MODERN | MERGE, 12), (0, 10)] {
        let mut bench = Bench::started(features);
        for length in [0, 1, header - 1] {
            bench.backend.arrive(vec![0x55; length]);
        }
        bench.backend.arrive(vec![0; header]);
        bench.driver.give(0, 0, &[writable(DATA, 1600)]);
        assert_eq!(bench.driver.wait_used(0), (0, header as u32));
        bench.wait_asleep();
        assert_eq!(bench.driver.used(0), None);
    }
}

/// A thread that polls or asks twice would show.
#[test]
fn a_back_end_is_asked_no_more_than_needed() {
    let mut bench = Bench::started(MODERN);
    bench.wait_asleep();
    assert_eq!(bench.backend.calls(), Calls::default(), "no buffers");
    for round in 1..=5 {
        bench.driver.give(0, 0, &[writable(DATA, 1600)]);
        // There is nothing, and then there is a packet.
        until(|| bench.backend.calls().receives == 2 * round - 1);
        bench.wait_asleep();
        bench.backend.arrive(packet(1, 10));
        assert_eq!(bench.driver.wait_used(0), (0, 22));
        bench.wait_asleep();
        assert_eq!(bench.backend.calls().receives, 2 * round);
    }
    for n in 1..=5 {
        bench.driver.give(1, 0, &[readable(DATA, 22)]);
        assert_eq!(bench.driver.wait_used(1), (0, 0));
        assert_eq!(bench.backend.calls().sends, n);
    }
    bench.link.set(false);
    bench.driver.give(1, 0, &[readable(DATA, 22)]);
    assert_eq!(bench.driver.wait_used(1), (0, 0));
    assert_eq!(bench.backend.calls().sends, 5, "the cable is out");
}

#[test]
fn a_reset_lets_go_of_buffers_and_keeps_packets() {
    let mut bench = Bench::started(MODERN | MERGE);
    bench.driver.give(0, 0, &[writable(DATA, 1000)]);
    bench.driver.start(MODERN | MERGE);
    bench.backend.arrive(packet(1, 10));
    bench.driver.give(0, 0, &[writable(DATA + 0x1000, 1000)]);
    assert_eq!(bench.driver.wait_used(0), (0, 22));
    assert_eq!(bench.driver.get(DATA, 22), [UNTOUCHED; 22]);
}

/// A packet that was read and did not fit comes after the pause, whole and once.
#[test]
fn a_packet_that_waits_for_buffers_outlives_a_pause() {
    let mut bench = Bench::with_a_packet_that_waits();
    for _ in 0..3 {
        bench.driver.transport.pause();
        assert_eq!(bench.driver.used(0), None);
        bench.driver.transport.resume();
    }
    bench.give_kilobyte(2);
    bench.driver.transport.pause();
    bench.give_kilobyte(3);
    bench.driver.transport.resume();
    bench.expect_both_packets();
}

#[test]
fn packets_from_the_guest_are_sent_once_across_pauses() {
    let mut bench = Bench::started(MODERN);
    let mut given = 0_u8;
    for _ in 0..30 {
        for _ in 0..3 {
            let place = DATA + u64::from(given % 8) * 0x100;
            bench.driver.put(place, &packet(given, 20));
            let head = u16::from(given % 8);
            bench.driver.give(1, head, &[readable(place, 32)]);
            given += 1;
        }
        bench.driver.transport.pause();
        bench.driver.transport.resume();
        for n in given - 3..given {
            assert_eq!(bench.backend.sent(), packet(n, 20));
            assert_eq!(bench.driver.wait_used(1).0, u32::from(n % 8));
        }
    }
}

/// Buffers that were taken for a packet that has not come are there after a pause, those without room included.
#[test]
fn buffers_that_wait_for_a_packet_outlive_a_pause() {
    let mut bench = Bench::started(MODERN | MERGE);
    bench.driver.give(0, 0, &[writable(DATA, 100)]);
    bench.driver.give(0, 1, &[readable(DATA, 100)]);
    bench.driver.give(0, 2, &[writable(DATA + 0x100, 100)]);
    bench.driver.transport.pause();
    bench.driver.transport.resume();
    bench.backend.arrive(packet(1, 10));
    bench.backend.arrive(packet(2, 10));
    let mut heads = Vec::new();
    while heads.last() != Some(&2) {
        heads.push(bench.driver.wait_used(0).0);
    }
    assert_eq!(heads, [0, 1, 2]);
}

/// Whatever comes while the thread sleeps wakes it, and only that.
#[test]
fn a_worker_that_sleeps_is_woken() {
    let mut bench = Bench::started(MODERN | MERGE);
    bench.wait_asleep();
    // The back end has nothing, and then a packet.
    bench.driver.give(0, 0, &[writable(DATA, 1600)]);
    bench.wait_asleep();
    bench.backend.arrive(packet(1, 100));
    assert_eq!(bench.driver.wait_used(0), (0, 112));
    bench.wait_asleep();
    // A packet that is too long for the buffers that there are.
    bench.backend.arrive(packet(2, 988));
    bench.driver.give(0, 0, &[writable(DATA, 500)]);
    bench.wait_asleep();
    assert_eq!(bench.driver.used(0), None);
    bench.driver.give(0, 1, &[writable(DATA + 0x1000, 500)]);
    assert_eq!(bench.driver.wait_used(0), (0, 500), "an exact fit");
    assert_eq!(bench.driver.wait_used(0), (1, 500));
    bench.wait_asleep();
    bench.driver.put(DATA, &packet(3, 60));
    bench.driver.give(1, 0, &[readable(DATA, 72)]);
    assert_eq!(bench.backend.sent(), packet(3, 60));
    assert_eq!(bench.driver.wait_used(1), (0, 0));
    bench.wait_asleep();
    let config =
        |driver: &Driver| driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG != 0;
    assert!(!config(&bench.driver), "nothing has changed");
    bench.link.set(false);
    bench.driver.line.wait(|| config(&bench.driver));
    bench.wait_asleep();
    let interrupts = bench.driver.line.assertions();
    bench.link.wake();
    bench.wait_asleep();
    assert_eq!(
        bench.driver.line.assertions(),
        interrupts,
        "there is nothing new"
    );
}

/// A notification may be for more packets than a turn takes.
#[test]
fn more_than_a_turn_leaves_with_one_notification() {
    assert!(u32::from(MAX_QUEUE_SIZE) > TURN);
    let mut bench = Bench::new();
    bench.link.set(false);
    bench.driver.start_with(MODERN, MAX_QUEUE_SIZE);
    bench.wait_asleep();
    for head in 0..MAX_QUEUE_SIZE {
        bench.driver.offer(1, head, &[readable(DATA, 72)]);
    }
    bench.driver.notify(1);
    for head in 0..MAX_QUEUE_SIZE {
        assert_eq!(bench.driver.wait_used(1), (head.into(), 0));
    }
    bench.wait_asleep();
}

#[test]
fn more_than_a_turn_arrives_with_one_notification() {
    let mut bench = Bench::new();
    bench.driver.start_with(MODERN | MERGE, MAX_QUEUE_SIZE);
    let sent = 2 * TURN;
    for n in 0..sent {
        bench.backend.arrive(packet(n as u8, 20));
    }
    bench.wait_asleep();
    for head in 0..MAX_QUEUE_SIZE {
        let place = DATA + 0x800 * u64::from(head);
        bench.driver.offer(0, head, &[writable(place, 0x800)]);
    }
    bench.driver.notify(0);
    for n in 0..sent {
        assert_eq!(bench.driver.wait_used(0), (n, 32));
        let place = DATA + 0x800 * u64::from(n);
        assert_eq!(bench.driver.get(place, 32), counted(packet(n as u8, 20), 1));
    }
    bench.wait_asleep();
}

/// Nobody notifies any more, and the back end takes packets again.
#[test]
fn a_worker_that_sleeps_on_a_full_back_end_is_woken() {
    let mut bench = Bench::new();
    bench.backend.set_room(3);
    bench.driver.start_with(MODERN, MAX_QUEUE_SIZE);
    let total = MAX_QUEUE_SIZE;
    for head in 0..total {
        let place = DATA + u64::from(head) * 0x100;
        bench.driver.put(place, &packet(head as u8, 20));
        bench.driver.offer(1, head, &[readable(place, 32)]);
    }
    bench.driver.notify(1);
    bench.wait_asleep();
    for n in 0..total {
        assert_eq!(bench.backend.sent(), packet(n as u8, 20), "none is lost");
    }
    for head in 0..total {
        assert_eq!(bench.driver.wait_used(1), (head.into(), 0));
    }
    bench.wait_asleep();
}

/// What a packet leaves in the last of its buffers may be a single byte, and the next packet begins in the one behind.
#[test]
fn packets_end_at_any_byte_of_a_buffer() {
    for length in [988, 989, 1987, 1988, 1989] {
        let mut bench = Bench::started(MODERN | MERGE);
        for head in 0..8_u16 {
            let buffer = [writable(DATA + u64::from(head) * 0x1000, 1000)];
            bench.driver.give(0, head, &buffer);
        }
        bench.backend.arrive(packet(1, length));
        bench.backend.arrive(packet(2, 10));
        let total = length as u32 + 12;
        let mut head = 0;
        while head * 1000 < total {
            let used = (total - head * 1000).min(1000);
            assert_eq!(bench.driver.wait_used(0), (head, used), "{length}");
            head += 1;
        }
        assert_eq!(bench.driver.wait_used(0), (head, 22), "{length}");
        let place = DATA + u64::from(head) * 0x1000;
        assert_eq!(bench.driver.get(place, 22), counted(packet(2, 10), 1));
    }
}

#[test]
fn the_mtu_is_in_the_configuration_space() {
    let net = |host, told| {
        net_with(
            Info {
                mtu: host,
                ..info()
            },
            told,
        )
    };
    for host in [None, Some(1500)] {
        let told = Driver::new(Box::new(net(host, Some(9001))));
        assert_eq!(told.config(8), [0, 0, 0x29, 0x23, 0, 0, 0, 0]);
    }
    let of_the_host = Driver::new(Box::new(net(Some(1500), None)));
    assert_eq!(of_the_host.config(8), [0, 0, 0xdc, 5, 0, 0, 0, 0]);
    assert_eq!(net(None, Some(68)).features() & 1 << 3, 1 << 3);
    assert_eq!(net(Some(68), None).features() & 1 << 3, 1 << 3);
    assert_eq!(net(None, None).features() & 1 << 3, 0);
    assert_eq!(Driver::new(Box::new(net(None, None))).config(8), [0; 8]);
}

/// So many buffers of one byte from [`DATA`] on, in a table of their own.
fn bytes(
    driver: &Driver,
    count: usize,
    buffer: fn(u64, u32) -> (u64, u32, u16),
) -> (u64, u32, u16) {
    let buffers: Vec<_> = (DATA..)
        .take(count)
        .map(|address| buffer(address, 1))
        .collect();
    driver.indirect(TABLES, &buffers)
}

/// The kernel takes no more buffers at once (`UIO_MAXIOV`).
#[test]
fn a_packet_of_as_many_buffers_as_the_kernel_takes_is_sent() {
    let mut bench = Bench::started(MODERN | INDIRECT);
    for (parts, is_sent) in [(IoVector::MAX + 1, false), (IoVector::MAX, true)] {
        let packet = packet(1, parts - 12);
        bench.driver.put(DATA, &packet);
        let table = bytes(&bench.driver, parts, readable);
        bench.driver.give(1, 0, &[table]);
        assert_eq!(bench.driver.wait_used(1), (0, 0));
        assert!(bench.backend.try_sent() == is_sent.then_some(packet));
    }
}

#[test]
fn a_receive_buffer_of_many_parts_is_used_and_one_of_too_many_a_fault() {
    const MOST: usize = IoVector::MAX / 2;
    let mut bench = Bench::started(MODERN | MERGE | INDIRECT);
    let table = bytes(&bench.driver, MOST, writable);
    bench.driver.offer(0, 0, &[table]);
    bench.driver.give(0, 1, &[writable(DATA + 0x1000, 100)]);
    // No buffer is taken beside it, so the first packet can never fit.
    bench.backend.arrive(packet(1, MOST));
    bench.backend.arrive(packet(2, 100));
    assert_eq!(bench.driver.wait_used(0), (0, 112));
    assert_eq!(bench.driver.get(DATA, 112), counted(packet(2, 100), 1));
    assert!(!bench.needs_reset());
    // Behind the other one.
    let table = bytes(&bench.driver, MOST + 1, writable);
    bench.driver.give(0, 0, &[table]);
    until(|| bench.needs_reset());
}

/// A driver has no more buffers than its queue has entries, unless it makes one available twice.
#[test]
fn a_buffer_that_is_available_twice_is_a_fault() {
    let mut bench = Bench::started(MODERN | MERGE);
    for n in 0..9 {
        bench.wait_asleep();
        assert!(!bench.needs_reset(), "{n}");
        bench.driver.give(0, n % 8, &[writable(DATA, 100)]);
    }
    until(|| bench.needs_reset());
}

/// With segmentation offload of either kind that is a whole segment (VIRTIO 1.3, section 5.1.6.3).
#[test]
fn the_room_for_a_packet_is_that_of_the_longest_one() {
    const SIZE: u32 = 0x4000;
    let (four, six) = (1 << VIRTIO_NET_F_GUEST_TSO4, 1 << VIRTIO_NET_F_GUEST_TSO6);
    for (features, buffers) in [(0, 1), (four, 5), (six, 5), (four | six, 5)] {
        let mut bench = Bench::with_info(Info {
            features: four | six,
            ..info()
        });
        bench.driver.start(MODERN | MERGE | features);
        bench.wait_asleep();
        for head in 0..8 {
            let place = DATA + u64::from(head) * u64::from(SIZE);
            bench.driver.offer(0, head, &[writable(place, SIZE)]);
        }
        bench.driver.notify(0);
        until(|| bench.backend.calls().receives > 0);
        assert_eq!(bench.backend.offered(), buffers * SIZE as usize);
    }
}

#[test]
fn the_descriptor_of_the_cable_neither_blocks_nor_is_inherited() {
    let bench = Bench::new();
    let event = borrowed(bench.link.event());
    assert_eq!(descriptor_flags(&event), (true, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in the rings, the device can be reset and works again.
    #[test]
    fn nonsense_in_the_rings_ends_with_a_reset(
        pages in prop::collection::vec(prop::collection::vec(any::<u8>(), PAGE as usize), 2),
        merge in any::<bool>(),
        sizes in prop::collection::vec(0..3000_usize, 0..5),
    ) {
        let features = if merge { MODERN | MERGE } else { MODERN };
        let mut bench = Bench::started(features);
        for (page, bytes) in (0..).zip(&pages) {
            bench.driver.put(Driver::page(page), bytes);
        }
        for size in &sizes {
            bench.backend.arrive(packet(1, *size));
        }
        bench.driver.give(0, 0, &[writable(DATA, 100)]);
        bench.driver.give(1, 0, &[readable(DATA, 100)]);
        bench.driver.start(features);
        bench.transmit(&packet(9, 50));
    }
}

/// What was taken from the back end and not given to the guest is given to it by the device that goes on.
#[test]
fn packets_are_neither_lost_nor_doubled_by_a_save() {
    let mut bench = Bench::with_a_packet_that_waits();
    for round in 0..3_u8 {
        let place = DATA + 0x8000;
        bench.driver.put(place, &packet(round, 20));
        bench.driver.offer(1, 0, &[readable(place, 32)]);
        let device = bench.device();
        bench.driver.migrate(device);
        assert_eq!(bench.driver.used(0), None);
        bench.driver.transport.resume();
        assert_eq!(bench.backend.sent(), packet(round, 20));
        assert_eq!(bench.driver.wait_used(1), (0, 0));
    }
    bench.give_kilobyte(2);
    bench.give_kilobyte(3);
    bench.expect_both_packets();
}

/// The cable stays as it was, and a driver that was not told of it yet is told.
#[test]
fn the_cable_outlives_a_save() {
    let mut bench = Bench::started(MODERN);
    bench.driver.transport.pause();
    bench.link.set(false);
    let device = bench.device();
    bench.driver.migrate(device);
    assert!(!bench.link.is_up());
    assert_eq!(bench.driver.config(6), [0, 0]);
    bench.driver.transport.resume();
    let line = bench.driver.line.clone();
    line.wait(|| bench.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) != 0);
    let status = bench.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS);
    assert_eq!(status, VIRTIO_MMIO_INT_CONFIG);
}

#[test]
fn another_interface_is_not_taken_for_this_one() {
    let bench = Bench::new();
    let state = bench.driver.transport.save();
    for (mac, mtu) in [(Mac([2; 6]), None), (bench_mac(), Some(1400))] {
        let other = Net::new(bench.backend.clone(), mac, mtu, 0).unwrap();
        let refused = Driver::new(Box::new(other))
            .transport
            .restore(state.clone());
        assert!(matches!(refused, Err(RestoreError::Mismatch(_))));
    }
}

fn bench_mac() -> Mac {
    "52:54:00:12:34:56".parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_damaged_state_harms_nothing_but_the_device(damages in damages()) {
        let mut bench = Bench::started(MODERN | MERGE);
        bench.backend.arrive(packet(1, 3000));
        bench.driver.give(0, 0, &[writable(DATA, 1000)]);
        bench.driver.offer(1, 0, &[readable(DATA + 0x8000, 32)]);
        let device = bench.device();
        bench.driver.migrate_damaged(device, &damages);
        bench.link.set(true);
        bench.driver.start(MODERN);
        bench.transmit(&packet(7, 20));
    }
}
