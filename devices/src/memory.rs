//! Guest memory: vm-memory's types as this project has them, and the note of writes that vm-memory does not see.
//!
//! What vm-memory writes, it marks in the memory's bitmap by itself, and KVM logs what the guest writes. The kernel's writes in
//! a system call (a read into guest memory) are neither's, so whoever makes such a call says so here.

use vm_memory::VolatileSlice;
use vm_memory::bitmap::{BS, BitmapSlice};

/// The bitmap of pages that were written to. `()` has no bits.
pub type Dirty = ();

/// All memory of a guest.
pub type GuestMemoryMmap = vm_memory::GuestMemoryMmap<Dirty>;

/// A region of it.
pub type GuestRegionMmap = vm_memory::GuestRegionMmap<Dirty>;

/// A part of it, which the guest may read and write at any time.
pub type GuestSlice<'m> = VolatileSlice<'m, BS<'m, Dirty>>;

/// Notes that a system call has written `length` bytes to guest memory, from the start of `buffers` on.
pub fn note_write<'m, B: BitmapSlice>(
    buffers: impl IntoIterator<Item = VolatileSlice<'m, B>>,
    length: usize,
) {
    let mut left = length;
    for buffer in buffers {
        let written = buffer.len().min(left);
        if written > 0 {
            buffer.bitmap().mark_dirty(0, written);
        }
        left = left.saturating_sub(written);
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use vm_memory::bitmap::{Bitmap, WithBitmapSlice};

    use super::*;

    /// Remembers the ranges that it is told of.
    #[derive(Clone, Debug, Default)]
    struct Ranges(Arc<Mutex<Vec<(usize, usize)>>>);

    impl WithBitmapSlice<'_> for Ranges {
        type S = Ranges;
    }

    impl Bitmap for Ranges {
        fn mark_dirty(&self, offset: usize, length: usize) {
            self.0.lock().unwrap().push((offset, length));
        }
        fn dirty_at(&self, _: usize) -> bool {
            false
        }
        fn slice_at(&self, _: usize) -> Ranges {
            self.clone()
        }
    }

    impl BitmapSlice for Ranges {}

    #[test]
    fn as_much_is_noted_as_was_written() {
        for (length, expected) in [
            (0, &[][..]),
            (2, &[(0, 2)]),
            (3, &[(0, 3)]),
            (5, &[(0, 3), (0, 2)]),
            (100, &[(0, 3), (0, 4)]),
        ] {
            let ranges = Ranges::default();
            let mut memory = [0_u8; 7];
            let (first, second) = memory.split_at_mut(3);
            let slice = |part: &mut [u8]| {
                // SAFETY: the part outlives the slice, and nothing else uses it meanwhile.
                unsafe {
                    VolatileSlice::with_bitmap(part.as_mut_ptr(), part.len(), ranges.clone(), None)
                }
            };
            // A buffer without room in between.
            let buffers = [slice(first), slice(&mut []), slice(second)];
            note_write(buffers, length);
            assert_eq!(*ranges.0.lock().unwrap(), expected, "{length}");
        }
    }
}
