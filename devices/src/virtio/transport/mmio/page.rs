//! The readable registers of the slots: one page of memory each.
//!
//! No virtio-mmio register has side effects when it is read, so its value can be kept in memory. If the virtual machine maps
//! these pages into its guest, read-only, then loads cause no exit; stores still do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

/// Bytes of a slot: the page size of every RISC-V host and guest.
const PAGE: usize = 4096;

/// Where the device's configuration space starts in it.
const CONFIG: usize = VIRTIO_MMIO_CONFIG as usize;

/// The pages of neighbouring slots, in the order of their addresses.
#[derive(Clone, Debug)]
pub struct RegisterPages(Arc<MmapRegion>);

impl RegisterPages {
    /// Pages full of zeros.
    ///
    /// # Errors
    /// If the host has no memory left.
    pub fn new(slots: u32) -> io::Result<Self> {
        let pages = usize::try_from(slots).map_err(io::Error::other)?;
        let bytes = pages.checked_mul(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let region = MmapRegion::new(bytes).map_err(io::Error::other)?;
        Ok(Self(Arc::new(region)))
    }

    /// Where they lie in this process, and their size in bytes: what a hypervisor has to map. They stay there for as long as
    /// this value, a copy of it or one of its pages does.
    #[must_use]
    pub fn host_range(&self) -> (*mut u8, usize) {
        (self.0.as_ptr(), self.0.size())
    }

    /// The page of this slot, or `None` if there are not so many.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<RegisterPage> {
        let start = usize::try_from(slot).ok()?.checked_mul(PAGE)?;
        (start < self.0.size()).then(|| RegisterPage {
            region: Arc::clone(&self.0),
            start,
        })
    }
}

/// The page of one slot.
#[derive(Clone, Debug)]
pub struct RegisterPage {
    region: Arc<MmapRegion>,
    /// Where it starts, bytes from the start of `region`.
    start: usize,
}

impl RegisterPage {
    /// What a load of `data.len()` bytes at `offset` reads. `data` arrives zeroed, and stays so if the load reaches beyond the
    /// page.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(slice) = self.slice(offset, data.len()) {
            slice.copy_to(data);
        }
    }

    /// From now on the 32-bit register at `offset` reads as `value`, and whoever sees that sees what was written before.
    pub(super) fn store(&self, offset: u32, value: u32) {
        if let Some(register) = self.register(offset) {
            register.store(value.to_le(), Ordering::Release);
        }
    }

    /// Sets bits of the 32-bit register at `offset`.
    pub(super) fn set(&self, offset: u32, bits: u32) {
        if let Some(register) = self.register(offset) {
            register.fetch_or(bits.to_le(), Ordering::Release);
        }
    }

    /// From now on these bytes are read at `offset` of the configuration space. A word that is aligned changes as a whole.
    pub(super) fn write_config(&self, offset: usize, data: &[u8]) {
        let slice = CONFIG
            .checked_add(offset)
            .and_then(|offset| self.slice(offset, data.len()));
        if let Some(slice) = slice {
            slice.copy_from(data);
        }
    }

    fn register(&self, offset: u32) -> Option<&AtomicU32> {
        let offset = usize::try_from(offset).ok()?;
        let address = self.start.checked_add(offset)?;
        // Registers are aligned, and below the page's end.
        self.region.get_atomic_ref(address).ok()
    }

    fn slice(&self, offset: usize, length: usize) -> Option<VolatileSlice<'_>> {
        let end = offset.checked_add(length)?;
        let address = self.start.checked_add(offset)?;
        (end <= PAGE)
            .then(|| self.region.get_slice(address, length).ok())
            .flatten()
    }
}
