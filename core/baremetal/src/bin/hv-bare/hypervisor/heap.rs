//! The hypervisor's own memory.

use linked_list_allocator::LockedHeap;

/// Bytes. It holds the guests' descriptions, their page tables and the harts' stacks; nothing in it grows while guests run.
const SIZE: usize = 4 << 20;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

#[repr(align(4096))]
struct Arena {
    _bytes: [u8; SIZE],
}

static mut ARENA: Arena = Arena { _bytes: [0; SIZE] };

/// Makes the heap usable.
///
/// # Safety
/// It is called once, before anything is allocated.
pub unsafe fn initialize() {
    // SAFETY: nothing else refers to the arena, and the caller calls this once.
    unsafe { HEAP.lock().init((&raw mut ARENA).cast(), SIZE) };
}
