//! Where initrd and device tree lie in a guest's RAM when its first hart starts.
//!
//! ```text
//!   start of RAM                                                         end of RAM
//!   | (free) | kernel, with its .bss |   …free…   | initrd | device tree |
//! ```
//!
//! The kernel's file determines its address ([`crate::kernel::place`]); the rest is taken from the end of RAM, as far away as
//! possible. This matters most for a flat binary, which does not say how much memory it uses behind itself, and for systems
//! that assume a certain memory size and do not read the device tree: give their guest more memory than that.

use core::ops::Range;

/// Alignment of what is placed, bytes: a page, which is more than the 8 that a device tree needs (Linux,
/// Documentation/arch/riscv/boot.rst).
pub const PAGE: u64 = 4096;

/// Memory that nothing has been placed in. Pieces are taken from its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeMemory {
    range: Range<u64>,
}

impl FreeMemory {
    /// What lies in `ram` behind `occupied`, both in the same address space: nothing if `occupied` reaches the end of `ram`.
    #[must_use]
    pub fn behind(ram: &Range<u64>, occupied: &Range<u64>) -> Self {
        Self {
            range: ram.start.max(occupied.end)..ram.end,
        }
    }

    /// Bytes that are free.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Takes `size` bytes at the end, beginning on a page. `None` if they do not fit; then nothing is taken.
    pub fn take(&mut self, size: u64) -> Option<Range<u64>> {
        self.take_aligned(size, PAGE)
    }

    /// As [`take`](Self::take), beginning at a multiple of `alignment` bytes. `None` if that is zero.
    pub fn take_aligned(&mut self, size: u64, alignment: u64) -> Option<Range<u64>> {
        let highest = self.range.end.checked_sub(size)?;
        let start = highest.checked_sub(highest.checked_rem(alignment)?)?;
        if start < self.range.start {
            return None;
        }
        self.range.end = start;
        Some(start..start.checked_add(size)?)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_are_taken_downwards_in_whole_pages() {
        let free = |start| FreeMemory::behind(&(start..0x10_0000), &(0..0));
        assert_eq!(free(0).take(0x10), Some(0xf_f000..0xf_f010));
        assert_eq!(free(0xf_f000).take(0x1000), Some(0xf_f000..0x10_0000));
        assert_eq!(free(0xf_f000).take(0x1001), None);
        assert_eq!(free(0).take(0x20_0000), None);
        assert_eq!(free(0).take_aligned(1, 0), None);

        let mut memory = free(0);
        assert_eq!(memory.take(0x1801), Some(0xf_e000..0xf_f801));
        assert_eq!(memory.size(), 0xf_e000);
        assert_eq!(
            memory.take_aligned(0x2000, 0x1_0000),
            Some(0xf_0000..0xf_2000)
        );
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut memory = FreeMemory::behind(&(0x8000_0000..0x8010_0000), &(0..0x800f_f800));
        let before = memory.clone();
        assert_eq!(before.size(), 0x800);
        // There are enough bytes, but no page begins among them.
        assert_eq!(memory.take(0x10), None);
        assert_eq!(memory.take(u64::MAX), None);
        assert_eq!(memory, before);
    }

    #[test]
    fn a_kernel_may_fill_the_memory_or_lie_outside() {
        let ram = 0x8000_0000..0x8010_0000;
        for occupied in [
            0x8000_0000..0x8010_0000,
            0x8000_0000..0x9000_0000,
            0..u64::MAX,
        ] {
            let mut memory = FreeMemory::behind(&ram, &occupied);
            assert_eq!(memory.size(), 0, "{occupied:x?}");
            assert_eq!(memory.take(1), None, "{occupied:x?}");
        }
        assert_eq!(FreeMemory::behind(&ram, &(0..0x1000)).size(), 0x10_0000);
    }

    proptest! {
        /// Whatever is placed lies in RAM, behind the kernel, on its alignment, and apart from all else. What is refused would
        /// not have fitted.
        #[test]
        fn nothing_overlaps_and_everything_is_in_ram(
            base in prop_oneof![Just(0x8000_0000_u64), Just(0), any::<u64>()],
            ram_size in prop_oneof![0..0x1_0000_u64, any::<u64>()],
            kernel_offset in prop_oneof![0..0x8000_u64, any::<u64>()],
            kernel_size in prop_oneof![0..0x8000_u64, any::<u64>()],
            pieces in proptest::collection::vec(
                (prop_oneof![0..0x4000_u64, any::<u64>()], 0..22_u32),
                1..6,
            ),
        ) {
            let ram = base..base.saturating_add(ram_size);
            let kernel_start = base.saturating_add(kernel_offset);
            let kernel = kernel_start..kernel_start.saturating_add(kernel_size);
            let mut free = FreeMemory::behind(&ram, &kernel);
            let mut taken: Vec<Range<u64>> = Vec::new();
            for (size, shift) in pieces {
                let alignment = 1_u64 << shift;
                let (room, end) = (free.size(), ram.end.min(taken.last().map_or(u64::MAX, |piece| piece.start)));
                let Some(piece) = free.take_aligned(size, alignment) else {
                    prop_assert_eq!(free.size(), room);
                    // All of it, from the alignment below the last place where it would end in time.
                    let fits = end.checked_sub(size).map(|start| start - start % alignment);
                    prop_assert!(fits.is_none_or(|start| start < kernel.end.max(ram.start)));
                    continue;
                };
                prop_assert_eq!(piece.end - piece.start, size);
                prop_assert_eq!(piece.start % alignment, 0);
                prop_assert!(ram.start <= piece.start && piece.end <= ram.end);
                prop_assert!(kernel.end <= piece.start);
                prop_assert!(taken.iter().all(|other| piece.end <= other.start));
                prop_assert!(free.size() <= room - size);
                taken.push(piece);
            }
        }
    }
}
