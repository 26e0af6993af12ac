//! What the block device does, with every way in which a driver may ask for it. What is written is put back.

use super::block::{
    Disk, FLUSH, FLUSH_REQUEST, GET_ID, IN, IO_ERROR, OK, OUT, REQUESTS, SECTOR, UNSUPPORTED,
};
use super::queue::{NEXT, Part, Queue, get, put};
use super::transport::{
    EVENT_IDX, INDIRECT_DESC, INTERRUPT_ACK, INTERRUPT_STATUS, QUEUE_NOTIFY, QUEUE_NUM_MAX,
    QUEUE_PFN, VERSION_1,
};
use crate::kernel::external::Listener;
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::time;

tests! { TESTS:
    "block-capacity" => capacity,
    "block-queues" => queues,
    "block-read-and-write" => read_and_write,
    "block-without-version-1" => without_version_1,
    "block-written-lengths" => written_lengths,
    "block-flush" => flush,
    "block-identity" => identity,
    "block-unknown-request" => unknown_request,
    "block-beyond-the-end" => beyond_end,
    "block-several-requests" => several,
    "block-ring-wraps" => wraps,
    "block-interrupt" => interrupt,
    "block-interrupt-acknowledged-late" => acknowledged_late,
    "block-indirect-descriptors" => indirect,
    "block-event-index" => event_index,
    "block-event-index-of-the-device" => available_event,
    "block-reset-lets-go" => reset_lets_go,
    "block-legacy-page-number-resets" => page_number_resets,
    "block-notified-of-no-queue" => notified_of_no_queue,
    "block-survives-a-looped-chain" => looped_chain,
    "block-survives-a-chain-of-nowhere" => chain_of_nowhere,
}

/// What a modern driver takes without asking for more.
const PLAIN: u64 = VERSION_1;

/// A sector's content that depends on a number.
fn pattern(number: u8) -> [u8; SECTOR] {
    core::array::from_fn(|index| (index as u8).wrapping_mul(7) ^ number)
}

/// The size is the same by any width, and the disk of the tests has room for them.
fn capacity(machine: &Machine) -> Outcome {
    let (slot, _) = Disk::find(machine)?;
    let sectors = Disk::sectors(slot);
    let bytes: [u8; 8] = core::array::from_fn(|offset| slot.config8(offset));
    check_eq!(u64::from_le_bytes(bytes), sectors, "the capacity by bytes");
    check!(
        sectors >= 16,
        "the disk has {sectors} sectors; give one of at least 16"
    );
    Ok(())
}

fn queues(machine: &Machine) -> Outcome {
    let (slot, _) = Disk::find(machine)?;
    slot.select_queue(0);
    check!(slot.read(QUEUE_NUM_MAX) != 0, "there is no queue 0");
    slot.select_queue(64);
    check_eq!(slot.read(QUEUE_NUM_MAX), 0, "the size of queue 64");
    slot.select_queue(0);
    Ok(())
}

fn write_and_read(disk: &mut Disk) -> Outcome {
    let last = Disk::sectors(disk.slot) - 1;
    for sector in [0, 1, last] {
        let before = disk.read(sector)?;
        for number in 0..2 {
            disk.write(sector, &pattern(number))?;
            check!(
                disk.read(sector)? == pattern(number),
                "sector {sector} does not hold what was written"
            );
        }
        disk.write(sector, &before)?;
        check!(
            disk.read(sector)? == before,
            "sector {sector} does not hold what was written"
        );
    }
    Ok(())
}

fn read_and_write(machine: &Machine) -> Outcome {
    write_and_read(&mut Disk::open(machine, PLAIN)?)
}

/// There are drivers that never write the upper word of features (xv6).
fn without_version_1(machine: &Machine) -> Outcome {
    write_and_read(&mut Disk::open(machine, 0)?)
}

/// The used length covers what the device has written: data and status of a read, the status of a write.
fn written_lengths(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    let read = disk.request(IN, 0, SECTOR as u32)?;
    check_eq!(
        read.written,
        SECTOR as u32 + 1,
        "the bytes written by a read"
    );
    let write = disk.request(OUT, 0, SECTOR as u32)?;
    check_eq!(write.written, 1, "the bytes written by a write");
    Ok(())
}

fn flush(machine: &Machine) -> Outcome {
    let (slot, _) = Disk::find(machine)?;
    if slot.features() & FLUSH == 0 {
        skip!("the disk has no flush");
    }
    let mut disk = Disk::open(machine, PLAIN | FLUSH)?;
    check_eq!(
        disk.request(FLUSH_REQUEST, 0, 0)?.status,
        OK,
        "the status of a flush"
    );
    Ok(())
}

/// 20 bytes, padded with zeros.
fn identity(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    put(Disk::data(0), &[0xa5; 32]);
    let done = disk.request(GET_ID, 0, 20)?;
    check_eq!(done.status, OK, "the status");
    let text: [u8; 32] = get(Disk::data(0));
    check!(
        text[20..].iter().all(|byte| *byte == 0xa5),
        "more than 20 bytes are written"
    );
    let length = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(20)
        .min(20);
    check!(
        text[..length]
            .iter()
            .all(|byte| (0x20..0x7f).contains(byte)),
        "the identity is {:x?}",
        &text[..20]
    );
    Ok(())
}

fn unknown_request(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    for kind in [98, 0x7ffe] {
        let status = disk.request(kind, 0, SECTOR as u32)?.status;
        check_eq!(status, UNSUPPORTED, "the status of request {kind:#x}");
    }
    Ok(())
}

fn beyond_end(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    let sectors = Disk::sectors(disk.slot);
    for (sector, length) in [
        (sectors, SECTOR),
        (sectors - 1, 2 * SECTOR),
        (u64::MAX, SECTOR),
        (u64::MAX / 512, SECTOR),
    ] {
        for kind in [IN, OUT] {
            let status = disk.request(kind, sector, length as u32)?.status;
            check_eq!(
                status,
                IO_ERROR,
                "the status of request {kind} for sector {sector:#x}"
            );
        }
    }
    Ok(())
}

/// Requests that are made available together are all done, in whatever order.
fn several(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    for number in 0..REQUESTS {
        disk.offer(number, IN, number.into(), SECTOR as u32);
    }
    disk.slot.notify(0);
    let mut done = 0_u16;
    for _ in 0..REQUESTS {
        let (number, how) = disk.finish()?;
        check_eq!(how.status, OK, "the status of request {number}");
        check!(done & 1 << number == 0, "request {number} is done twice");
        done |= 1 << number;
    }
    check_eq!(done, (1 << REQUESTS) - 1, "the requests that are done");
    Ok(())
}

/// The rings begin again at their start.
fn wraps(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    for round in 0..40 {
        check_eq!(
            disk.request(IN, round % 8, SECTOR as u32)?.status,
            OK,
            "the status of a read"
        );
    }
    check_eq!(disk.queue.used_index(), 40, "the index of the used ring");
    Ok(())
}

/// A used buffer is an interrupt, and bit 0 of InterruptStatus until it is acknowledged.
fn interrupt(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    let listener = Listener::new(machine, disk.device);
    let slot = disk.slot;
    for _ in 0..3 {
        check_eq!(slot.read(INTERRUPT_STATUS), 0, "InterruptStatus before");
        disk.offer(0, IN, 0, SECTOR as u32);
        listener.expect(|| slot.notify(0))?;
        check_eq!(slot.read(INTERRUPT_STATUS) & 1, 1, "InterruptStatus");
        check_eq!(disk.finish()?.1.status, OK, "the status of a read");
        slot.write(INTERRUPT_ACK, 1);
        check_eq!(
            slot.read(INTERRUPT_STATUS),
            0,
            "InterruptStatus after it was acknowledged"
        );
        listener.complete();
        check!(!listener.comes(), "it comes again");
    }
    Ok(())
}

/// A driver that acknowledges after it has looked at the ring misses nothing: what is used after that interrupts again.
fn acknowledged_late(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    let listener = Listener::new(machine, disk.device);
    let slot = disk.slot;
    disk.offer(0, IN, 0, SECTOR as u32);
    listener.expect(|| slot.notify(0))?;
    disk.finish()?;
    // Another one before the first is acknowledged.
    disk.offer(0, IN, 0, SECTOR as u32);
    slot.notify(0);
    disk.finish()?;
    check!(
        time::wait_for(|| slot.read(INTERRUPT_STATUS) & 1 != 0),
        "InterruptStatus is 0"
    );
    slot.write(INTERRUPT_ACK, 1);
    listener.complete();
    listener.drain();
    disk.offer(0, IN, 0, SECTOR as u32);
    listener.expect(|| slot.notify(0))?;
    disk.finish()?;
    slot.write(INTERRUPT_ACK, 1);
    listener.complete();
    Ok(())
}

fn indirect(machine: &Machine) -> Outcome {
    let (slot, _) = Disk::find(machine)?;
    if slot.features() & INDIRECT_DESC == 0 {
        skip!("the disk has no indirect descriptors");
    }
    let mut disk = Disk::open(machine, PLAIN | INDIRECT_DESC)?;
    let expected = disk.read(1)?;
    put(Disk::data(2), &[0x5a; SECTOR]);
    disk.offer_indirect(2, IN, 1, SECTOR as u32);
    disk.slot.notify(0);
    let (number, done) = disk.finish()?;
    check_eq!(number, 2, "the request that is done");
    check_eq!(done.status, OK, "the status");
    check!(
        get::<SECTOR>(Disk::data(2)) == expected,
        "the sector is another one by an indirect descriptor"
    );
    Ok(())
}

fn with_event_index(machine: &Machine) -> Outcome<Disk> {
    let (slot, _) = Disk::find(machine)?;
    if slot.features() & EVENT_IDX == 0 {
        skip!("the disk has no event index");
    }
    Disk::open(machine, PLAIN | EVENT_IDX)
}

/// The device interrupts when it has used the buffer that used_event names, and not before.
fn event_index(machine: &Machine) -> Outcome {
    let mut disk = with_event_index(machine)?;
    let listener = Listener::new(machine, disk.device);
    let slot = disk.slot;
    // The first one: a device has nothing yet to tell an event by, and may interrupt in any case.
    disk.offer(0, IN, 0, SECTOR as u32);
    listener.expect(|| slot.notify(0))?;
    disk.finish()?;
    slot.write(INTERRUPT_ACK, 1);
    listener.complete();
    for _ in 0..2 {
        let next = disk.queue.used_index();
        disk.queue.set_used_event(next.wrapping_add(2));
        for _ in 0..2 {
            disk.offer(0, IN, 0, SECTOR as u32);
            slot.notify(0);
            disk.finish()?;
        }
        check!(
            !listener.comes(),
            "there is an interrupt of a buffer before used_event"
        );
        disk.offer(0, IN, 0, SECTOR as u32);
        listener.expect(|| slot.notify(0))?;
        disk.finish()?;
        slot.write(INTERRUPT_ACK, 1);
        listener.complete();
    }
    Ok(())
}

/// The device says which buffer it wants to be told of: it does not ask for one that is long past while it waits.
fn available_event(machine: &Machine) -> Outcome {
    let mut disk = with_event_index(machine)?;
    for _ in 0..5 {
        disk.request(IN, 0, SECTOR as u32)?;
        let offered = disk.queue.offered();
        check!(
            time::wait_for(|| disk.queue.available_event() == offered),
            "avail_event is {}, with {offered} buffers used",
            disk.queue.available_event()
        );
    }
    Ok(())
}

/// The device answers a request.
fn works(disk: &mut Disk) -> Outcome {
    disk.read(0)?;
    Ok(())
}

/// After a reset the device uses no more buffers, and can be set up anew.
fn reset_lets_go(machine: &Machine) -> Outcome {
    for _ in 0..3 {
        let mut disk = Disk::open(machine, PLAIN)?;
        for number in 0..REQUESTS {
            disk.offer(number, IN, 0, SECTOR as u32);
        }
        disk.slot.notify(0);
        disk.slot.reset()?;
        let used = disk.queue.used_index();
        check!(
            !time::comes(|| disk.queue.used_index() != used),
            "a buffer is used after a reset"
        );
        check_eq!(
            disk.slot.read(INTERRUPT_STATUS),
            0,
            "InterruptStatus after a reset"
        );
        disk.slot.select_queue(0);
        check!(!disk.slot.queue_in_use(), "queue 0 is in use after a reset");
    }
    works(&mut Disk::open(machine, PLAIN)?)
}

/// "When the driver stops using the queue it writes zero" to QueuePFN: the only reset that some legacy drivers know.
fn page_number_resets(machine: &Machine) -> Outcome {
    let disk = Disk::open(machine, PLAIN)?;
    if !disk.slot.is_legacy() {
        skip!("the disk is not a legacy one");
    }
    disk.slot.write(QUEUE_PFN, 0);
    check_eq!(disk.slot.read(QUEUE_PFN), 0, "QueuePFN");
    drop(disk);
    works(&mut Disk::open(machine, PLAIN)?)
}

fn notified_of_no_queue(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    for queue in [1, 7, 0xffff, u32::MAX] {
        disk.slot.write(QUEUE_NOTIFY, queue);
    }
    works(&mut disk)
}

/// What a driver must not do breaks this one device at most, until it is reset.
fn survives(machine: &Machine, spoil: impl FnOnce(&mut Disk)) -> Outcome {
    let mut disk = Disk::open(machine, PLAIN)?;
    spoil(&mut disk);
    disk.slot.notify(0);
    // Time to stumble.
    let _ = time::comes(|| false);
    drop(disk);
    works(&mut Disk::open(machine, PLAIN)?)
}

fn looped_chain(machine: &Machine) -> Outcome {
    survives(machine, |disk| {
        let part = Part {
            address: Disk::data(0),
            length: 16,
            writable: false,
        };
        let table = disk.queue.descriptors();
        Queue::describe(table, 0, part, NEXT, 1);
        Queue::describe(table, 1, part, NEXT, 0);
        disk.queue.offer(0);
    })
}

/// Descriptors and addresses that are not there.
fn chain_of_nowhere(machine: &Machine) -> Outcome {
    let nowhere = Part {
        address: machine.ram_end,
        length: 16,
        writable: false,
    };
    survives(machine, |disk| {
        Queue::describe(disk.queue.descriptors(), 0, nowhere, NEXT, 0xffff);
        disk.queue.offer(0);
    })?;
    survives(machine, |disk| disk.queue.offer(0x7fff))
}
