//! The MMIO bus of a machine whose devices may come and go while its vCPUs run.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use hv_core::addr::GuestPhysAddr;
use hv_core::bus::Regions;

pub use hv_core::bus::{Error, MmioDevice};

/// The lock is held to look at the regions or to change them, never while a device is called: an access may block (a UART whose
/// reader is slow), and may itself change the bus.
#[derive(Default)]
struct Devices(RwLock<Regions<Arc<dyn MmioDevice>>>);

impl Devices {
    // They are valid between any two statements, also where a thread panicked.
    fn read(&self) -> RwLockReadGuard<'_, Regions<Arc<dyn MmioDevice>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Regions<Arc<dyn MmioDevice>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A region of a bus, with a device. The device is taken from the bus when this is dropped. An access that has begun by
/// then goes on, and keeps the device until it ends.
#[must_use = "the device is taken from the bus when this is dropped"]
pub struct Region {
    /// Gone with the bus. A device may own its region.
    bus: Weak<Devices>,
    base: GuestPhysAddr,
}

impl Region {
    /// Leaves the device where it is, for as long as there is the bus.
    pub fn keep(mut self) {
        self.bus = Weak::new();
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let Some(devices) = self.bus.upgrade() else {
            return;
        };
        let mut regions = devices.write();
        let removed = regions.remove(self.base);
        // The device's end may take a while, and may remove other regions.
        drop(regions);
        drop(removed);
    }
}

/// The devices by address. They may come and go while vCPUs run: each access finds those that there are.
///
/// What an access pays for that is the read side of a lock and a count of references, two atomic operations each.
#[derive(Default)]
pub struct Bus {
    devices: Arc<Devices>,
}

impl Bus {
    /// A bus without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `device` at the `size` bytes from `base` on, until the region that this returns is dropped.
    ///
    /// # Errors
    /// If the region is empty, leaves the address space, or overlaps one that is taken.
    pub fn insert(
        &self,
        base: GuestPhysAddr,
        size: u64,
        device: Arc<dyn MmioDevice>,
    ) -> Result<Region, Error> {
        self.devices.write().insert(base, size, device)?;
        Ok(Region {
            bus: Arc::downgrade(&self.devices),
            base,
        })
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

    fn find(&self, address: GuestPhysAddr, length: usize) -> Option<(Arc<dyn MmioDevice>, u64)> {
        let regions = self.devices.read();
        let (device, offset) = regions.find(address, length)?;
        Some((Arc::clone(device), offset))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

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
        let bus = Bus::new();
        bus.insert(GuestPhysAddr(0x2000), 0x100, high.clone())
            .unwrap()
            .keep();
        bus.insert(GuestPhysAddr(0x1000), 0x1000, low.clone())
            .unwrap()
            .keep();

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
        let bus = Bus::new();
        bus.insert(GuestPhysAddr(0x1000), 0x100, probe.clone())
            .unwrap()
            .keep();
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
        let bus = Bus::new();
        let insert = |bus: &Bus, base, size| {
            bus.insert(GuestPhysAddr(base), size, Probe::new(0))
                .map(Region::keep)
        };
        insert(&bus, 0x1000, 0x1000).unwrap();
        for (base, size) in [
            (0x1000, 0x1000),
            (0xfff, 2),
            (0x1fff, 1),
            (0, 0x10000),
            (0x1800, 8),
        ] {
            assert_eq!(
                insert(&bus, base, size),
                Err(Error::Overlap {
                    base: GuestPhysAddr(base),
                    size,
                    other: GuestPhysAddr(0x1000)
                })
            );
        }
        assert!(matches!(
            insert(&bus, 0x5000, 0),
            Err(Error::BadRegion { .. })
        ));
        assert!(matches!(
            insert(&bus, u64::MAX, 2),
            Err(Error::BadRegion { .. })
        ));
        insert(&bus, u64::MAX, 1).unwrap();
        insert(&bus, 0xfff, 1).unwrap();
        insert(&bus, 0x2000, 1).unwrap();
    }

    #[test]
    fn a_region_lasts_as_long_as_its_guard_and_the_bus() {
        let (bus, probe) = (Bus::new(), Probe::new(1));
        let insert = || bus.insert(GuestPhysAddr(0x1000), 0x100, probe.clone());
        let answers = || bus.read(GuestPhysAddr(0x1000), &mut [0]);
        let region = insert().unwrap();
        assert!(answers());
        assert!(insert().is_err());
        drop(region);
        assert!(!answers());
        let region = insert().unwrap();
        assert!(answers());
        drop(bus);
        assert_eq!(Arc::strong_count(&probe), 1);
        drop(region);
    }

    /// Its write removes it, which must not wait for the access that it is part of.
    struct Ejected(Mutex<Option<Region>>);

    impl MmioDevice for Ejected {
        fn read(&self, _offset: u64, _data: &mut [u8]) {}
        fn write(&self, _offset: u64, _data: &[u8]) {
            self.0.lock().unwrap().take();
        }
    }

    #[test]
    fn a_device_may_take_itself_from_the_bus() {
        let (bus, device) = (Bus::new(), Arc::new(Ejected(Mutex::default())));
        let region = bus.insert(GuestPhysAddr(0x1000), 8, device.clone());
        *device.0.lock().unwrap() = Some(region.unwrap());
        let end = Arc::downgrade(&device);
        drop(device);
        assert!(bus.write(GuestPhysAddr(0x1000), &[1]));
        assert!(!bus.write(GuestPhysAddr(0x1000), &[1]));
        assert!(end.upgrade().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Regions come and go while others read: what stays always answers, what is on no bus never does, and nobody
        /// gets an answer of a device that is elsewhere.
        #[test]
        fn readers_see_one_map_or_the_next(
            steps in proptest::collection::vec((0..8_u64, 1..=0x300_u64), 1..200),
        ) {
            let bus = Bus::new();
            bus.insert(GuestPhysAddr(0x10_0000), 0x100, Probe::new(0xff)).unwrap().keep();
            let done = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                let reader = || {
                    let mut rounds = 0_u32;
                    while rounds < 10 || !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let mut data = [0];
                        assert!(bus.read(GuestPhysAddr(0x10_00ff), &mut data));
                        assert_eq!(data, [0xff]);
                        for slot in 0..8_u8 {
                            let address = u64::from(slot) * 0x100;
                            // One that begins here, or an earlier one that reaches so far.
                            if bus.read(GuestPhysAddr(address), &mut data) {
                                assert!((1..=slot + 1).contains(&data[0]), "{slot}: {data:?}");
                            }
                        }
                        assert!(!bus.read(GuestPhysAddr(0x1000), &mut data));
                        rounds += 1;
                    }
                };
                let readers = [scope.spawn(reader), scope.spawn(reader)];
                let mut held: Vec<Option<(u64, Region)>> = (0..8).map(|_| None).collect();
                for (slot, size) in &steps {
                    let index = *slot as usize;
                    if held[index].take().is_none() {
                        let base = slot * 0x100;
                        let overlaps = held.iter().zip(0..).any(|(region, other)| {
                            let start = other * 0x100;
                            region.as_ref().is_some_and(|(length, _)| {
                                start < base + size && base < start + length
                            })
                        });
                        let region = bus.insert(GuestPhysAddr(base), *size, Probe::new(index as u8 + 1));
                        assert_eq!(region.is_err(), overlaps);
                        held[index] = region.ok().map(|region| (*size, region));
                    }
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                for reader in readers {
                    reader.join().unwrap();
                }
            });
            // All that is left is what was kept.
            for slot in 0..8 {
                prop_assert!(!bus.read(GuestPhysAddr(slot * 0x100), &mut [0]));
            }
        }
    }
}
