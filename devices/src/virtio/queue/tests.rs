//! Checked against VIRTIO 1.3, sections 2.7.5 to 2.7.10.

use super::*;
use crate::virtio::testing::{self, AVAILABLE, DATA, Ring, USED, chain, memory, readable};

const SIZE: u16 = 4;

fn queue(memory: &GuestMemoryMmap, event_idx: bool, next: u16) -> DeviceQueue<'_> {
    DeviceQueue::new(memory, testing::queue(SIZE, event_idx, next))
}

#[test]
fn chains_come_in_order() {
    let memory = memory();
    let mut ring = Ring::new(&memory, SIZE);
    let (mut queue, mut buffers) = (queue(&memory, false, 0), Chain::default());
    assert_eq!(queue.next(&mut buffers).unwrap(), None);
    ring.describe(1, &chain(1, &[readable(DATA, 5)]));
    ring.describe(3, &chain(3, &[readable(DATA, 7)]));
    ring.offer(3);
    ring.offer(1);
    assert_eq!(queue.next(&mut buffers).unwrap(), Some(3));
    assert_eq!(buffers.readable.length(), 7);
    assert_eq!(queue.next(&mut buffers).unwrap(), Some(1));
    assert_eq!(buffers.readable.length(), 5);
    assert_eq!(queue.next(&mut buffers).unwrap(), None);
}

#[test]
fn a_head_outside_of_the_table_breaks_the_queue() {
    let memory = memory();
    Ring::new(&memory, SIZE).offer(SIZE);
    let mut queue = queue(&memory, false, 0);
    assert!(matches!(
        queue.next(&mut Chain::default()),
        Err(Broken::Head(SIZE))
    ));
}

#[test]
fn an_index_beyond_the_ring_breaks_the_queue() {
    let memory = memory();
    memory
        .write_obj(SIZE + 1, GuestAddress(AVAILABLE + 2))
        .unwrap();
    let mut queue = queue(&memory, false, 0);
    assert!(matches!(
        queue.next(&mut Chain::default()),
        Err(Broken::Queue(_))
    ));
}

#[test]
fn used_chains_appear_together_and_wrap_around() {
    let memory = memory();
    let ring = Ring::new(&memory, SIZE);
    let mut queue = queue(&memory, false, u16::MAX - 1);
    queue.add_used(&[(2, 10), (0, 20), (3, 30)]).unwrap();
    assert_eq!(ring.used_index(), 1);
    assert_eq!(ring.used(u16::MAX - 1), (2, 10));
    assert_eq!(ring.used(u16::MAX), (0, 20));
    assert_eq!(ring.used(0), (3, 30));
    queue.add_used(&[]).unwrap();
    assert_eq!(ring.used_index(), 1);
}

#[test]
fn what_was_used_is_news_until_it_was_considered() {
    for event_idx in [false, true] {
        let memory = memory();
        let mut queue = queue(&memory, event_idx, u16::MAX);
        assert!(!queue.has_used());
        queue.add_used(&[]).unwrap();
        assert!(!queue.has_used());
        queue.add_used(&[(0, 0)]).unwrap();
        assert!(queue.has_used());
        queue.wants_interrupt().unwrap();
        assert!(!queue.has_used());
    }
}

#[test]
fn the_flag_decides_without_event_indexes() {
    let memory = memory();
    let mut queue = queue(&memory, false, 0);
    assert!(queue.wants_interrupt().unwrap());
    memory.write_obj(1_u16, GuestAddress(AVAILABLE)).unwrap();
    assert!(!queue.wants_interrupt().unwrap());
    memory
        .write_obj(0xfffe_u16, GuestAddress(AVAILABLE))
        .unwrap();
    assert!(queue.wants_interrupt().unwrap(), "other bits are reserved");
}

#[test]
fn the_entry_waited_for_decides_with_event_indexes() {
    let memory = memory();
    let used_event = GuestAddress(AVAILABLE + 4 + 2 * u64::from(SIZE));
    // From where the used ring is, after how many entries, waiting for which.
    for (before, count, event, wanted) in [
        (0_u16, 1, 0_u16, true),
        (0, 1, 1, false),
        (0, 3, 2, true),
        (0, 3, 0, true),
        (0, 3, 3, false),
        (0, 3, u16::MAX, false),
        (5, 2, 4, false),
        (u16::MAX, 2, 0, true),
        (u16::MAX, 2, u16::MAX, true),
        (u16::MAX, 2, 1, false),
        (7, 0, 7, false),
    ] {
        let mut queue = queue(&memory, true, before);
        memory.write_obj(event, used_event).unwrap();
        queue.add_used(&vec![(0, 0); count]).unwrap();
        assert_eq!(
            queue.wants_interrupt().unwrap(),
            wanted,
            "{before} {count} {event}"
        );
        assert!(!queue.wants_interrupt().unwrap(), "nothing new");
    }
}

#[test]
fn enabling_notifications_tells_of_what_is_there() {
    let memory = memory();
    let mut ring = Ring::new(&memory, SIZE);
    let flags = || memory.read_obj::<u16>(GuestAddress(USED)).unwrap();
    let mut queue = queue(&memory, false, 0);
    queue.disable_notification().unwrap();
    assert_eq!(flags(), 1);
    assert!(!queue.enable_notification().unwrap());
    assert_eq!(flags(), 0);
    ring.describe(0, &chain(0, &[readable(DATA, 1)]));
    ring.offer(0);
    assert!(queue.enable_notification().unwrap());
}

#[test]
fn a_ring_that_takes_back_what_it_offered_is_broken() {
    let memory = memory();
    let mut ring = Ring::new(&memory, SIZE);
    let mut queue = queue(&memory, true, 0);
    ring.describe(0, &chain(0, &[readable(DATA, 1)]));
    ring.offer(0);
    assert!(queue.enable_notification().unwrap());
    memory
        .write_obj(0_u16, GuestAddress(AVAILABLE + 2))
        .unwrap();
    assert!(matches!(
        queue.next(&mut Chain::default()),
        Err(Broken::Unreadable)
    ));
}

/// The specification's function, and what it means: the entries from `before` on, one after the other.
#[test]
fn each_event_index_is_passed_once_wherever_the_indexes_wrap_around() {
    let specified = |event: u16, before: u16, now: u16| {
        now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
    };
    let windows = (0..=20).chain([255, 256, 257, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff]);
    for window in windows {
        for before in [0, 1, 0x7fff, 0x8000, 0xfff0, 0xfffe, 0xffff_u16] {
            let now = before.wrapping_add(window);
            let mut passed = vec![false; 1 << 16];
            for entry in 0..window {
                passed[usize::from(before.wrapping_add(entry))] = true;
            }
            for (event, passed) in (0..=u16::MAX).zip(passed) {
                assert_eq!(has_passed(event, before, now), passed);
                assert_eq!(specified(event, before, now), passed);
            }
        }
    }
}

/// From every index that there is, with every number of chains up to a whole ring, and one more.
#[test]
fn chains_are_counted_and_used_wherever_the_indexes_wrap_around() {
    let memory = memory();
    let ring = Ring::new(&memory, SIZE);
    ring.describe(1, &chain(1, &[readable(DATA, 1)]));
    for slot in 0..u64::from(SIZE) {
        let address = GuestAddress(AVAILABLE + 4 + 2 * slot);
        memory.write_obj(1_u16, address).unwrap();
    }
    let mut buffers = Chain::default();
    for start in 0..=u16::MAX {
        for count in 0..=SIZE {
            let end = start.wrapping_add(count);
            memory.write_obj(end, GuestAddress(AVAILABLE + 2)).unwrap();
            let mut queue = queue(&memory, true, start);
            assert_eq!(queue.waiting().unwrap(), count);
            if count == 0 {
                assert!(!queue.enable_notification().unwrap());
            }
            for taken in 0..count {
                assert_eq!(queue.next(&mut buffers).unwrap(), Some(1));
                assert_eq!(queue.waiting().unwrap(), count - taken - 1);
                queue.put_back();
                assert_eq!(queue.waiting().unwrap(), count - taken);
                assert_eq!(queue.next(&mut buffers).unwrap(), Some(1));
                queue.add_used(&[(1, 0)]).unwrap();
            }
            assert_eq!(queue.next(&mut buffers).unwrap(), None);
            assert_eq!(queue.position(), end);
            if count > 0 {
                assert_eq!(ring.used_index(), end);
            }
        }
        let beyond = start.wrapping_add(SIZE + 1);
        let address = GuestAddress(AVAILABLE + 2);
        memory.write_obj(beyond, address).unwrap();
        let mut queue = queue(&memory, true, start);
        assert!(matches!(queue.next(&mut buffers), Err(Broken::Queue(_))));
    }
}
