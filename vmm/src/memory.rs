//! The guest's RAM: one anonymous mapping of this process, placed so that the G-stage can use large pages.

use std::ptr::NonNull;
use std::sync::Arc;

use hv_core::layout;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::Error;

/// What a large page of the G-stage covers, bytes. KVM maps guest memory with such pages where the host address equals
/// the guest-physical address modulo this size.
const LARGE_PAGE: usize = 2 << 20;

/// The guest's RAM, at [`layout::RAM_BASE`]; zeroed, and backed by host memory as the guest touches it.
#[derive(Debug)]
pub struct GuestRam {
    memory: Arc<GuestMemoryMmap>,
    mapping: NonNull<libc::c_void>,
    /// Of the whole mapping, bytes; some of it lies before the first large page.
    length: usize,
    host: *mut u8,
    size: usize,
}

impl GuestRam {
    /// Reserves `size` bytes, a multiple of the host's page size.
    ///
    /// # Errors
    /// The host has no room for so much.
    pub fn new(size: u64) -> Result<GuestRam, Error> {
        let no_room = || Error::NoHostMemory { size };
        let bytes = usize::try_from(size).map_err(|_| no_room())?;
        let length = bytes
            .checked_add(LARGE_PAGE)
            .and_then(std::num::NonZeroUsize::new)
            .ok_or_else(no_room)?;
        // Pages that the guest never touches must cost the host nothing: hence no reservation of swap space.
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that is in use.
        let mapping =
            unsafe { mmap_anonymous(None, length, protection, flags) }.map_err(|_| no_room())?;
        let start = mapping.as_ptr().cast::<u8>();
        // RAM_BASE is itself a multiple of the large page.
        let host = start.wrapping_add(start.align_offset(LARGE_PAGE));
        // SAFETY: `host` to `host + bytes` lies within the mapping, which is LARGE_PAGE longer than that, and stays
        // mapped until `drop` has made sure that nobody else holds the region.
        let region = unsafe {
            MmapRegionBuilder::new(bytes)
                .with_raw_mmap_pointer(host)
                .with_mmap_prot(protection.bits())
                .with_mmap_flags((flags | MapFlags::MAP_ANONYMOUS).bits())
                .build()
        };
        let memory = region
            .ok()
            .and_then(|region| GuestRegionMmap::new(region, GuestAddress(layout::RAM_BASE.0)))
            .and_then(|region| GuestMemoryMmap::from_regions(vec![region]).ok());
        let Some(memory) = memory else {
            // SAFETY: the mapping was made above and nothing refers to it.
            let _ = unsafe { munmap(mapping, length.get()) };
            return Err(no_room());
        };
        if let Some(advised) = NonNull::new(host.cast()) {
            // A hint: a host without transparent huge pages refuses it and loses nothing.
            // SAFETY: the advice does not change what the memory holds.
            let _ = unsafe { madvise(advised, bytes, MmapAdvise::MADV_HUGEPAGE) };
        }
        Ok(GuestRam {
            memory: Arc::new(memory),
            mapping,
            length: length.get(),
            host,
            size: bytes,
        })
    }

    /// The memory by guest-physical address, for whoever reads and writes it.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Where it lies in this process, and its size in bytes: what KVM is told.
    pub fn host_range(&self) -> (*mut u8, usize) {
        (self.host, self.size)
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        if Arc::get_mut(&mut self.memory).is_none() {
            // A device that still holds the memory could touch it: better to keep the address space than that.
            log::error!("the guest's memory is still in use and is not returned to the host");
            return;
        }
        // SAFETY: nobody else holds the region any more (it is reached through this one Arc alone), and whoever owns
        // this value drops it after the virtual machine (`add_memory`'s condition).
        let _ = unsafe { munmap(self.mapping, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn lies_at_the_ram_base_zeroed_and_on_a_large_page() {
        let ram = GuestRam::new(8 << 20).unwrap();
        let (host, size) = ram.host_range();
        assert_eq!(size, 8 << 20);
        assert_eq!(
            host as usize % LARGE_PAGE,
            0,
            "RAM_BASE is a multiple of it"
        );
        let region = ram
            .memory()
            .find_region(GuestAddress(layout::RAM_BASE.0))
            .unwrap();
        assert_eq!(region.len(), 8 << 20);
        let last = GuestAddress(layout::RAM_BASE.0 + (8 << 20) - 8);
        assert_eq!(ram.memory().read_obj::<u64>(last).unwrap(), 0);
        ram.memory().write_obj(5_u64, last).unwrap();
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(matches!(
            GuestRam::new(1 << 60),
            Err(Error::NoHostMemory { .. })
        ));
        assert!(matches!(
            GuestRam::new(u64::MAX),
            Err(Error::NoHostMemory { .. })
        ));
    }
}
