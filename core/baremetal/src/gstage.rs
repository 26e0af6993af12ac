//! Second-stage page tables: translation of guest-physical to host-physical addresses (privileged specification,
//! section 21.5, "Two-Stage Address Translation").
//!
//! A table has as many levels as the mode says. The root table is four pages, because a guest-physical address has two
//! bits more than the mode's name; all others are one page. Every level below the fourth can hold leaves: 4 KiB, 2 MiB
//! and 1 GiB pages are used, the largest that fits.

use hv_core::addr::{GuestPhysAddr, HostPhysAddr};

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// Bytes in the largest page that is used.
pub const LARGEST_PAGE: u64 = 1 << 30;

/// Pages in the root table, which is aligned to its size.
pub const ROOT_PAGES: u64 = 4;

/// The first host-physical address that no entry can point to (section 12.4.1: page numbers have 44 bits).
const HOST_LIMIT: u64 = 1 << 56;

/// The levels that leaves are put into, from the largest page down.
const LEAF_LEVELS: [u32; 3] = [2, 1, 0];

mod pte {
    pub const VALID: u64 = 1 << 0;
    pub const READ: u64 = 1 << 1;
    pub const WRITE: u64 = 1 << 2;
    pub const EXECUTE: u64 = 1 << 3;
    /// Every access of a guest counts as one of U-mode (section 21.5.1).
    pub const USER: u64 = 1 << 4;
    /// Set from the start, so that neither hardware nor a trap has to.
    pub const ACCESSED: u64 = 1 << 6;
    pub const DIRTY: u64 = 1 << 7;
    pub const LEAF: u64 = READ | WRITE | EXECUTE;
    /// From a page number's bits to those of the address.
    pub const NUMBER_SHIFT: u32 = 10;
    pub const NUMBER_MASK: u64 = (1 << 44) - 1;
}

/// The translation mode, numbered as in `hgatp` (section 21.2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// 41-bit guest-physical addresses, three levels.
    Sv39x4 = 8,
    /// 50-bit guest-physical addresses, four levels.
    Sv48x4 = 9,
    /// 59-bit guest-physical addresses, five levels.
    Sv57x4 = 10,
}

impl Mode {
    /// All modes, from the one of fewest levels.
    pub const ALL: [Self; 3] = [Self::Sv39x4, Self::Sv48x4, Self::Sv57x4];

    const fn levels(self) -> u32 {
        match self {
            Self::Sv39x4 => 3,
            Self::Sv48x4 => 4,
            Self::Sv57x4 => 5,
        }
    }

    /// The first guest-physical address that has no translation.
    #[must_use]
    pub const fn limit(self) -> u64 {
        match self {
            Self::Sv39x4 => 1 << 41,
            Self::Sv48x4 => 1 << 50,
            Self::Sv57x4 => 1 << 59,
        }
    }

    /// Which entry of a table of `level` translates `address`. The root has 2048 entries, the others 512.
    const fn index(self, level: u32, address: u64) -> u64 {
        let shift = page_shift(level);
        let mask = if level.saturating_add(1) == self.levels() {
            0x7ff
        } else {
            0x1ff
        };
        address >> shift & mask
    }
}

/// What a guest may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// Memory: read, write and execute.
    Memory,
    /// A device: read and write.
    Device,
}

impl Permissions {
    const fn bits(self) -> u64 {
        match self {
            Self::Memory => pte::READ | pte::WRITE | pte::EXECUTE,
            Self::Device => pte::READ | pte::WRITE,
        }
    }
}

/// Why something was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No memory is left for a table.
    #[error("no memory is left for page tables")]
    NoMemory,
    /// An address or a size is not a multiple of a page.
    #[error("{0:#x} is not a multiple of the page size")]
    Unaligned(u64),
    /// A range ends beyond what the mode can translate, or leads to beyond what an entry can hold.
    #[error("{0:#x} is beyond what the hart's second-stage translation reaches")]
    TooHigh(u64),
    /// Something is mapped there already.
    #[error("something is mapped at {0} already")]
    Mapped(GuestPhysAddr),
}

/// The memory that tables are made of.
pub trait Tables {
    /// `pages` pages in a row, all zero, aligned to their size together.
    fn allocate(&mut self, pages: u64) -> Option<HostPhysAddr>;

    /// The entry at `address`, which lies in memory that came from [`allocate`](Self::allocate).
    fn read(&self, address: HostPhysAddr) -> u64;

    /// Sets the entry at `address`, as [`read`](Self::read) reads it.
    fn write(&mut self, address: HostPhysAddr, entry: u64);
}

/// The tables of one guest.
#[derive(Debug)]
pub struct GStage<T> {
    mode: Mode,
    root: HostPhysAddr,
    tables: T,
}

impl<T: Tables> GStage<T> {
    /// Tables that translate nothing.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn new(mode: Mode, mut tables: T) -> Result<Self, Error> {
        let root = tables.allocate(ROOT_PAGES).ok_or(Error::NoMemory)?;
        Ok(Self { mode, root, tables })
    }

    /// What `hgatp` holds for a guest of this id.
    #[must_use]
    pub const fn hgatp(&self, vmid: u16) -> u64 {
        ((self.mode as u64) << 60) | ((vmid as u64 & 0x3fff) << 44) | (self.root.0 / PAGE)
    }

    /// Lets the guest reach the `size` bytes from `host` at `guest`. All three are multiples of [`PAGE`].
    ///
    /// # Errors
    /// An [`Error`]; of the range, what came before it is mapped then.
    pub fn map(
        &mut self,
        guest: GuestPhysAddr,
        host: HostPhysAddr,
        size: u64,
        permissions: Permissions,
    ) -> Result<(), Error> {
        for number in [guest.0, host.0, size] {
            if !number.is_multiple_of(PAGE) {
                return Err(Error::Unaligned(number));
            }
        }
        let end = guest.checked_add(size).ok_or(Error::TooHigh(u64::MAX))?;
        if end.0 > self.mode.limit() {
            return Err(Error::TooHigh(end.0));
        }
        let host_end = host.checked_add(size);
        if host_end.is_none_or(|end| end.0 > HOST_LIMIT) {
            return Err(Error::TooHigh(host.0));
        }
        let mut done = 0_u64;
        while done < size {
            let next = |base: u64| base.saturating_add(done);
            let (at, to) = (next(guest.0), next(host.0));
            let left = size.saturating_sub(done);
            let fits = |level: &u32| {
                let page = page_size(*level);
                at.is_multiple_of(page) && to.is_multiple_of(page) && left >= page
            };
            let level = LEAF_LEVELS.into_iter().find(fits).unwrap_or(0);
            self.map_page(GuestPhysAddr(at), HostPhysAddr(to), level, permissions)?;
            done = done.saturating_add(page_size(level));
        }
        Ok(())
    }

    /// Where a guest's address leads, or `None` if nowhere.
    #[must_use]
    pub fn translate(&self, address: GuestPhysAddr) -> Option<HostPhysAddr> {
        if address.0 >= self.mode.limit() {
            return None;
        }
        let mut table = self.root;
        for level in (0..self.mode.levels()).rev() {
            let entry = self.tables.read(self.entry(table, level, address)?);
            if entry & pte::VALID == 0 {
                return None;
            }
            if entry & pte::LEAF != 0 {
                let offset = address.0 & page_size(level).saturating_sub(1);
                return pointed_to(entry).checked_add(offset);
            }
            table = pointed_to(entry);
        }
        None
    }

    fn map_page(
        &mut self,
        guest: GuestPhysAddr,
        host: HostPhysAddr,
        leaf: u32,
        permissions: Permissions,
    ) -> Result<(), Error> {
        let too_high = || Error::TooHigh(guest.0);
        let mut table = self.root;
        for level in (leaf..self.mode.levels()).rev() {
            let at = self.entry(table, level, guest).ok_or_else(too_high)?;
            let entry = self.tables.read(at);
            if level == leaf {
                if entry & pte::VALID != 0 {
                    return Err(Error::Mapped(guest));
                }
                let bits = permissions.bits() | pte::USER | pte::ACCESSED | pte::DIRTY;
                self.tables.write(at, pointer(host) | bits | pte::VALID);
            } else if entry & pte::VALID == 0 {
                table = self.tables.allocate(1).ok_or(Error::NoMemory)?;
                self.tables.write(at, pointer(table) | pte::VALID);
            } else if entry & pte::LEAF != 0 {
                return Err(Error::Mapped(guest));
            } else {
                table = pointed_to(entry);
            }
        }
        Ok(())
    }

    /// Where the entry is that translates `address` in a table of `level`.
    fn entry(
        &self,
        table: HostPhysAddr,
        level: u32,
        address: GuestPhysAddr,
    ) -> Option<HostPhysAddr> {
        table.checked_add(self.mode.index(level, address.0).saturating_mul(8))
    }
}

const fn page_shift(level: u32) -> u32 {
    level.saturating_mul(9).saturating_add(12)
}

const fn page_size(level: u32) -> u64 {
    1 << page_shift(level)
}

/// The address in an entry's bits.
const fn pointer(address: HostPhysAddr) -> u64 {
    (address.0 / PAGE) << pte::NUMBER_SHIFT
}

const fn pointed_to(entry: u64) -> HostPhysAddr {
    HostPhysAddr((entry >> pte::NUMBER_SHIFT & pte::NUMBER_MASK).saturating_mul(PAGE))
}

#[cfg(test)]
mod tests;
