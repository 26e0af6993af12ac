//! Virtio devices: negotiations in every order, queues anywhere, requests that are nearly right, and rings that change while they
//! are served (VIRTIO 1.2; what "the driver MUST NOT", this one does).

use super::Adversary;
use super::chance::PAGE_SIZES;
use super::registers::{load, pause, store};
use crate::kernel::mmio;
use crate::kernel::virtio::queue::{INDIRECT, NEXT, WRITE};
use crate::kernel::virtio::transport::{
    ACKNOWLEDGE, DEVICE_ID, DRIVER, DRIVER_OK, FEATURES_OK, INTERRUPT_ACK, QUEUE_NOTIFY,
    QUEUE_NUM_MAX, QUEUE_PFN, QUEUE_READY, STATUS, VERSION,
};

const DEVICE_FEATURES: usize = 0x010;
const DEVICE_FEATURES_SEL: usize = 0x014;
const DRIVER_FEATURES: usize = 0x020;
const DRIVER_FEATURES_SEL: usize = 0x024;
const GUEST_PAGE_SIZE: usize = 0x028;
const QUEUE_SEL: usize = 0x030;
const QUEUE_NUM: usize = 0x038;
const QUEUE_ALIGN: usize = 0x03c;
const QUEUE_DESC_LOW: usize = 0x080;
const QUEUE_DRIVER_LOW: usize = 0x090;
const QUEUE_DEVICE_LOW: usize = 0x0a0;

/// All registers that are written.
const REGISTERS: [usize; 19] = [
    DEVICE_FEATURES_SEL,
    DRIVER_FEATURES,
    DRIVER_FEATURES_SEL,
    GUEST_PAGE_SIZE,
    QUEUE_SEL,
    QUEUE_NUM,
    QUEUE_ALIGN,
    QUEUE_PFN,
    QUEUE_READY,
    QUEUE_NOTIFY,
    INTERRUPT_ACK,
    STATUS,
    QUEUE_DESC_LOW,
    QUEUE_DESC_LOW + 4,
    QUEUE_DRIVER_LOW,
    QUEUE_DRIVER_LOW + 4,
    QUEUE_DEVICE_LOW,
    QUEUE_DEVICE_LOW + 4,
    0x100,
];

// Device ids (VIRTIO 1.2, section 5).
const NET: u32 = 1;
const BLOCK: u32 = 2;
const CONSOLE: u32 = 3;

/// The most queues that are set up of a device.
const QUEUES: usize = 6;

/// The most descriptors of a chain.
const PARTS: usize = 6;

/// Bytes of the largest ring of this driver, with its end.
const RING: usize = 0x2000;

/// A queue as this hart has set it up. Others may have changed it since.
#[derive(Clone, Copy, Default)]
pub struct Ring {
    descriptors: usize,
    available: usize,
    size: u16,
}

/// A device, as this hart has set it up.
#[derive(Clone, Copy, Default)]
pub struct Driver {
    base: usize,
    id: u32,
    rings: [Ring; QUEUES],
}

impl Driver {
    fn write(&self, register: usize, value: u32) {
        store(self.base + register, 4, value.into());
    }

    fn read(&self, register: usize) -> u32 {
        load(self.base + register, 4) as u32
    }
}

fn random_slot(me: &mut Adversary) -> usize {
    let slots = &me.machine.virtio;
    slots[me.chance.below(slots.len())].base
}

/// Any register of a slot, by any width.
pub fn transport(me: &mut Adversary) {
    let base = match me.driver.base {
        // That of an empty slot as well, sometimes.
        0 => random_slot(me),
        _ if me.chance.one_in(8) => random_slot(me),
        base => base,
    };
    let (register, width) = match me.chance.one_in(4) {
        true => {
            let width = me.chance.width();
            (me.chance.below(0x1000 / width) * width, width)
        }
        false => (me.chance.of(&REGISTERS), 4),
    };
    if me.chance.one_in(4) {
        load(base + register, width);
        return;
    }
    let covered = register..register + width;
    let value = if covered.contains(&GUEST_PAGE_SIZE) {
        u64::from(me.chance.of(&PAGE_SIZES))
    } else {
        let ([low, high], page) = (
            [me.chance.word(), me.chance.word()],
            me.places.any(&mut me.chance),
        );
        let low = match me.chance.below(4) {
            0 => page as u32,
            1 => (page >> 12) as u32,
            _ => low,
        };
        if !me.places.is_harmless_word(low) || !me.places.is_harmless_word(high) {
            return;
        }
        u64::from(low) | u64::from(high) << 32
    };
    store(base + register, width, value);
}

/// Takes a slot with a device: mostly as the specification has it.
pub fn set_up(me: &mut Adversary) {
    for _ in 0..8 {
        me.driver.base = random_slot(me);
        me.driver.id = me.driver.read(DEVICE_ID);
        if me.driver.id != 0 {
            break;
        }
    }
    if !me.chance.one_in(8) {
        me.driver.write(STATUS, 0);
    }
    let mut status = ACKNOWLEDGE | DRIVER;
    me.driver.write(STATUS, ACKNOWLEDGE);
    me.driver.write(STATUS, status);
    negotiate(me);
    if !me.chance.one_in(16) {
        status |= FEATURES_OK;
        me.driver.write(STATUS, status);
    }
    if me.chance.one_in(8) {
        // Not after FEATURES_OK.
        negotiate(me);
    }
    let legacy = me.driver.read(VERSION) == 1;
    for index in 0..QUEUES {
        let ring = match legacy {
            true => set_up_legacy_queue(me, index),
            false => set_up_queue(me, index),
        };
        me.driver.rings[index] = ring;
        if me.chance.one_in(16) {
            // Not before DRIVER_OK.
            me.driver.write(QUEUE_NOTIFY, index as u32);
        }
    }
    me.driver.write(STATUS, status | DRIVER_OK);
    if me.chance.one_in(8) {
        let more = me.chance.of(&[DRIVER_OK, 0x40, 0x80, u32::MAX, 0x10]);
        me.driver.write(STATUS, status | more);
    }
}

fn negotiate(me: &mut Adversary) {
    let random = me.chance.one_in(16);
    let fewer = me.chance.one_in(2);
    for word in [0, 1] {
        me.driver.write(DEVICE_FEATURES_SEL, word);
        let mut features = me.driver.read(DEVICE_FEATURES);
        if fewer && word == 0 {
            features &= me.chance.any() as u32;
        }
        if random {
            features = me.chance.any() as u32;
        }
        me.driver.write(DRIVER_FEATURES_SEL, word);
        me.driver.write(DRIVER_FEATURES, features);
    }
}

/// The size of a queue: one that there is, mostly.
fn size(me: &mut Adversary) -> u32 {
    let max = me.driver.read(QUEUE_NUM_MAX);
    match me.chance.below(16) {
        0 => me
            .chance
            .of(&[0, 3, max + 1, 2 * max, 0x8000, 0xffff, u32::MAX]),
        _ if max == 0 => 0,
        _ => 1 << me.chance.below(1 + max.min(256).ilog2() as usize),
    }
}

/// Where a ring is: a place of its own, that of another ring, or anywhere.
fn place(me: &mut Adversary) -> usize {
    match me.chance.below(24) {
        0 => me.places.any(&mut me.chance),
        1 => {
            let index = me.chance.below(QUEUES);
            let Ring { available, .. } = me.driver.rings[index];
            available
        }
        _ => me.places.ring(&mut me.chance),
    }
}

fn set_up_queue(me: &mut Adversary, index: usize) -> Ring {
    me.driver.write(QUEUE_SEL, index as u32);
    let size = size(me);
    me.driver.write(QUEUE_NUM, size);
    let descriptors = place(me);
    let together = me.chance.one_in(16);
    let (available, used) = match together {
        true => (descriptors, descriptors),
        false => (place(me), place(me)),
    };
    for (register, address) in [
        (QUEUE_DESC_LOW, descriptors),
        (QUEUE_DRIVER_LOW, available),
        (QUEUE_DEVICE_LOW, used),
    ] {
        me.driver.write(register, address as u32);
        me.driver.write(register + 4, (address >> 32) as u32);
    }
    clear(me, used);
    clear(me, available);
    let ready = match me.chance.one_in(16) {
        true => me.chance.word(),
        false => 1,
    };
    me.driver.write(QUEUE_READY, ready);
    if me.chance.one_in(16) {
        // Not while it is live.
        me.driver.write(QUEUE_NUM, ready);
    }
    Ring {
        descriptors,
        available,
        size: size as u16,
    }
}

/// A fresh ring begins at 0, or else the device finds what others have left.
fn clear(me: &mut Adversary, ring: usize) {
    if me.places.is_playground(ring, RING) && !me.chance.one_in(8) {
        mmio::write32(ring & !3, 0);
    }
}

fn set_up_legacy_queue(me: &mut Adversary, index: usize) -> Ring {
    const PAGE: usize = 4096;
    me.driver.write(QUEUE_SEL, index as u32);
    if index == 0 || me.chance.one_in(8) {
        let page = match me.chance.one_in(16) {
            true => me.chance.of(&PAGE_SIZES),
            false => PAGE as u32,
        };
        me.driver.write(GUEST_PAGE_SIZE, page);
    }
    let size = size(me);
    me.driver.write(QUEUE_NUM, size);
    let align = match me.chance.one_in(16) {
        true => me.chance.of(&[0, 1, 3, 8, 1 << 20, 1 << 31, u32::MAX]),
        false => PAGE as u32,
    };
    me.driver.write(QUEUE_ALIGN, align);
    let descriptors = place(me) & !(PAGE - 1);
    let number = (descriptors / PAGE) as u32;
    if !me.places.is_harmless_word(number) {
        return Ring::default();
    }
    let available = descriptors.wrapping_add(16 * size as usize);
    let used = available.wrapping_add(2 * size as usize + 6 + PAGE - 1) & !(PAGE - 1);
    clear(me, used);
    clear(me, available);
    me.driver.write(QUEUE_PFN, number);
    Ring {
        descriptors,
        available,
        size: size as u16,
    }
}

/// A part of a chain before it is a descriptor.
#[derive(Clone, Copy, Default)]
struct Part {
    address: usize,
    length: u32,
    flags: u16,
}

/// A request of the kind that the device serves, in up to so many parts.
fn request(me: &mut Adversary, queue: usize) -> ([Part; PARTS], usize) {
    let mut parts = [Part::default(); PARTS];
    let data = 1 + me.chance.below(PARTS - 2);
    for part in &mut parts {
        part.address = me.places.buffer(&mut me.chance);
        part.length = 512 * (1 + me.chance.below(8) as u32);
    }
    let [header, last] = [0, 1 + data];
    match me.driver.id {
        BLOCK => {
            // In, out, flush, identity, discard, write zeroes, secure erase; and others.
            let kind = match me.chance.one_in(16) {
                true => me.chance.word(),
                false => me.chance.of(&[0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 14]),
            };
            let sector = match me.chance.one_in(16) {
                true => me.chance.any(),
                false => me.chance.below(4096) as u64,
            };
            let Part { address, .. } = parts[header];
            put(me, address, u64::from(kind));
            put(me, address + 8, sector);
            parts[header].length = 16;
            parts[last].length = 1;
            parts[last].flags = WRITE;
            if matches!(kind, 11 | 13 | 14) {
                // Segments: sector, number, flags.
                for segment in 0..4 {
                    let at = parts[1].address + 16 * segment;
                    let (sector, number) = (me.chance.below(4096), me.chance.below(4096));
                    put(me, at, sector as u64);
                    let flags = u64::from(me.chance.one_in(4)) << 32;
                    put(me, at + 8, number as u64 | flags);
                }
                parts[1].length = 16 * (1 + me.chance.below(5) as u32);
            } else if kind != 1 {
                for part in &mut parts[1..last] {
                    part.flags = WRITE;
                }
            }
            (parts, 2 + data)
        }
        NET if queue == 1 => {
            // Flags, segmentation, lengths and offsets of the header; the frame behind it.
            let Part { address, .. } = parts[header];
            let word = match me.chance.one_in(2) {
                true => me.chance.any(),
                false => 0,
            };
            let offsets = me.chance.any();
            put(me, address, word);
            put(me, address + 8, offsets);
            parts[header].length = me.chance.of(&[12, 10, 12, 12, 11, 1514, 64]);
            (parts, 1 + me.chance.below(3))
        }
        CONSOLE if queue == 3 => {
            // A message to the device: port, event, value.
            let Part { address, .. } = parts[header];
            let event = me.chance.below(9) as u64;
            let port = me.chance.below(4) as u64;
            put(me, address, port | event << 32 | 1 << 48);
            parts[header].length = me.chance.of(&[8, 8, 8, 7, 0, 100]);
            (parts, 1)
        }
        CONSOLE if queue % 2 == 1 => {
            for part in &mut parts {
                part.length = me.chance.below(64) as u32;
            }
            (parts, data)
        }
        _ => {
            for part in &mut parts {
                part.flags = WRITE;
            }
            (parts, data)
        }
    }
}

fn put(me: &Adversary, address: usize, value: u64) {
    if me.places.is_playground(address, 8) {
        mmio::write64(address & !7, value);
    }
}

/// Something else in a part, sometimes.
fn spoil(me: &mut Adversary, part: &mut Part) {
    match me.chance.below(96) {
        0 => part.address = me.places.any(&mut me.chance),
        1 => part.length = me.chance.length(),
        2 => part.flags ^= WRITE,
        3 => part.flags = me.chance.any() as u16,
        4 => {
            part.address = me.places.any(&mut me.chance);
            part.length = me.chance.length();
        }
        _ => {}
    }
}

/// Writes a chain into a table of so many descriptors from `first` on.
fn describe(me: &mut Adversary, table: usize, size: usize, first: usize, parts: &[Part]) {
    for (number, part) in parts.iter().enumerate() {
        let mut part = *part;
        let mut index = first + number;
        let mut next = index + 1;
        if number + 1 < parts.len() {
            part.flags |= NEXT;
        }
        spoil(me, &mut part);
        match me.chance.below(96) {
            // A loop, or beyond the table.
            0 => next = first,
            1 => next = me.chance.below(0x1_0000),
            2 => {
                part.flags |= NEXT;
                next = index;
            }
            _ => {}
        }
        index %= size.max(1);
        if next < 0x1000 {
            next %= size.max(1);
        }
        let address = table + 16 * index;
        if !me.places.is_playground(address, 16) {
            return;
        }
        mmio::write64(address & !7, part.address as u64);
        let rest = u64::from(part.length) | u64::from(part.flags) << 32 | (next as u64) << 48;
        mmio::write64((address + 8) & !7, rest);
    }
}

/// Requests to the device that this hart has set up, a few at a time.
pub fn requests(me: &mut Adversary) {
    let index = match me.driver.id {
        NET | CONSOLE => me.chance.below(QUEUES),
        _ => me.chance.below(16) / 15,
    };
    let ring = me.driver.rings[index];
    let size = usize::from(ring.size);
    if !me.places.is_playground(ring.available, RING) || size == 0 {
        return;
    }
    for _ in 0..1 + me.chance.below(12) {
        let (parts, count) = request(me, index);
        let parts = &parts[..count.min(PARTS)];
        let first = me.chance.below(size);
        if me.chance.one_in(4) {
            let table = me.places.buffer(&mut me.chance) & !0xf;
            describe(me, table, PARTS, 0, parts);
            let mut length = 16 * parts.len() as u32;
            if me.chance.one_in(16) {
                length = me
                    .chance
                    .of(&[0, 8, 15, 24, 0xffff_fff0, u32::MAX, 0x10_0000]);
            }
            let mut flags = INDIRECT;
            if me.chance.one_in(16) {
                // Neither together with NEXT, nor within another.
                flags |= me.chance.of(&[NEXT, WRITE, NEXT | WRITE]);
                let mut inner = parts[0];
                inner.flags = INDIRECT;
                describe(me, table, PARTS, 0, &[inner]);
            }
            let indirect = Part {
                address: table,
                length,
                flags,
            };
            describe(me, ring.descriptors, size, first, &[indirect]);
        } else {
            describe(me, ring.descriptors, size, first, parts);
        }
        offer(me, ring, first);
    }
    mmio::fence();
    let number = match me.chance.one_in(32) {
        true => me.chance.word(),
        false => index as u32,
    };
    me.driver.write(QUEUE_NOTIFY, number);
    match me.chance.below(64) {
        0 => me.driver.write(STATUS, 0),
        1..8 => disturb(me),
        8..24 => pause(me),
        24..40 => {
            let status = me.driver.read(0x60);
            me.driver.write(INTERRUPT_ACK, status);
        }
        _ => {}
    }
}

/// Makes a chain available, or more than there are.
fn offer(me: &mut Adversary, ring: Ring, head: usize) {
    let index = mmio::read16((ring.available + 2) & !1);
    let slot = usize::from(index) % usize::from(ring.size);
    let head = match me.chance.one_in(64) {
        true => me.chance.any() as u16,
        false => head as u16,
    };
    mmio::write16((ring.available + 4 + 2 * slot) & !1, head);
    mmio::fence();
    let jump = match me.chance.below(128) {
        0 => me.chance.any() as u16,
        1 => 0,
        _ => 1,
    };
    mmio::write16((ring.available + 2) & !1, index.wrapping_add(jump));
    if me.chance.one_in(16) {
        // Flags, and what event index asks for.
        mmio::write16(ring.available & !1, me.chance.below(4) as u16);
        let event = ring.available + 4 + 2 * usize::from(ring.size);
        mmio::write16(event & !1, me.chance.any() as u16);
    }
}

/// Changes what a device may be reading: rings, tables and buffers, whoever's.
pub fn disturb(me: &mut Adversary) {
    for _ in 0..1 + me.chance.below(16) {
        let start = match me.chance.one_in(4) {
            true => me.places.buffer(&mut me.chance),
            false => me.places.ring(&mut me.chance),
        };
        let address = (start + me.chance.below(0x400)) & !7;
        match me.chance.below(4) {
            // An address that keeps away from the kernel, which a descriptor begins with.
            0 => mmio::write64(address & !0xf, me.places.any(&mut me.chance) as u64),
            1 => mmio::write32((address & !0xf) + 8, me.chance.length()),
            2 => mmio::write16((address & !0xf) + 12, me.chance.below(8) as u16),
            _ => mmio::write16(address & !0xf, me.chance.any() as u16),
        }
    }
}
