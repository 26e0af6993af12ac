//! A guest's RAM, as the hypervisor reads and writes it.

use core::ops::Range;

use hv_core::addr::{GuestPhysAddr, HostPhysAddr};
use hv_core::sbi::BadMemory;

/// The RAM of a guest: one range of guest-physical addresses, somewhere in the host.
#[derive(Debug)]
pub struct GuestMemory {
    base: GuestPhysAddr,
    host: HostPhysAddr,
    size: u64,
}

impl GuestMemory {
    /// The `size` bytes at `host`, which the guest has at `base`.
    ///
    /// # Safety
    /// They are RAM that nothing of the hypervisor is in.
    pub const unsafe fn new(base: GuestPhysAddr, host: HostPhysAddr, size: u64) -> Self {
        Self { base, host, size }
    }

    /// Guest-physical.
    pub fn range(&self) -> Range<u64> {
        self.base.0..self.base.0.saturating_add(self.size)
    }

    /// Whether all of the `size` bytes from `address` are RAM.
    pub fn contains(&self, address: GuestPhysAddr, size: u64) -> bool {
        self.find(address, size).is_some()
    }

    /// Fills `buffer` from `address` on.
    pub fn read(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), BadMemory> {
        let from = self.find(address, buffer.len() as u64).ok_or(BadMemory)?;
        // SAFETY: all of it is the guest's RAM, which no reference of the hypervisor's points into. The guest may write at the
        // same time; what is read then is bytes all the same.
        unsafe {
            core::ptr::copy_nonoverlapping(from as *const u8, buffer.as_mut_ptr(), buffer.len())
        };
        Ok(())
    }

    /// Writes `bytes` from `address` on.
    pub fn write(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), BadMemory> {
        let to = self.find(address, bytes.len() as u64).ok_or(BadMemory)?;
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    /// Makes all of it zero. What is zero already is only read: an emulated host takes memory of its own host when memory is
    /// written.
    pub fn clear(&self) {
        const PIECE: usize = 4096;
        for offset in (0..self.size).step_by(PIECE) {
            let piece = (self.host.0.saturating_add(offset)) as *mut u64;
            // SAFETY: it is the guest's RAM, which begins and ends on pages; none of the guest's harts runs, and no reference of
            // the hypervisor's points there.
            unsafe {
                let words = core::slice::from_raw_parts(piece, PIECE / size_of::<u64>());
                if words.iter().fold(0, |all, word| all | word) != 0 {
                    core::ptr::write_bytes(piece, 0, words.len());
                }
            }
        }
    }

    /// Where in the host `address` is, if all of the `size` bytes there are RAM.
    fn find(&self, address: GuestPhysAddr, size: u64) -> Option<u64> {
        let offset = address.checked_offset_from(self.base)?;
        let end = offset.checked_add(size)?;
        if end > self.size {
            return None;
        }
        self.host.0.checked_add(offset)
    }
}
