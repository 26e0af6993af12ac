//! A split virtqueue (VIRTIO 1.3, section 2.7), laid out as the legacy interface has it, which is good for both: all in one
//! piece, the used ring on a page of its own.

use core::cell::UnsafeCell;

use crate::kernel::mmio;
use crate::kernel::time;

/// Descriptors of a queue.
pub const SIZE: u16 = 16;

/// A descriptor's flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

const PAGE: usize = 4096;

/// Bytes for buffers.
const BUFFERS: usize = 8 * PAGE;

/// Bytes of the rings of one queue.
const RINGS: usize = 2 * PAGE;

/// The most queues that a test uses.
const QUEUES: usize = 2;

/// What driver and device share. There is one, as tests run one after the other.
#[repr(C, align(4096))]
struct Shared {
    rings: [[u8; RINGS]; QUEUES],
    buffers: [u8; BUFFERS],
}

struct Memory(UnsafeCell<Shared>);

// SAFETY: all accesses are volatile, by the boot hart and by devices.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new(Shared {
    rings: [[0; RINGS]; QUEUES],
    buffers: [0; BUFFERS],
}));

/// The address of the bytes for buffers.
pub fn buffers() -> usize {
    MEMORY.0.get() as usize + QUEUES * RINGS
}

/// Stores bytes to shared memory.
pub fn put(address: usize, bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        mmio::write8(address + index, *byte);
    }
}

/// Loads bytes from it.
pub fn get<const N: usize>(address: usize) -> [u8; N] {
    core::array::from_fn(|index| mmio::read8(address + index))
}

/// A part of a buffer.
#[derive(Clone, Copy)]
pub struct Part {
    pub address: usize,
    pub length: u32,
    /// The device writes it.
    pub writable: bool,
}

/// The driver's side of a queue.
pub struct Queue {
    base: usize,
    /// How many buffers were offered, and how many taken back.
    offered: u16,
    taken: u16,
}

impl Queue {
    /// An empty one, in the memory for the queue with this number.
    pub fn new(index: usize) -> Self {
        assert!(index < QUEUES);
        let base = MEMORY.0.get() as usize + index * RINGS;
        for offset in (0..RINGS).step_by(8) {
            mmio::write64(base + offset, 0);
        }
        Self {
            base,
            offered: 0,
            taken: 0,
        }
    }

    pub fn size(&self) -> u32 {
        SIZE.into()
    }

    pub fn descriptors(&self) -> usize {
        self.base
    }

    pub fn available(&self) -> usize {
        self.base + 16 * usize::from(SIZE)
    }

    pub fn used(&self) -> usize {
        self.base + PAGE
    }

    /// Writes a descriptor of a table.
    pub fn describe(table: usize, index: u16, part: Part, flags: u16, next: u16) {
        let address = table + 16 * usize::from(index);
        let flags = flags | if part.writable { WRITE } else { 0 };
        mmio::write64(address, part.address as u64);
        mmio::write32(address + 8, part.length);
        mmio::write16(address + 12, flags);
        mmio::write16(address + 14, next);
    }

    /// Writes a chain of descriptors from `first` on.
    pub fn chain(table: usize, first: u16, parts: &[Part]) {
        let Some((last, others)) = parts.split_last() else {
            return;
        };
        let mut index = first;
        for part in others {
            Self::describe(table, index, *part, NEXT, index + 1);
            index += 1;
        }
        Self::describe(table, index, *last, 0, 0);
    }

    /// Makes the chain that begins with this descriptor available to the device.
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.offered % SIZE);
        mmio::write16(self.available() + 4 + 2 * slot, head);
        self.offered = self.offered.wrapping_add(1);
        mmio::fence();
        mmio::write16(self.available() + 2, self.offered);
        mmio::fence();
    }

    /// How many buffers the device has used.
    pub fn used_index(&self) -> u16 {
        let index = mmio::read16(self.used() + 2);
        mmio::fence();
        index
    }

    /// Whether there is a used buffer.
    pub fn is_any_used(&self) -> bool {
        self.used_index() != self.taken
    }

    /// Waits for the next used buffer: the chain's head, and the bytes written.
    pub fn take(&mut self) -> Option<(u32, u32)> {
        if !time::wait_for(|| self.is_any_used()) {
            return None;
        }
        let element = self.used() + 4 + 8 * usize::from(self.taken % SIZE);
        self.taken = self.taken.wrapping_add(1);
        Some((mmio::read32(element), mmio::read32(element + 4)))
    }

    /// With event index: the device is to interrupt when it has used the buffer with this number.
    pub fn set_used_event(&self, number: u16) {
        mmio::write16(self.available() + 4 + 2 * usize::from(SIZE), number);
        mmio::fence();
    }

    /// With event index: the device wants to be told of the buffer with this number.
    pub fn available_event(&self) -> u16 {
        mmio::read16(self.used() + 4 + 8 * usize::from(SIZE))
    }

    /// How many buffers were offered.
    pub fn offered(&self) -> u16 {
        self.offered
    }
}
