//! The kernel: how it begins, runs the tests, and ends.

#![allow(
    clippy::result_large_err,
    reason = "there is no heap to put a reason on"
)]
#![allow(
    clippy::panic,
    reason = "it fails the test that runs, and ends the machine"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits here, and what is cut is small or meant to be cut"
)]

#[macro_use]
mod console;
#[macro_use]
mod csr;
#[macro_use]
mod report;

mod aia;
mod attack;
mod boot;
mod chatter;
mod count;
mod counters;
mod external;
mod hang;
mod honest;
mod hostile;
mod instructions;
mod journal;
mod machine;
mod mmio;
mod nothing;
mod paging;
mod pattern;
mod plic;
mod power;
mod race;
mod rtc;
mod sbi;
mod smp;
mod time;
mod timer;
mod trap;
mod uart;
mod virtio;

use core::panic::PanicInfo;

use machine::Machine;
use report::{Stop, Summary, Test};

/// All tests, in the order in which they run: what others rely on comes first.
const GROUPS: &[&[Test]] = &[
    uart::TESTS,
    instructions::TESTS,
    paging::TESTS,
    counters::TESTS,
    sbi::base::TESTS,
    sbi::hsm::TESTS,
    sbi::retained::TESTS,
    sbi::ipi::TESTS,
    sbi::rfence::TESTS,
    sbi::time::TESTS,
    timer::TESTS,
    sbi::dbcn::TESTS,
    sbi::legacy::TESTS,
    sbi::srst::TESTS,
    plic::accesses::TESTS,
    plic::claims::TESTS,
    aia::imsic::TESTS,
    aia::aplic::TESTS,
    aia::wires::TESTS,
    uart::INTERRUPT_TESTS,
    rtc::TESTS,
    sbi::susp::TESTS,
    virtio::slots::TESTS,
    virtio::requests::TESTS,
    virtio::console::TESTS,
    nothing::TESTS,
];

/// Those in place of all others when a word of the command line asks for them.
const GROUPS_BY_WORD: &[(&str, &[&[Test]])] = &[
    ("attack", &[attack::TESTS]),
    ("count", &[count::TESTS]),
    ("pattern", &[pattern::TESTS]),
];

/// What the command line asks for.
fn groups(machine: &Machine) -> &'static [&'static [Test]] {
    let asked = |(word, _): &&(&str, _)| machine.argument(word).is_some();
    GROUPS_BY_WORD
        .iter()
        .find(asked)
        .map_or(GROUPS, |(_, groups)| *groups)
}

/// The boot hart's way from the entry on, with a stack and nothing else.
fn run(boot_hart: usize, tree: *const u8) -> ! {
    let hart = trap::enter(0, boot_hart);
    let machine = match Machine::read(hart.id(), tree) {
        Ok(machine) => machine,
        // There is no console to say it on, and no test device.
        Err(_) => sbi::srst::shut_down(true),
    };
    time::init(machine.timebase);
    timer::init(&machine);
    console::init(machine.uart.base);
    power::init(machine.test_device);
    if let Some(code) = machine.argument("fail").and_then(|code| code.parse().ok()) {
        power::fail(code);
    }
    if machine.argument("hang").is_some() {
        hang::for_ever(&machine);
    }
    if let Some(how) = machine.argument("chatter") {
        chatter::run(how);
    }
    if let Some(seconds) = machine.argument("honest") {
        honest::run(&machine, seconds);
    }
    if let Some(how) = machine.argument("hostile") {
        hostile::run(&machine, how);
    }
    if let Some(resets) = machine.argument("race") {
        race::run(&machine, resets.parse().unwrap_or(0));
    }
    if let Some(first) = machine.argument("journal") {
        journal::run(&machine, first.parse().unwrap_or(0));
    }
    let started = time::now();
    let times = machine.argument("times").is_some();
    let mut summary = Summary::default();
    for test in groups(&machine).iter().copied().flatten() {
        if !machine.selects(test.name) {
            continue;
        }
        report::begin(test.name);
        let began = time::now();
        let outcome = if machine.leaves_out(test.name) {
            let why = report::why(format_args!("the command line leaves it out"));
            Err(Stop::Skipped(why))
        } else {
            (test.run)(&machine)
        };
        trap::quiet();
        report::end(test.name, &outcome);
        summary.count(&outcome);
        if times {
            println!("# {} us", time::microseconds(time::now() - began));
        }
    }
    let elapsed = time::microseconds(time::now().wrapping_sub(started));
    summary.print(elapsed);
    match u16::try_from(summary.failed) {
        Ok(0) if summary.is_empty() => {
            println!("no test has such a name");
            power::fail(1)
        }
        Ok(0) => power::off(),
        Ok(code) => power::fail(code),
        Err(_) => power::fail(u16::MAX),
    }
}

/// A panic, or a trap that no test expects, is the failure of the test that runs, and the end of all: what it leaves
/// behind is unknown.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    console::recover();
    let why = report::why(format_args!("{}", info.message()));
    let outcome = Err(Stop::Failed(why));
    report::end(report::running(), &outcome);
    println!("gave up");
    power::fail(u16::MAX)
}
