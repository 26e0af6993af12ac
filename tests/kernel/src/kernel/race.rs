//! Ends while harts are on their way: two harts start a third over and over, which stops itself at once, and one of the others
//! resets the machine or switches it off meanwhile. A hypervisor has to stop all of them, whatever each is doing, and what begins
//! after that is a machine as good as new.

use core::arch::global_asm;

use super::machine::Machine;
use super::rtc::Alarm;
use super::{mmio, power, sbi, smp, time};

/// How long harts start each other before the end, in microseconds.
const WHILE: u64 = 2000;

// A hart that stops itself with the first thing it does (SBI 3.0, "Function: Hart stop").
global_asm!(
    ".pushsection .text.stops, \"ax\"",
    ".globl stops_at_once",
    "stops_at_once:",
    "    li a7, 0x48534d",
    "    li a6, 1",
    "    ecall",
    "    j stops_at_once",
    ".popsection",
);

unsafe extern "C" {
    safe fn stops_at_once();
}

/// What the clock is set ahead with each reset, nanoseconds: the only thing that a reset leaves as it was. The machine's own time
/// is later than that of any number of resets.
const COUNT: u64 = 1_000_000_000_000_000;
const MAX_RESETS: u64 = 1000;

/// Races to a reset as often as the command line says, and then to being switched off. It takes four harts.
pub fn run(machine: &Machine, resets: u64) -> ! {
    let (Some(rtc), &[_, _, _, restarted]) = (machine.rtc, machine.harts.as_slice()) else {
        println!("there are not four harts and a clock");
        power::fail(1)
    };
    let clock = Alarm::new(rtc.base);
    let before = Some(clock.time() / COUNT).filter(|count| *count < MAX_RESETS);
    let before = before.unwrap_or(0);
    println!("race {before}");
    // What was in memory does not outlive a reset either.
    let somewhere = (machine.ram_start / 2 + machine.ram_end / 2) & !7;
    if mmio::read64(somewhere) != 0 {
        println!("there is something of before at {somewhere:#x}");
        power::fail(2)
    }
    mmio::write64(somewhere, 0x5eed);
    clock.set_time((before + 1) * COUNT);
    let outcome = smp::on_first(machine, 3, &|index| {
        let end = time::now() + time::ticks(WHILE);
        // The boot hart ends all of them.
        while index != 0 || time::now() < end {
            let _ = sbi::hsm::start(restarted, stops_at_once as *const () as usize, 0);
        }
        if before < resets {
            sbi::srst::reboot()
        }
        sbi::srst::shut_down(false)
    });
    println!("the other harts do not start: {outcome:?}");
    power::fail(1)
}
