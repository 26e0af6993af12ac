//! The MMIO bus: the device at each guest-physical address.

use std::sync::Arc;

use hv_core::addr::GuestPhysAddr;

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

struct Region {
    base: u64,
    /// Last address, inclusive, so that a region may end where the address space does.
    last: u64,
    device: Arc<dyn MmioDevice>,
}

/// The devices by address. Built once, before the first vCPU runs, and only read from then on.
#[derive(Default)]
pub struct Bus {
    /// Sorted by address, without overlap.
    regions: Vec<Region>,
}

impl Bus {
    /// A bus without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `device` at the `size` bytes from `base` on.
    ///
    /// # Errors
    /// If the region is empty, leaves the address space, or overlaps one that is taken.
    pub fn insert(
        &mut self,
        base: GuestPhysAddr,
        size: u64,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), Error> {
        let last = size
            .checked_sub(1)
            .and_then(|reach| base.0.checked_add(reach))
            .ok_or(Error::BadRegion { base, size })?;
        let position = self.regions.partition_point(|region| region.last < base.0);
        if let Some(next) = self.regions.get(position)
            && next.base <= last
        {
            let other = GuestPhysAddr(next.base);
            return Err(Error::Overlap { base, size, other });
        }
        let base = base.0;
        self.regions.insert(position, Region { base, last, device });
        Ok(())
    }

    /// A guest's load of `data.len()` bytes. `data` is zeroed first. Returns `false` if no device answers at `address`,
    /// or the access reaches beyond the device's end.
    pub fn read(&self, address: GuestPhysAddr, data: &mut [u8]) -> bool {
        data.fill(0);
        let Some((device, offset)) = self.find(address, data.len()) else {
            return false;
        };
        device.read(offset, data);
        true
    }

    /// A guest's store of `data`. Returns `false`, and nothing happens, if no device answers at `address`, or the access
    /// reaches beyond the device's end.
    pub fn write(&self, address: GuestPhysAddr, data: &[u8]) -> bool {
        let Some((device, offset)) = self.find(address, data.len()) else {
            return false;
        };
        device.write(offset, data);
        true
    }

    fn find(&self, address: GuestPhysAddr, length: usize) -> Option<(&dyn MmioDevice, u64)> {
        let reach = u64::try_from(length).ok()?.checked_sub(1)?;
        let last = address.0.checked_add(reach)?;
        let position = self
            .regions
            .partition_point(|region| region.last < address.0);
        let region = self.regions.get(position)?;
        let offset = address.0.checked_sub(region.base)?;
        (last <= region.last).then_some((region.device.as_ref(), offset))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers with its tag and remembers what was written where.
    struct Probe(u8, Mutex<Vec<(u64, Vec<u8>)>>);

    impl Probe {
        fn new(tag: u8) -> Arc<Self> {
            Arc::new(Self(tag, Mutex::default()))
        }
    }

    impl MmioDevice for Probe {
        fn read(&self, _offset: u64, data: &mut [u8]) {
            data[0] = self.0;
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.1.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn finds_each_device_by_address_and_passes_the_offset() {
        let (low, high) = (Probe::new(1), Probe::new(2));
        let mut bus = Bus::new();
        bus.insert(GuestPhysAddr(0x2000), 0x100, high.clone())
            .unwrap();
        bus.insert(GuestPhysAddr(0x1000), 0x1000, low.clone())
            .unwrap();

        let mut data = [0xff; 4];
        assert!(bus.read(GuestPhysAddr(0x1ffc), &mut data));
        assert_eq!(data, [1, 0, 0, 0], "what the device leaves alone is zero");
        assert!(bus.write(GuestPhysAddr(0x20f8), &[1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(
            *high.1.lock().unwrap(),
            [(0xf8, vec![1, 2, 3, 4, 5, 6, 7, 8])]
        );
        assert!(low.1.lock().unwrap().is_empty());
        // Each to its first and last byte, and none at those beside.
        for (address, tag) in [(0x1000, 1), (0x1fff, 1), (0x2000, 2), (0x20ff, 2)] {
            let mut data = [0];
            assert!(bus.read(GuestPhysAddr(address), &mut data), "{address:#x}");
            assert_eq!(data, [tag], "{address:#x}");
        }
        for address in [0xfff, 0x2100] {
            assert!(!bus.read(GuestPhysAddr(address), &mut [0]), "{address:#x}");
        }
    }

    #[test]
    fn nothing_answers_outside_or_across_the_end() {
        let probe = Probe::new(1);
        let mut bus = Bus::new();
        bus.insert(GuestPhysAddr(0x1000), 0x100, probe.clone())
            .unwrap();
        for address in [0, 0xfff, 0x10fd, 0x1100, u64::MAX] {
            let mut data = [0xff; 4];
            assert!(!bus.read(GuestPhysAddr(address), &mut data), "{address:#x}");
            assert_eq!(data, [0; 4]);
            assert!(!bus.write(GuestPhysAddr(address), &data));
        }
        assert!(!bus.write(GuestPhysAddr(0x1000), &[]));
        assert!(probe.1.lock().unwrap().is_empty());
    }

    #[test]
    fn refuses_overlap_and_impossible_regions() {
        let mut bus = Bus::new();
        let insert =
            |bus: &mut Bus, base, size| bus.insert(GuestPhysAddr(base), size, Probe::new(0));
        insert(&mut bus, 0x1000, 0x1000).unwrap();
        for (base, size) in [
            (0x1000, 0x1000),
            (0xfff, 2),
            (0x1fff, 1),
            (0, 0x10000),
            (0x1800, 8),
        ] {
            assert_eq!(
                insert(&mut bus, base, size),
                Err(Error::Overlap {
                    base: GuestPhysAddr(base),
                    size,
                    other: GuestPhysAddr(0x1000)
                })
            );
        }
        assert!(matches!(
            insert(&mut bus, 0x5000, 0),
            Err(Error::BadRegion { .. })
        ));
        assert!(matches!(
            insert(&mut bus, u64::MAX, 2),
            Err(Error::BadRegion { .. })
        ));
        insert(&mut bus, u64::MAX, 1).unwrap();
        insert(&mut bus, 0xfff, 1).unwrap();
        insert(&mut bus, 0x2000, 1).unwrap();
    }
}
