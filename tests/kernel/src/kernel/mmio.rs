//! Device registers. Each access is one plain load or store of the width that its name says: no hypervisor has to decode
//! anything else.

use core::arch::asm;

macro_rules! access {
    ($read:ident $write:ident $type:ty, $load:literal $store:literal) => {
        /// Loads from a device register. Where nothing is, a load may trap (see [`trap::attempt`](super::trap::attempt));
        /// it then yields zero.
        pub fn $read(address: usize) -> $type {
            let mut value: $type = 0;
            // SAFETY: the addresses that the kernel loads from are devices', or of nothing: no memory of Rust's.
            unsafe {
                asm!(concat!($load, " {value}, 0({address})"), value = inout(reg) value, address = in(reg) address,
                    options(nostack))
            };
            value
        }

        /// Stores to a device register.
        pub fn $write(address: usize, value: $type) {
            // SAFETY: as for the load. A device that is told of memory keeps to what is shared with it.
            unsafe {
                asm!(concat!($store, " {value}, 0({address})"), value = in(reg) value, address = in(reg) address,
                    options(nostack))
            };
        }
    };
}

access!(read8 write8 u8, "lbu" "sb");
access!(read16 write16 u16, "lhu" "sh");
access!(read32 write32 u32, "lwu" "sw");
access!(read64 write64 u64, "ld" "sd");

/// The registers of a device, 32 bits each, by their offsets.
#[derive(Clone, Copy)]
pub struct Registers {
    base: usize,
}

impl Registers {
    /// Those at this address.
    pub const fn new(base: usize) -> Self {
        Self { base }
    }

    pub fn read(self, offset: usize) -> u32 {
        read32(self.base + offset)
    }

    pub fn write(self, offset: usize, value: u32) {
        write32(self.base + offset, value);
    }
}

/// Orders all accesses of memory and devices before this one, by this hart, before all after it.
pub fn fence() {
    // SAFETY: a fence has no other effect.
    unsafe { asm!("fence iorw, iorw", options(nostack)) };
}
