//! Virtio devices behind both forms of the virtio-mmio transport (VIRTIO 1.3). An input is a driver, of one of two kinds:
//!
//! - A well-behaved one writes to its rings only what a driver may. Its chains are any, though. After each step, the used ring has
//!   advanced by no more than what was available, each chain was used once, and memory has changed only where a buffer or a ring
//!   was the device's to write.
//! - A hostile one writes anything into registers and rings, and has a second thread do so at the same time. What has to hold then
//!   is less: no panic, nothing endless, an interrupt line that agrees with the register, and silence after a reset.

mod backends;
mod driver;

use crate::input::{Input, Script};
use driver::{Driver, Kind};

/// Options in the first byte of an input.
const LEGACY: u8 = 1;
const HOSTILE: u8 = 2;
const EVENT_IDX: u8 = 4;
const OTHER: u8 = 8;
const UNSTARTED: u8 = 16;

/// The most steps of an input.
const STEPS: usize = 48;

/// The block device.
pub fn block(data: &[u8]) {
    run(Kind::Block, data);
}

/// The network device.
pub fn net(data: &[u8]) {
    run(Kind::Net, data);
}

/// The console device.
pub fn console(data: &[u8]) {
    run(Kind::Console, data);
}

/// The entropy device.
pub fn rng(data: &[u8]) {
    run(Kind::Rng, data);
}

/// The vsock device.
pub fn vsock(data: &[u8]) {
    run(Kind::Vsock, data);
}

fn run(kind: Kind, data: &[u8]) {
    let mut input = Input::new(data);
    let options = input.byte();
    let hostile = options & HOSTILE != 0;
    let size = input.choose(&[8, 1, 2, 4, 16, 32, 64]);
    let mut driver = Driver::new(kind, options & LEGACY != 0, options & OTHER != 0, size);
    if !hostile || options & UNSTARTED == 0 {
        driver.start(options & EVENT_IDX != 0);
    }
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        match input.below(if hostile { 16 } else { 10 }) {
            0 | 1 => driver.request(&mut input),
            2 => driver.chain(&mut input),
            3 => driver.notify(&mut input),
            4 => driver.acknowledge(!hostile),
            5 => driver.host(&mut input),
            6 => driver.harmless_access(&mut input),
            7 => driver.save_and_restore(),
            8 => driver.settle(!hostile),
            9 => driver.drain(!hostile),
            10 => driver.start(input.byte() & 1 != 0),
            11 => driver.write_register(&mut input),
            12 => driver.write_anywhere(&mut input),
            13 => driver.write_memory(&mut input),
            14 => driver.write_ring(&mut input),
            _ => driver.storm(&mut input),
        }
    }
    if !hostile {
        driver.drain(true);
    }
    driver.settle(!hostile);
    driver.reset();
}

/// Requests of each kind by drivers of both kinds, in both forms of the transport.
fn seeds(host: &[u8]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for options in [0, LEGACY, EVENT_IDX, OTHER, LEGACY | EVENT_IDX | OTHER] {
        let mut script = Script::new().byte(options).byte(0);
        for kind in 0..6 {
            // A request, what the host does meanwhile, and a look at the used ring.
            script = script
                .bytes(&[0, kind])
                .bytes(&[1, 0, 2, 3, 100, 0, 1])
                .byte(3)
                .byte(0)
                .byte(5)
                .bytes(host)
                .byte(9);
        }
        seeds.push(script.clone().bytes(&[4, 7, 8]).done());
        let mut hostile = Script::new().byte(options | HOSTILE).byte(0);
        for kind in 0..4 {
            hostile = hostile
                .bytes(&[0, kind])
                .bytes(&[1, 0, 2, 3, 100, 0, 1])
                .byte(3)
                .byte(0);
        }
        seeds.push(
            hostile
                .bytes(&[14, 0, 1, 0, 4, 15, 9, 9, 9, 7, 10, 1, 15, 3, 3, 3])
                .done(),
        );
    }
    // A driver that sets itself up, register by register.
    let mut set_up = Script::new().byte(HOSTILE | UNSTARTED).byte(0);
    for (register, value) in [
        (0x70, 0_u32),
        (0x70, 3),
        (0x24, 1),
        (0x20, 1),
        (0x70, 11),
        (0x30, 0),
        (0x38, 8),
        (0x80, 0x8000_0000),
        (0x90, 0x8000_0800),
        (0xa0, 0x8000_0a00),
        (0x44, 1),
        (0x70, 15),
        (0x50, 0),
    ] {
        set_up = set_up
            .byte(11)
            .byte(register as u8 / 4)
            .byte(255)
            .u32(value);
    }
    seeds.push(set_up.bytes(&[8, 7]).done());
    seeds
}

/// Seeds for [`block`].
pub fn block_seeds() -> Vec<Vec<u8>> {
    seeds(&[0])
}

/// Seeds for [`net`]: packets arrive.
pub fn net_seeds() -> Vec<Vec<u8>> {
    seeds(&[0, 100, 0])
}

/// Seeds for [`console`]: input arrives.
pub fn console_seeds() -> Vec<Vec<u8>> {
    seeds(&[0, 0, 3, b'a', b'b', b'c'])
}

/// Seeds for [`rng`].
pub fn rng_seeds() -> Vec<Vec<u8>> {
    seeds(&[])
}

/// Seeds for [`vsock`]: clients come.
pub fn vsock_seeds() -> Vec<Vec<u8>> {
    seeds(&[0, 0, 0])
}
