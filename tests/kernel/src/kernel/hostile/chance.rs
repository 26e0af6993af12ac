//! Random numbers, the same for the same seed, and addresses and sizes that are worth trying.

use core::ops::Range;

use crate::kernel::boot;
use crate::kernel::machine::{Chip, Machine};
use arrayvec::ArrayVec;

/// A generator of pseudo-random numbers (xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift generators").
pub struct Chance(u64);

impl Chance {
    /// One that begins with this number.
    pub fn new(seed: u64) -> Self {
        // The state must not be zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// What a later [`Chance::new`] goes on with.
    pub fn state(&self) -> u64 {
        self.0
    }

    pub fn any(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.any() >> 16) as usize % limit.max(1)
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A width of a load or store, bytes.
    pub fn width(&mut self) -> usize {
        self.of(&[1, 2, 4, 4, 4, 8])
    }

    /// A 32-bit number for a register.
    pub fn word(&mut self) -> u32 {
        match self.below(8) {
            0..3 => self.below(20) as u32,
            3 => 1 << self.below(32),
            4 => u32::MAX - self.below(3) as u32,
            5 => self.below(0x1_0000) as u32,
            _ => self.any() as u32,
        }
    }

    /// The length of a buffer, bytes: usually one that makes sense.
    pub fn length(&mut self) -> u32 {
        match self.below(16) {
            0 => 0,
            1 => 1,
            2 => u32::MAX,
            3 => 1 << 31,
            4 => self.any() as u32,
            5 => self.below(0x1_0000) as u32,
            6 => 0x1000 * (1 + self.below(64) as u32),
            _ => 512 * (1 + self.below(16) as u32),
        }
    }
}

/// Nobody's addresses on the board: QEMU's ROM, the CLINT, the platform bus, fw_cfg, flash, PCI's configuration space and windows.
const HOLES: [usize; 11] = [
    0x1000,
    0x200_0000,
    0x200_bff8,
    0x400_0000,
    0x1010_0000,
    0x2000_0000,
    0x2400_0000,
    0x3000_0000,
    0x4000_0000,
    0x7000_0000,
    0x4_0000_0000,
];

/// The pages of device registers that are tried.
const MAX_DEVICES: usize = 24;

/// From the start of RAM to the memory that devices are given.
const PLAYGROUND: usize = 32 << 20;

/// Bytes of it.
const PLAYGROUND_SIZE: usize = 8 << 20;

/// Bytes at its start for rings, so that rings meet.
const RINGS_SIZE: usize = 1 << 20;

/// From one place for a ring to the next, bytes.
const RING_STRIDE: usize = 0x2000;

/// What a device may write behind an address that it is given, at most, bytes: a used ring of 32768 entries.
const REACH: usize = 1 << 20;

/// The page sizes that a legacy driver sets, bytes: with them, no page number leads to the kernel.
pub const PAGE_SIZES: [u32; 7] = [4096, 0, 1, 512, 8192, 1 << 31, u32::MAX];

/// Addresses. None of them has a device write to this kernel, which is to see the end.
pub struct Places {
    ram: Range<usize>,
    image: Range<usize>,
    devices: ArrayVec<usize, MAX_DEVICES>,
}

impl Places {
    /// Those of a machine, if it has RAM enough.
    pub fn new(machine: &Machine) -> Option<Self> {
        let image = boot::image();
        let playground = machine.ram_start + PLAYGROUND;
        if playground + 2 * PLAYGROUND_SIZE > machine.ram_end || image.end + REACH > playground {
            return None;
        }
        let mut devices = ArrayVec::new();
        let slots = machine.virtio.iter().map(|slot| slot.base);
        let others = [machine.uart.base, machine.rtc.map_or(0, |rtc| rtc.base)];
        let chip = match &machine.chip {
            Chip::Plic(plic) => plic.base,
            Chip::Aia(aia) => aia.aplic,
        };
        for base in slots.chain(others).chain([chip]) {
            let _ = devices.try_push(base);
        }
        Some(Self {
            ram: machine.ram_start..machine.ram_end,
            image,
            devices,
        })
    }

    /// Whether the low half of an address, with whatever upper half, keeps away from the kernel.
    fn is_harmless(&self, address: usize) -> bool {
        let low = address as u32 as usize;
        !(self.image.start - REACH..self.image.end).contains(&low)
    }

    /// Whether a word is harmless in every register of a transport, as half of an address or as a page number.
    pub fn is_harmless_word(&self, word: u32) -> bool {
        let pages = PAGE_SIZES.map(|size| word as usize * size as usize);
        let addresses = [word as usize, (word as usize) << 12];
        pages
            .into_iter()
            .chain(addresses)
            .all(|address| self.is_harmless(address))
    }

    /// A place for a ring.
    pub fn ring(&self, chance: &mut Chance) -> usize {
        self.ram.start + PLAYGROUND + RING_STRIDE * chance.below(RINGS_SIZE / RING_STRIDE)
    }

    /// A place for a buffer.
    pub fn buffer(&self, chance: &mut Chance) -> usize {
        let offset = chance.below(PLAYGROUND_SIZE - RINGS_SIZE);
        let aligned = match chance.below(8) {
            0 => offset,
            1 => offset & !0xfff,
            _ => offset & !0x3f,
        };
        self.ram.start + PLAYGROUND + RINGS_SIZE + aligned
    }

    /// Whether so many bytes are this guest's to write.
    pub fn is_playground(&self, address: usize, length: usize) -> bool {
        let start = self.ram.start + PLAYGROUND;
        (start..start + PLAYGROUND_SIZE - length).contains(&address)
    }

    /// An address of any kind.
    pub fn any(&self, chance: &mut Chance) -> usize {
        loop {
            let small = 1 << chance.below(14);
            let address = match chance.below(16) {
                0..4 => self.buffer(chance),
                4 => self.ring(chance),
                5 => self.image.end + REACH + chance.below(PLAYGROUND),
                6 | 7 => self.ram.end - small,
                8 => self.ram.end + small - 1,
                9 => self.ram.start - small,
                10 | 11 => chance.of(&self.devices) + (chance.below(0x200) & !3),
                12 => chance.of(&HOLES),
                13 => 0_usize.wrapping_sub(small),
                14 => (1 << (32 + chance.below(32))) - small,
                _ => chance.any() as usize,
            };
            if self.is_harmless(address) {
                return address;
            }
        }
    }

    /// An address where there is neither memory nor a device.
    pub fn nowhere(&self, chance: &mut Chance) -> usize {
        match chance.below(4) {
            0 => self.ram.end + (chance.below(1 << 16) & !7),
            1 => (1 << (38 + chance.below(18))) + 8 * chance.below(64),
            _ => chance.of(&HOLES) + 8 * chance.below(64),
        }
    }

    /// A device's register, or where one might be.
    pub fn register(&self, chance: &mut Chance) -> usize {
        chance.of(&self.devices) + (chance.below(0x200) & !7)
    }
}
