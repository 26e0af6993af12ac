//! A driver of the block device (VIRTIO 1.3, section 5.2), as much as its tests need.

use super::queue::{INDIRECT, Part, Queue, SIZE, buffers, get, put};
use super::transport::{DEVICE_ID, Slot};
use crate::kernel::machine::{Device, Machine};
use crate::kernel::mmio;
use crate::kernel::report::Outcome;

const BLOCK_DEVICE: u32 = 2;

/// Feature bits.
pub const FLUSH: u64 = 1 << 9;

/// Request types.
pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH_REQUEST: u32 = 4;
pub const GET_ID: u32 = 8;

/// What the status byte says.
pub const OK: u8 = 0;
pub const IO_ERROR: u8 = 1;
pub const UNSUPPORTED: u8 = 2;
/// Nothing yet.
const NONE: u8 = 0xff;

pub const SECTOR: usize = 512;

/// Bytes of the shared memory for one request: header, status and a table of descriptors on half a page, data on the other.
const REQUEST: usize = 2048;
const STATUS: usize = 16;
const TABLE: usize = 64;
const DATA: usize = 1024;

/// Requests that may be in flight at the same time, of three descriptors each.
pub const REQUESTS: u16 = SIZE / 4;

/// A disk that is ready.
pub struct Disk {
    pub slot: Slot,
    pub device: Device,
    pub queue: Queue,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub status: u8,
    /// What the device says that it has written, bytes.
    pub written: u32,
}

impl Disk {
    /// The first disk, with none of its features agreed on.
    pub fn find(machine: &Machine) -> Outcome<(Slot, Device)> {
        for device in &machine.virtio {
            let slot = Slot::new(device.base)?;
            if slot.read(DEVICE_ID) == BLOCK_DEVICE {
                return Ok((slot, *device));
            }
        }
        skip!("there is no disk")
    }

    /// Gets the first disk ready, with those of `features` that it offers.
    pub fn open(machine: &Machine, features: u64) -> Outcome<Self> {
        let (slot, device) = Self::find(machine)?;
        slot.negotiate(slot.features() & features)?;
        let queue = Queue::new(0);
        slot.set_queue(0, &queue)?;
        slot.start()?;
        Ok(Self {
            slot,
            device,
            queue,
        })
    }

    /// Its size in sectors.
    pub fn sectors(slot: Slot) -> u64 {
        u64::from(slot.config32(0)) | u64::from(slot.config32(4)) << 32
    }

    fn memory(number: u16) -> usize {
        buffers() + usize::from(number) * REQUEST
    }

    /// Where the data of a request is.
    pub fn data(number: u16) -> usize {
        Self::memory(number) + DATA
    }

    /// Puts a request together. It has the descriptors from 4 times its number on.
    fn prepare(number: u16, kind: u32, sector: u64, length: u32) -> [Part; 3] {
        let memory = Self::memory(number);
        mmio::write32(memory, kind);
        mmio::write32(memory + 4, 0);
        mmio::write64(memory + 8, sector);
        mmio::write8(memory + STATUS, NONE);
        [
            Part {
                address: memory,
                length: 16,
                writable: false,
            },
            Part {
                address: memory + DATA,
                length,
                writable: kind != OUT,
            },
            Part {
                address: memory + STATUS,
                length: 1,
                writable: true,
            },
        ]
    }

    /// Makes a request available, without telling the device.
    pub fn offer(&mut self, number: u16, kind: u32, sector: u64, length: u32) {
        let [header, data, status] = Self::prepare(number, kind, sector, length);
        let (table, first) = (self.queue.descriptors(), 4 * number);
        if length == 0 {
            Queue::chain(table, first, &[header, status]);
        } else {
            Queue::chain(table, first, &[header, data, status]);
        }
        self.queue.offer(first);
    }

    /// The same by an indirect descriptor.
    pub fn offer_indirect(&mut self, number: u16, kind: u32, sector: u64, length: u32) {
        let parts = Self::prepare(number, kind, sector, length);
        let table = Self::memory(number) + TABLE;
        Queue::chain(table, 0, &parts);
        let indirect = Part {
            address: table,
            length: 16 * 3,
            writable: false,
        };
        Queue::describe(self.queue.descriptors(), 4 * number, indirect, INDIRECT, 0);
        self.queue.offer(4 * number);
    }

    /// Whether a request is done that was not looked at.
    pub fn is_any_done(&self) -> bool {
        self.queue.is_any_used()
    }

    /// Waits for a request: its number, and how it ended.
    pub fn finish(&mut self) -> Outcome<(u16, Done)> {
        let Some((head, written)) = self.queue.take() else {
            fail!("the device does not use the buffer");
        };
        check!(
            head % 4 == 0 && head < SIZE.into(),
            "the used buffer is {head}"
        );
        let number = (head / 4) as u16;
        let status = mmio::read8(Self::memory(number) + STATUS);
        check!(status != NONE, "the device leaves the status byte");
        Ok((number, Done { status, written }))
    }

    /// One request from beginning to end, with its data in the memory of request 0.
    pub fn request(&mut self, kind: u32, sector: u64, length: u32) -> Outcome<Done> {
        self.offer(0, kind, sector, length);
        self.slot.notify(0);
        let (number, done) = self.finish()?;
        check_eq!(number, 0, "the request that is done");
        Ok(done)
    }

    /// Reads a sector.
    pub fn read(&mut self, sector: u64) -> Outcome<[u8; SECTOR]> {
        put(Self::data(0), &[0x5a; SECTOR]);
        let done = self.request(IN, sector, SECTOR as u32)?;
        check_eq!(done.status, OK, "the status of a read");
        Ok(get(Self::data(0)))
    }

    /// Writes a sector.
    pub fn write(&mut self, sector: u64, bytes: &[u8; SECTOR]) -> Outcome {
        put(Self::data(0), bytes);
        let done = self.request(OUT, sector, SECTOR as u32)?;
        check_eq!(done.status, OK, "the status of a write");
        Ok(())
    }
}

impl Drop for Disk {
    /// The device lets go of the shared memory.
    fn drop(&mut self) {
        let _ = self.slot.reset();
    }
}
