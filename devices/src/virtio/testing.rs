//! A driver for tests: guest memory, one split queue and an interrupt line.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::interrupt::IrqLine;

/// Guest memory starts where RAM does on the board.
pub const RAM: u64 = 0x8000_0000;
pub const RAM_SIZE: usize = 4 << 20;
pub const TABLE: u64 = RAM;
pub const AVAILABLE: u64 = RAM + 0x2000;
pub const USED: u64 = RAM + 0x3000;
/// Where buffers may go.
pub const DATA: u64 = RAM + 0x1_0000;

pub fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), RAM_SIZE)]).unwrap()
}

/// Device-readable buffer.
pub fn readable(address: u64, length: u32) -> (u64, u32, u16) {
    (address, length, 0)
}

/// Device-writable buffer.
pub fn writable(address: u64, length: u32) -> (u64, u32, u16) {
    (address, length, VRING_DESC_F_WRITE as u16)
}

/// Chains buffers in table entries from `first` on.
pub fn chain(first: u16, buffers: &[(u64, u32, u16)]) -> Vec<Descriptor> {
    (0..)
        .zip(buffers)
        .map(|(n, &(address, length, flags))| {
            let last = usize::from(n) + 1 == buffers.len();
            let next = if last { 0 } else { VRING_DESC_F_NEXT as u16 };
            Descriptor::new(address, length, flags | next, first + n + 1)
        })
        .collect()
}

/// The driver's side of a queue at [`TABLE`], [`AVAILABLE`] and [`USED`].
pub struct Ring<'a> {
    pub memory: &'a GuestMemoryMmap,
    pub size: u16,
    pub available: u16,
}

impl<'a> Ring<'a> {
    pub fn new(memory: &'a GuestMemoryMmap, size: u16) -> Self {
        Self {
            memory,
            size,
            available: 0,
        }
    }

    /// Stores descriptors in table entries from `first` on.
    pub fn describe(&self, first: u16, descriptors: &[Descriptor]) {
        for (n, descriptor) in (u64::from(first)..).zip(descriptors) {
            self.memory
                .write_obj(
                    RawDescriptor::from(*descriptor),
                    GuestAddress(TABLE + 16 * n),
                )
                .unwrap();
        }
    }

    /// Makes the chain that starts at `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.memory
            .write_obj(head, GuestAddress(AVAILABLE + 4 + 2 * slot))
            .unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory
            .write_obj(self.available, GuestAddress(AVAILABLE + 2))
            .unwrap();
    }

    pub fn used_index(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// Head and length of the used element `n`.
    pub fn used(&self, n: u16) -> (u32, u32) {
        let element = USED + 4 + 8 * u64::from(n % self.size);
        (
            self.memory.read_obj(GuestAddress(element)).unwrap(),
            self.memory.read_obj(GuestAddress(element + 4)).unwrap(),
        )
    }
}

/// An interrupt line that can be waited for.
#[derive(Default)]
pub struct TestLine {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct LineState {
    level: bool,
    assertions: usize,
}

impl TestLine {
    pub fn level(&self) -> bool {
        self.state.lock().unwrap().level
    }

    /// How often the line was asserted.
    pub fn assertions(&self) -> usize {
        self.state.lock().unwrap().assertions
    }

    /// Waits until `done` holds, looking again after each change. Failing to is a hang.
    pub fn wait(&self, mut done: impl FnMut() -> bool) {
        let state = self.state.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (_state, result) = self
            .changed
            .wait_timeout_while(state, limit, |_| !done())
            .unwrap();
        assert!(!result.timed_out(), "the device did not answer");
    }
}

impl IrqLine for TestLine {
    fn set_level(&self, asserted: bool) {
        let mut state = self.state.lock().unwrap();
        state.level = asserted;
        state.assertions += usize::from(asserted);
        self.changed.notify_all();
    }
}
