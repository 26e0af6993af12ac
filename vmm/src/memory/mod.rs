//! The guest's RAM: one anonymous mapping of this process, placed so that the G-stage can use large pages.
//!
//! They are transparent huge pages, which KVM maps as such from Linux 7.0 on, or pages that the host has reserved
//! (hugetlbfs), which every KVM maps so.

pub mod huge_pages;

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;

use hv_core::layout;
use hv_devices::memory::{GuestMemoryMmap, GuestRegionMmap};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryBackend, ReadVolatile, VolatileMemoryError};

use crate::Error;
use crate::memory::huge_pages::{HugePages, ReservedHugePages};

/// What a large page of the G-stage covers, bytes. KVM maps guest memory with such pages where the host address equals
/// the guest-physical address modulo this size.
const LARGE_PAGE: usize = 2 << 20;

/// The size of the host's huge pages that memory can be made of, bytes.
pub const HUGE_PAGE: u64 = LARGE_PAGE as u64;

/// What can be done with RAM: every page of it is like any other.
const PROTECTION: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Reads `length` bytes of `source` into guest memory at `address`.
///
/// vm-memory's `read_exact_volatile_from` makes one system call. That may bring less than was asked for: on network file
/// systems without a cache, and always from 2 GiB on.
///
/// # Errors
/// The guest has no memory there, or `source` ends or fails before.
pub fn fill(
    memory: &GuestMemoryMmap,
    address: GuestAddress,
    source: &mut impl ReadVolatile,
    length: usize,
) -> io::Result<()> {
    let mut slice = memory
        .get_slice(address, length)
        .map_err(io::Error::other)?;
    source
        .read_exact_volatile(&mut slice)
        .map_err(|error| match error {
            VolatileMemoryError::IOError(error) => error,
            other => io::Error::other(other),
        })
}

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

// SAFETY: both pointers are addresses of a mapping that is this value's alone and belongs to the whole process. They are
// only used for `munmap` and as numbers for KVM; all accesses go through `memory`, which may be used by any thread.
unsafe impl Send for GuestRam {}

impl GuestRam {
    /// Reserves `size` bytes of address space, a multiple of the host's page size. The host backs them with transparent huge
    /// pages where it can.
    ///
    /// # Errors
    /// The host has no room for so much.
    pub fn new(size: u64) -> Result<GuestRam, Error> {
        let no_room = || Error::NoHostMemory { size };
        let bytes = usize::try_from(size).map_err(|_| no_room())?;
        let length = bytes
            .checked_add(LARGE_PAGE)
            .and_then(NonZeroUsize::new)
            .ok_or_else(no_room)?;
        // Pages that the guest never touches must cost the host nothing: hence no reservation of swap space.
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that is in use.
        let mapping =
            unsafe { mmap_anonymous(None, length, PROTECTION, flags) }.map_err(|_| no_room())?;
        // SAFETY: the mapping was made for this alone, and is LARGE_PAGE longer than `bytes`.
        let ram = unsafe { GuestRam::in_mapping(mapping, length, bytes, flags) }?;
        if let Some(advised) = NonNull::new(ram.host.cast()) {
            // A hint: a host without transparent huge pages refuses it and loses nothing.
            // SAFETY: the advice does not change what the memory holds.
            let _ = unsafe { madvise(advised, bytes, MmapAdvise::MADV_HUGEPAGE) };
        }
        Ok(ram)
    }

    /// Takes `size` bytes, a multiple of [`HUGE_PAGE`], of the host's reserved huge pages. From then on they are this guest's,
    /// whether or not it touches them. `pages` are the counts to look at if there are too few.
    ///
    /// # Errors
    /// The host has not so many.
    pub fn of_huge_pages(size: u64, pages: &ReservedHugePages) -> Result<GuestRam, Error> {
        let no_room = || Error::NoHostMemory { size };
        let bytes = usize::try_from(size).map_err(|_| no_room())?;
        let length = NonZeroUsize::new(bytes).ok_or_else(no_room)?;
        // Without MAP_NORESERVE, so that a lack of pages shows here and not when the guest touches one (mmap(2)).
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that is in use.
        let mapping = unsafe { mmap_anonymous(None, length, PROTECTION, flags) }.map_err(|_| {
            pages
                .look()
                .map_or(Error::NoHugePages, |pages| lack(pages, size))
        })?;
        // SAFETY: the mapping was made for this alone; one of huge pages begins with a page, at a multiple of its size.
        unsafe { GuestRam::in_mapping(mapping, length, bytes, flags) }
    }

    /// RAM of `size` bytes, from the first large page of a mapping on, which it owns from then on.
    ///
    /// # Safety
    /// Nothing else uses the mapping, which reaches `size` bytes beyond its first large page.
    unsafe fn in_mapping(
        mapping: NonNull<libc::c_void>,
        length: NonZeroUsize,
        size: usize,
        flags: MapFlags,
    ) -> Result<GuestRam, Error> {
        let start = mapping.as_ptr().cast::<u8>();
        // RAM_BASE is itself a multiple of the large page.
        let host = start.wrapping_add(start.align_offset(LARGE_PAGE));
        // SAFETY: `host` to `host + size` lies within the mapping, as the caller has seen to, and stays mapped until
        // `drop` has made sure that nobody else holds the region.
        let region = unsafe {
            MmapRegionBuilder::new(size)
                .with_raw_mmap_pointer(host)
                .with_mmap_prot(PROTECTION.bits())
                .with_mmap_flags((flags | MapFlags::MAP_ANONYMOUS).bits())
                .build()
        };
        let memory = region
            .ok()
            .and_then(|region| GuestRegionMmap::new(region, GuestAddress(layout::RAM_BASE.0)))
            .and_then(|region| GuestMemoryMmap::from_regions(vec![region]).ok());
        let Some(memory) = memory else {
            // SAFETY: the mapping is the caller's, who gave it away, and nothing refers to it.
            let _ = unsafe { munmap(mapping, length.get()) };
            return Err(Error::NoHostMemory { size: size as u64 });
        };
        Ok(GuestRam {
            memory: Arc::new(memory),
            mapping,
            length: length.get(),
            host,
            size,
        })
    }

    /// The memory by guest-physical address, for devices and loaders.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Where it lies in this process, and its size in bytes: what KVM is told.
    pub fn host_range(&self) -> (*mut u8, usize) {
        (self.host, self.size)
    }
}

/// Why the host did not give out huge pages for `size` bytes.
fn lack(pages: HugePages, size: u64) -> Error {
    let wanted = size.div_ceil(HUGE_PAGE);
    match wanted.checked_sub(pages.free) {
        None | Some(0) => Error::NoHostMemory { size },
        Some(more) => Error::TooFewHugePages {
            wanted,
            free: pages.free,
            enough: pages.total.saturating_add(more),
        },
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        if Arc::get_mut(&mut self.memory).is_none() {
            // A device that still holds the memory could touch it: better to keep the address space than that.
            log::error!("the guest's memory is still in use and is not returned to the host");
            return;
        }
        // SAFETY: this is the last reference to the region (it is reached through this one Arc alone), and the owner of
        // this value drops it after the virtual machine (`add_memory`'s condition).
        let _ = unsafe { munmap(self.mapping, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::bitmap::BitmapSlice;
    use vm_memory::{Bytes, GuestMemoryRegion, VolatileSlice};

    /// A file system that answers each read with at most three bytes.
    struct InPieces<'a>(&'a [u8]);

    impl ReadVolatile for InPieces<'_> {
        fn read_volatile<B: BitmapSlice>(
            &mut self,
            buffer: &mut VolatileSlice<B>,
        ) -> Result<usize, VolatileMemoryError> {
            let length = buffer.len().min(3).min(self.0.len());
            let (piece, rest) = self.0.split_at(length);
            buffer.write_slice(piece, 0)?;
            self.0 = rest;
            Ok(length)
        }
    }

    #[test]
    fn a_file_that_comes_in_pieces_arrives_whole() {
        let ram = GuestRam::new(HUGE_PAGE).unwrap();
        let address = GuestAddress(layout::RAM_BASE.0 + 5);
        let text = b"more than one piece";
        fill(ram.memory(), address, &mut InPieces(text), text.len()).unwrap();
        let mut read = [0; 19];
        ram.memory().read_slice(&mut read, address).unwrap();
        assert_eq!(&read, text);
        let error = fill(ram.memory(), address, &mut InPieces(text), text.len() + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let end = GuestAddress(layout::RAM_BASE.0 + HUGE_PAGE - 1);
        assert!(fill(ram.memory(), end, &mut InPieces(text), 2).is_err());
    }

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

    /// Whether all of this lies in one mapping of this process that can be read and written.
    fn is_mapped(start: *mut u8, size: usize) -> bool {
        let (start, end) = (start as usize, start as usize + size);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            rest.starts_with("rw") && number(from) <= start && end <= number(to)
        })
    }

    /// A reboot makes new RAM, so what is not returned is lost for good. Large, so that nothing else takes its place meanwhile.
    #[test]
    fn memory_is_returned_unless_somebody_holds_it() {
        const SIZE: u64 = 64 << 30;
        let ram = GuestRam::new(SIZE).unwrap();
        let (host, size) = ram.host_range();
        assert!(is_mapped(host, size), "all of it");
        let region = ram.memory().iter().next().unwrap();
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_ANONYMOUS;
        assert_eq!(region.flags(), flags);
        drop(ram);
        assert!(!is_mapped(host, size), "it is returned");

        let ram = GuestRam::new(SIZE).unwrap();
        let (host, size) = ram.host_range();
        let held = ram.memory().clone();
        drop(ram);
        assert!(is_mapped(host, size), "a device may still use it");
        let last = GuestAddress(layout::RAM_BASE.0 + SIZE - 8);
        held.write_obj(5_u64, last).unwrap();
    }

    #[test]
    fn a_lack_of_huge_pages_says_how_many_to_reserve() {
        // 12 pages, 3 of them free, and a guest of 8.
        let error = lack(HugePages { total: 12, free: 3 }, 16 << 20);
        assert!(
            matches!(
                error,
                Error::TooFewHugePages {
                    wanted: 8,
                    free: 3,
                    enough: 17
                }
            ),
            "{error}"
        );
        // The pages are there, and something else is in the way.
        let error = lack(HugePages { total: 12, free: 8 }, 16 << 20);
        assert!(matches!(error, Error::NoHostMemory { .. }), "{error}");
    }

    #[test]
    fn a_host_with_huge_pages_is_seen_to_have_them() {
        let directory = std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
        let reserved = ReservedHugePages::open();
        assert_eq!(reserved.look().is_some(), directory.exists());
    }

    /// No host has this many, whether or not its kernel knows huge pages.
    #[test]
    fn too_many_huge_pages_are_an_error() {
        let error = GuestRam::of_huge_pages(1 << 50, &ReservedHugePages::open()).unwrap_err();
        assert!(
            matches!(error, Error::TooFewHugePages { .. } | Error::NoHugePages),
            "{error}"
        );
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
