//! A guest that is to be killed: it writes records to the first disk for ever, one in each sector, and prints how far it has
//! come after each flush that the device has acknowledged. Whoever killed it looks for the records.

use super::machine::Machine;
use super::mmio;
use super::report::Outcome;
use super::virtio::block::{Disk, FLUSH, FLUSH_REQUEST, OK, OUT, REQUESTS, SECTOR};
use super::virtio::transport::VERSION_1;

/// The first word of a record.
const MAGIC: u64 = u64::from_le_bytes(*b"journal!");

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Writes records from this number on. Record `n` is in sector `n` modulo the disk's size.
pub fn run(machine: &Machine, first: u64) -> ! {
    let outcome = write(machine, first);
    panic!("the journal ends: {outcome:?}")
}

fn write(machine: &Machine, first: u64) -> Outcome {
    let mut disk = Disk::open(machine, VERSION_1 | FLUSH)?;
    let sectors = Disk::sectors(disk.slot).max(1);
    let mut next = first;
    loop {
        // From one request to as many as the queue takes, and a flush behind them.
        let count = 1 + (mix(next) % u64::from(REQUESTS)) as u16;
        for request in 0..count {
            let words = (0..SECTOR as u64 / 8).map(|word| match word {
                0 => MAGIC,
                1 => next,
                word => mix(next.wrapping_mul(64).wrapping_add(word)),
            });
            for (at, word) in (Disk::data(request)..).step_by(8).zip(words) {
                mmio::write64(at, word);
            }
            disk.offer(request, OUT, next % sectors, SECTOR as u32);
            next += 1;
        }
        disk.slot.notify(0);
        for _ in 0..count {
            let (_, done) = disk.finish()?;
            check_eq!(done.status, OK, "the status of a write");
        }
        let done = disk.request(FLUSH_REQUEST, 0, 0)?;
        check_eq!(done.status, OK, "the status of a flush");
        println!("flushed {}", next - 1);
    }
}
