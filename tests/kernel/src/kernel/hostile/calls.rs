//! Calls of the SBI: every extension and function with any argument, harts that start and stop each other, fences, and the debug
//! console.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sbi_spec::hsm::EID_HSM;
use sbi_spec::rfnc::EID_RFNC;
use sbi_spec::srst::EID_SRST;

use super::{Adversary, State, entry, seat};
use crate::kernel::csr::{SOFTWARE, SSTATUS_SIE, TIMER};
use crate::kernel::{sbi, time, timer};

const DBCN: usize = 0x4442_434e;
const SUSP: usize = 0x5355_5350;
const FWFT: usize = 0x4657_4654;
const LEGACY_SHUTDOWN: usize = 8;

/// BASE, TIME, IPI, RFNC, SRST, PMU, DBCN, SUSP, CPPC, NACL, STA, FWFT; the first of the vendors' and of the experimental ones.
const EXTENSIONS: [usize; 14] = [
    0x10,
    0x5449_4d45,
    0x73_5049,
    EID_RFNC,
    EID_SRST,
    0x50_4d55,
    DBCN,
    SUSP,
    0x4350_5043,
    0x4e41_434c,
    0x53_5441,
    FWFT,
    0x0900_0000,
    0x0800_0000,
];

fn argument(me: &mut Adversary) -> usize {
    match me.chance.below(6) {
        0 => me.chance.below(8),
        1 => usize::MAX - me.chance.below(3),
        2 => me.chance.word() as usize,
        3 => 1 << me.chance.below(64),
        _ => me.places.any(&mut me.chance),
    }
}

fn arguments(me: &mut Adversary) -> [usize; 6] {
    core::array::from_fn(|_| argument(me))
}

/// Any call but those that end the machine or this hart, or change what this kernel relies on.
pub fn any(me: &mut Adversary) {
    let extension = match me.chance.below(8) {
        0 => me.chance.below(LEGACY_SHUTDOWN),
        1 => me.chance.any() as usize,
        _ => me.chance.of(&EXTENSIONS),
    };
    let function = match me.chance.one_in(8) {
        true => argument(me),
        false => me.chance.below(10),
    };
    call(me, extension, function);
}

fn call(me: &mut Adversary, extension: usize, function: usize) {
    let mut with = arguments(me);
    match extension {
        EID_HSM => return,
        LEGACY_SHUTDOWN => return,
        // Types that there are would end it.
        EID_SRST => with[0] |= 4,
        // A machine that suspends waits for this hart's timer.
        SUSP => with[0] |= 4,
        // Not the features that code has to be made for: landing pads, shadow stacks, double traps.
        FWFT => with[1] = 0,
        DBCN => return console(me),
        _ => {}
    }
    sbi::call(extension, function, &with);
}

/// The performance counters.
pub fn counters(me: &mut Adversary) {
    const PMU: usize = 0x50_4d55;
    let function = me.chance.below(10);
    call(me, PMU, function);
}

/// Remote fences of every kind, for any harts and any range.
pub fn fences(me: &mut Adversary) {
    let function = me.chance.below(8);
    let mut with = arguments(me);
    if me.chance.one_in(2) {
        // All harts.
        (with[0], with[1]) = (usize::MAX, usize::MAX);
    }
    sbi::call(EID_RFNC, function, &with);
}

/// Whether much was printed at once, which is done once in a boot.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// The debug console, with memory that there is, is not, or is only in part.
pub fn console(me: &mut Adversary) {
    const MUCH: usize = 64 << 10;
    let address = me.places.any(&mut me.chance);
    let high = match me.chance.one_in(4) {
        true => argument(me),
        false => 0,
    };
    match me.chance.below(8) {
        // What is beyond RAM or beyond all addresses is refused as a whole.
        0 => drop(sbi::call(DBCN, 0, &[usize::MAX, address, high])),
        1 => drop(sbi::call(DBCN, 0, &[1 << 40, address, high])),
        2 => drop(sbi::call(DBCN, 1, &[usize::MAX, address, high])),
        3 => drop(sbi::call(DBCN, 1, &[me.chance.below(64), address, high])),
        4 => drop(sbi::call(DBCN, 2, &[argument(me), 0, 0])),
        5 => drop(sbi::call(DBCN, 3 + me.chance.below(9), &[8, address, 0])),
        6 if !PRINTED.swap(true, Relaxed) => {
            let buffer = me.places.ring(&mut me.chance);
            sbi::call(DBCN, 0, &[MUCH, buffer, 0]);
        }
        _ => drop(sbi::call(DBCN, 0, &[me.chance.below(16), address, high])),
    }
}

/// Has this hart wake up soon. No interrupt is taken until then: the timer's could be gone before the hart sleeps.
pub fn wake_soon(me: &mut Adversary) {
    csr_clear!("sstatus", SSTATUS_SIE);
    let soon = me.chance.below(500) as u64;
    timer::set(time::now() + time::ticks(soon));
    csr_set!("sie", TIMER);
}

/// Harts that start, stop, suspend and interrupt each other.
pub fn harts(me: &mut Adversary) {
    let harts = &me.machine.harts;
    let index = me.chance.below(harts.len());
    let hart = match me.chance.one_in(8) {
        true => argument(me),
        false => harts[index],
    };
    match me.chance.below(10) {
        0 => drop(sbi::hsm::status(hart)),
        1..4 => {
            // A hart that there is starts where it can.
            if let Some(index) = harts.iter().position(|id| *id == hart) {
                sbi::hsm::start(hart, entry(), seat(index));
            } else {
                let address = me.places.any(&mut me.chance);
                sbi::hsm::start(hart, address, 0);
            }
        }
        4 => {
            let with = arguments(me);
            sbi::ipi::send(with[0], with[1]);
        }
        5 => {
            csr_set!("sie", SOFTWARE);
            sbi::ipi::send(usize::MAX, usize::MAX);
        }
        6 if !me.is_boot_hart() => {
            me.leave(State::Out);
            sbi::hsm::stop();
            me.come_back();
        }
        7 if !me.is_boot_hart() => {
            const NON_RETENTIVE: usize = 0x8000_0000;
            wake_soon(me);
            me.leave(State::Out);
            let resume = [NON_RETENTIVE, entry(), seat(me.index)];
            sbi::call(EID_HSM, 3, &resume);
            me.come_back();
        }
        8 => {
            wake_soon(me);
            sbi::call(EID_HSM, 3, &[0, 0, 0]);
        }
        _ => {
            // Types that are reserved or unknown.
            let (kind, address) = (1 + me.chance.below(0x1000), me.places.any(&mut me.chance));
            sbi::call(EID_HSM, 3, &[kind, address, 0]);
            sbi::call(EID_HSM, 4 + me.chance.below(8), &[kind, address, 0]);
        }
    }
}
