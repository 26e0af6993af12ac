//! Register files, by every width: UART, real-time clock, test device, interrupt chips.

use core::sync::atomic::Ordering::Relaxed;

use super::{Adversary, CLOCK_KEPT};
use crate::kernel::csr;
use crate::kernel::machine::Chip;
use crate::kernel::{mmio, time};

/// A load of this width, by a plain instruction.
pub fn load(address: usize, width: usize) -> u64 {
    match width {
        1 => mmio::read8(address).into(),
        2 => mmio::read16(address).into(),
        4 => mmio::read32(address).into(),
        _ => mmio::read64(address),
    }
}

/// A store of this width, by a plain instruction.
pub fn store(address: usize, width: usize, value: u64) {
    match width {
        1 => mmio::write8(address, value as u8),
        2 => mmio::write16(address, value as u16),
        4 => mmio::write32(address, value as u32),
        _ => mmio::write64(address, value),
    }
}

/// The serial port: all settings, floods in loopback, and a few characters outside.
pub fn serial(me: &mut Adversary) {
    const DATA: usize = 0;
    const MODEM_CONTROL: usize = 4;
    const LOOPBACK: u64 = 1 << 4;
    let base = me.machine.uart.base;
    match me.chance.below(8) {
        0 => {
            store(base + MODEM_CONTROL, 1, LOOPBACK | me.chance.any());
            for _ in 0..me.chance.below(100) {
                store(base + DATA, 1, me.chance.any());
            }
        }
        1 => {
            for _ in 0..me.chance.below(40) {
                load(base + DATA, 1);
            }
        }
        2 => {
            for _ in 0..me.chance.below(4) {
                store(base + DATA, 1, me.chance.any());
            }
        }
        _ => {
            let width = me.chance.width();
            let register = me.chance.below(0x100 / width) * width;
            // The data register is left out, for the sake of the output's size.
            let register = (register % 8).max(width);
            match me.chance.one_in(2) {
                true => store(base + register, width, me.chance.any()),
                false => drop(load(base + register, width)),
            }
        }
    }
}

/// The clock: alarms in the past, now, soon and never, and another time.
pub fn clock(me: &mut Adversary) {
    let Some(rtc) = me.machine.rtc else {
        return;
    };
    let (width, register) = match me.chance.one_in(4) {
        true => (me.chance.width(), 8 * me.chance.below(8)),
        false => (4, 4 * me.chance.below(9)),
    };
    if me.chance.one_in(3) || CLOCK_KEPT.load(Relaxed) {
        load(rtc.base + register, width);
    } else {
        let value = me.chance.word();
        store(rtc.base + register, width, value.into());
    }
}

/// The test device: everything that is no command.
pub fn test_device(me: &mut Adversary) {
    const COMMANDS: [u16; 3] = [0x5555, 0x3333, 0x7777];
    let Some(base) = me.machine.test_device else {
        return;
    };
    let width = me.chance.width();
    let value = me.chance.any();
    let register = width * me.chance.below(16);
    if me.chance.one_in(3) || COMMANDS.contains(&(value as u16)) {
        load(base + register, width);
    } else {
        store(base + register, width, value);
    }
}

/// The interrupt chip, by its registers; and an IMSIC's own, by CSRs.
pub fn chip(me: &mut Adversary) {
    const PLIC_PARTS: [(usize, usize); 4] = [
        (0, 0x1000),
        (0x1000, 0x80),
        (0x2000, 0x800),
        (0x20_0000, 0x1_0000),
    ];
    const PLIC_SIZE: usize = 0x60_0000;
    const APLIC_SIZE: usize = 0x4000;
    let width = me.chance.width();
    let address = match &me.machine.chip {
        Chip::Plic(plic) => {
            let (start, size) = match me.chance.one_in(8) {
                true => (0, PLIC_SIZE),
                false => me.chance.of(&PLIC_PARTS),
            };
            plic.base + start + me.chance.below(size)
        }
        Chip::Aia(aia) if me.chance.one_in(2) => aia.aplic + me.chance.below(APLIC_SIZE),
        Chip::Aia(aia) => {
            if me.chance.one_in(2) {
                interrupt_file(me);
                return;
            }
            let file = me.chance.of(&aia.files);
            file.page + me.chance.below(0x1000)
        }
    };
    let address = address & !(width - 1);
    match me.chance.below(3) {
        0 => drop(load(address, width)),
        1 => store(address, width, me.chance.below(64) as u64),
        _ => store(address, width, me.chance.any()),
    }
}

/// This hart's own file (AIA specification, section 3.8). Other registers are illegal instructions.
fn interrupt_file(me: &mut Adversary) {
    const FIRST_ARRAY: usize = 0x80;
    let register = match me.chance.below(4) {
        0 => 0x70,
        1 => 0x72,
        _ => FIRST_ARRAY + 2 * me.chance.below(64),
    };
    csr_write!("0x150", register);
    match me.chance.below(4) {
        0 => drop(csr_read!("0x151")),
        1 => csr_write!("0x151", me.chance.any() as usize),
        2 => csr_set!("0x151", me.chance.any() as usize),
        _ => drop(csr::claim_top()),
    }
}

/// Loads and stores where nothing is.
pub fn nothing(me: &mut Adversary) {
    for _ in 0..4 {
        let width = me.chance.width();
        let address = me.places.nowhere(&mut me.chance);
        match me.chance.one_in(2) {
            true => drop(load(address, width)),
            false => store(address, width, me.chance.any()),
        }
    }
}

/// A moment without anything, so that devices come to do what they were told.
pub fn pause(me: &mut Adversary) {
    let end = time::now() + time::ticks(me.chance.below(200) as u64);
    while time::now() < end {
        core::hint::spin_loop();
    }
}
