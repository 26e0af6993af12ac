//! The MMIO bus: which device answers at which guest-physical address. What is around it, such as locks, is for those who run a
//! machine.

use alloc::vec::Vec;

use crate::addr::GuestPhysAddr;

/// A device with memory-mapped registers.
///
/// vCPU threads call it concurrently, hence the shared references; a device uses locks where necessary.
pub trait MmioDevice: Send + Sync {
    /// Reads `data.len()` bytes at `offset` bytes from the start of the device's region. `data` arrives zeroed, and
    /// what the device leaves alone reads as zero. Values are little-endian.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` bytes from the start of the device's region. Values are little-endian.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device could not be put on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The region is empty or reaches beyond the 64-bit address space.
    #[error("device region at {base} of {size:#x} bytes is empty or exceeds the address space")]
    BadRegion {
        /// First address of the refused region.
        base: GuestPhysAddr,
        /// Its length in bytes.
        size: u64,
    },
    /// Another device holds part of the region.
    #[error("device region at {base} of {size:#x} bytes overlaps the one at {other}")]
    Overlap {
        /// First address of the refused region.
        base: GuestPhysAddr,
        /// Its length in bytes.
        size: u64,
        /// First address of the region that was there before.
        other: GuestPhysAddr,
    },
}

struct Entry<T> {
    base: u64,
    /// Last address, inclusive, so that a region may end where the address space does.
    last: u64,
    device: T,
}

/// Devices by address. Their regions never overlap.
pub struct Regions<T> {
    /// Sorted by address, also between any two statements.
    entries: Vec<Entry<T>>,
}

impl<T> Default for Regions<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Regions<T> {
    /// No devices.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Adds `device` at the `size` bytes from `base` on.
    ///
    /// # Errors
    /// If the region is empty, leaves the address space, or overlaps one that is taken.
    pub fn insert(&mut self, base: GuestPhysAddr, size: u64, device: T) -> Result<(), Error> {
        let last = size
            .checked_sub(1)
            .and_then(|reach| base.0.checked_add(reach))
            .ok_or(Error::BadRegion { base, size })?;
        let position = self.entries.partition_point(|entry| entry.last < base.0);
        if let Some(next) = self.entries.get(position)
            && next.base <= last
        {
            let other = GuestPhysAddr(next.base);
            return Err(Error::Overlap { base, size, other });
        }
        let base = base.0;
        self.entries.insert(position, Entry { base, last, device });
        Ok(())
    }

    /// Takes the device away whose region begins at `base`, if there is one.
    pub fn remove(&mut self, base: GuestPhysAddr) -> Option<T> {
        let found = self
            .entries
            .binary_search_by_key(&base.0, |entry| entry.base);
        found
            .ok()
            .map(|position| self.entries.remove(position).device)
    }

    /// The device that answers an access of `length` bytes at `address`, and how far into its region that is. `None` if the
    /// access is empty, or not all of it is in one region: no access is split.
    #[inline]
    #[must_use]
    pub fn find(&self, address: GuestPhysAddr, length: usize) -> Option<(&T, u64)> {
        let reach = u64::try_from(length).ok()?.checked_sub(1)?;
        let last = address.0.checked_add(reach)?;
        let position = self.entries.partition_point(|entry| entry.last < address.0);
        let entry = self.entries.get(position)?;
        let offset = address.0.checked_sub(entry.base)?;
        (last <= entry.last).then_some((&entry.device, offset))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::ops::Range;

    use proptest::prelude::*;

    use super::*;

    fn at(address: u64) -> GuestPhysAddr {
        GuestPhysAddr(address)
    }

    #[test]
    fn a_device_answers_from_its_first_to_its_last_byte() {
        let mut regions = Regions::new();
        regions.insert(at(0x2000), 0x100, "high").unwrap();
        regions.insert(at(0x1000), 0x1000, "low").unwrap();
        for (address, length, found) in [
            (0x1000, 1, Some((&"low", 0))),
            (0x1fff, 1, Some((&"low", 0xfff))),
            (0x1ffc, 4, Some((&"low", 0xffc))),
            (0x2000, 0x100, Some((&"high", 0))),
            (0x20f8, 8, Some((&"high", 0xf8))),
            // From one to the next, beyond the end, in front, behind, and of no bytes.
            (0x1ffd, 4, None),
            (0x20fd, 4, None),
            (0xfff, 1, None),
            (0xfff, 2, None),
            (0x2100, 1, None),
            (u64::MAX, 2, None),
            (0x1000, 0, None),
        ] {
            assert_eq!(regions.find(at(address), length), found, "{address:#x}");
        }
        assert_eq!(regions.find(at(0x1000), usize::MAX), None);
        assert_eq!(regions.remove(at(0x1001)), None);
        assert_eq!(regions.remove(at(0x1000)), Some("low"));
        assert_eq!(regions.find(at(0x1000), 1), None);
        assert_eq!(regions.remove(at(0x1000)), None);
    }

    #[test]
    fn a_region_may_end_where_the_address_space_does() {
        let mut regions = Regions::default();
        let bad = |base, size| Err(Error::BadRegion { base, size });
        assert_eq!(regions.insert(at(0), 0, 1), bad(at(0), 0));
        assert_eq!(regions.insert(at(u64::MAX), 2, 1), bad(at(u64::MAX), 2));
        regions.insert(at(u64::MAX - 3), 4, 1).unwrap();
        assert_eq!(regions.find(at(u64::MAX), 1), Some((&1, 3)));
        assert_eq!(regions.find(at(u64::MAX), 2), None);
    }

    /// A region that is likely to touch others: its base and its size.
    fn region() -> impl Strategy<Value = (u64, u64)> {
        let near = (0..64_u64, 0..20_u64);
        let top = (0..20_u64, 0..20_u64).prop_map(|(below, size)| (u64::MAX - below, size));
        prop_oneof![4 => near, 1 => top]
    }

    proptest! {
        /// Against a list that is searched from one end to the other.
        #[test]
        fn answers_as_a_plain_list_does(
            steps in proptest::collection::vec((region(), any::<bool>()), 0..60),
            accesses in proptest::collection::vec((region(), 0..12_usize), 100),
        ) {
            let mut regions = Regions::new();
            let mut list: Vec<(Range<u128>, usize)> = vec![];
            for (number, ((base, size), remove)) in steps.into_iter().enumerate() {
                let range = u128::from(base)..u128::from(base) + u128::from(size);
                if remove {
                    let place = list.iter().position(|(other, _)| other.start == range.start);
                    let expected = place.map(|place| list.swap_remove(place).1);
                    prop_assert_eq!(regions.remove(at(base)), expected);
                    continue;
                }
                let taken = list
                    .iter()
                    .filter(|(other, _)| range.start < other.end && other.start < range.end)
                    .map(|(other, _)| other.start)
                    .min();
                let result = regions.insert(at(base), size, number);
                if size == 0 || range.end > 1 << 64 {
                    prop_assert_eq!(result, Err(Error::BadRegion { base: at(base), size }));
                } else if let Some(other) = taken {
                    let other = at(u64::try_from(other).unwrap());
                    prop_assert_eq!(result, Err(Error::Overlap { base: at(base), size, other }));
                } else {
                    prop_assert_eq!(result, Ok(()));
                    list.push((range, number));
                }
            }
            for ((address, _), length) in accesses {
                let (start, end) = (u128::from(address), u128::from(address) + length as u128);
                let expected = list
                    .iter()
                    .find(|(range, _)| length != 0 && range.start <= start && end <= range.end)
                    .map(|(range, number)| (number, u64::try_from(start - range.start).unwrap()));
                prop_assert_eq!(regions.find(at(address), length), expected);
            }
        }
    }
}
