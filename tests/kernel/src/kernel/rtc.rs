//! The real-time clock (goldfish; QEMU: `hw/rtc/goldfish_rtc.c`, Linux: `drivers/rtc/rtc-goldfish.c`). Nanoseconds, in two
//! halves: reading the lower one latches the upper one, writing the lower half of the alarm arms it.

use super::external::Listener;
use super::machine::{Device, Machine};
use super::mmio::Registers;
use super::report::Outcome;
use super::time;

tests! { TESTS:
    "rtc-time-advances" => advances,
    "rtc-time-is-plausible" => plausible,
    "rtc-alarm-interrupts" => alarm_interrupts,
    "rtc-alarm-in-the-past" => alarm_in_the_past,
    "rtc-alarm-cleared" => alarm_cleared,
    "rtc-alarm-without-interrupt" => alarm_without_interrupt,
}

const TIME_LOW: usize = 0x00;
const TIME_HIGH: usize = 0x04;
const ALARM_LOW: usize = 0x08;
const ALARM_HIGH: usize = 0x0c;
const IRQ_ENABLED: usize = 0x10;
const CLEAR_ALARM: usize = 0x14;
const ALARM_STATUS: usize = 0x18;
const CLEAR_INTERRUPT: usize = 0x1c;

const MILLISECOND: u64 = 1_000_000;

/// The clock's alarm, off and with its interrupt enabled; off again when this is dropped.
pub struct Alarm {
    registers: Registers,
}

impl Alarm {
    pub fn new(base: usize) -> Self {
        let registers = Registers::new(base);
        let alarm = Self { registers };
        alarm.off();
        alarm.registers.write(IRQ_ENABLED, 1);
        alarm
    }

    /// The time, in nanoseconds.
    pub fn time(&self) -> u64 {
        let low = self.registers.read(TIME_LOW);
        u64::from(self.registers.read(TIME_HIGH)) << 32 | u64::from(low)
    }

    /// Sets the clock.
    pub fn set_time(&self, time: u64) {
        let [low, high] = [time as u32, (time >> 32) as u32];
        self.registers.write(TIME_HIGH, high);
        self.registers.write(TIME_LOW, low);
    }

    /// Arms it for this time.
    pub fn arm(&self, time: u64) {
        let [low, high] = [time as u32, (time >> 32) as u32];
        self.registers.write(ALARM_HIGH, high);
        self.registers.write(ALARM_LOW, low);
    }

    /// Has it go off at once.
    pub fn go_off(&self) {
        self.arm(0);
    }

    fn is_armed(&self) -> bool {
        self.registers.read(ALARM_STATUS) != 0
    }

    fn off(&self) {
        self.registers.write(CLEAR_ALARM, 1);
        self.registers.write(CLEAR_INTERRUPT, 1);
        self.registers.write(IRQ_ENABLED, 0);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.off();
    }
}

fn clock(machine: &Machine) -> Outcome<Device> {
    match machine.rtc {
        Some(clock) => Ok(clock),
        None => skip!("there is no clock"),
    }
}

fn advances(machine: &Machine) -> Outcome {
    let clock = Alarm::new(clock(machine)?.base);
    let mut last = clock.time();
    for _ in 0..20 {
        let now = clock.time();
        check!(now >= last, "the clock goes back from {last} to {now}");
        last = now;
    }
    check!(
        time::wait_for(|| clock.time() > last),
        "the clock stands still"
    );
    Ok(())
}

/// It was set by someone since this was written: it is after the year 2025, and before 2100.
fn plausible(machine: &Machine) -> Outcome {
    const YEAR: u64 = 31_556_952;
    let clock = Alarm::new(clock(machine)?.base);
    let year = 1970 + clock.time() / 1_000_000_000 / YEAR;
    check!((2025..2100).contains(&year), "the year is {year}");
    Ok(())
}

fn alarm_interrupts(machine: &Machine) -> Outcome {
    let device = clock(machine)?;
    let listener = Listener::new(machine, device);
    let alarm = Alarm::new(device.base);
    for _ in 0..3 {
        let due = alarm.time() + 2 * MILLISECOND;
        listener.expect(|| alarm.arm(due))?;
        check!(alarm.time() >= due, "the alarm goes off early");
        check!(!alarm.is_armed(), "the alarm is armed after it went off");
        alarm.registers.write(CLEAR_INTERRUPT, 1);
        listener.complete();
        check!(!listener.comes(), "it comes again");
    }
    Ok(())
}

fn alarm_in_the_past(machine: &Machine) -> Outcome {
    let device = clock(machine)?;
    let listener = Listener::new(machine, device);
    let alarm = Alarm::new(device.base);
    listener.expect(|| alarm.arm(1))?;
    check!(!alarm.is_armed(), "the alarm is armed for the past");
    alarm.registers.write(CLEAR_INTERRUPT, 1);
    listener.complete();
    Ok(())
}

fn alarm_cleared(machine: &Machine) -> Outcome {
    let device = clock(machine)?;
    let listener = Listener::new(machine, device);
    let alarm = Alarm::new(device.base);
    alarm.arm(alarm.time() + 1000 * MILLISECOND);
    check!(alarm.is_armed(), "the alarm is not armed");
    alarm.registers.write(CLEAR_ALARM, 1);
    check!(!alarm.is_armed(), "the alarm is armed after it was cleared");
    check!(!listener.comes(), "an alarm that was cleared interrupts");
    Ok(())
}

/// The IRQ line is low while the interrupt is disabled, and high as soon as it is enabled with an alarm that went off.
fn alarm_without_interrupt(machine: &Machine) -> Outcome {
    let device = clock(machine)?;
    let listener = Listener::new(machine, device);
    let alarm = Alarm::new(device.base);
    alarm.registers.write(IRQ_ENABLED, 0);
    alarm.go_off();
    check!(
        !listener.comes(),
        "the alarm interrupts while that is disabled"
    );
    listener.expect(|| alarm.registers.write(IRQ_ENABLED, 1))?;
    alarm.registers.write(CLEAR_INTERRUPT, 1);
    listener.complete();
    Ok(())
}
