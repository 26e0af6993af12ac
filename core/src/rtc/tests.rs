//! The registers with a clock that stands still until a test moves it.

use core::cell::RefCell;

use super::register::*;
use super::*;

const NOW: u64 = 0x17d0_1234_ffff_fff0;

struct Bench(RefCell<State>);

struct State {
    registers: Registers,
    now: u64,
    /// When to poll.
    wake: Option<u64>,
}

impl Bench {
    fn new() -> Self {
        Self(RefCell::new(State {
            registers: Registers::new(),
            now: NOW,
            wake: None,
        }))
    }

    fn read_wide(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.0.borrow_mut();
        let now = state.now;
        state.registers.read(offset, data, now);
    }

    fn write_wide(&self, offset: u64, data: &[u8]) {
        let mut state = self.0.borrow_mut();
        let now = state.now;
        let effects = state.registers.write(offset, data, now);
        state.now = effects.time.unwrap_or(now);
        if effects.alarm {
            state.wake = state.registers.alarm();
        }
    }

    fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.read_wide(register, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, register: u64, value: u32) {
        self.write_wide(register, &value.to_le_bytes());
    }

    fn poll(&self) {
        let mut state = self.0.borrow_mut();
        let now = state.now;
        state.registers.poll(now);
        state.wake = state.registers.alarm();
    }

    fn set_clock(&self, now: u64) {
        self.0.borrow_mut().now = now;
    }

    fn level(&self) -> bool {
        self.0.borrow().registers.line()
    }

    fn wake(&self) -> Option<u64> {
        self.0.borrow().wake
    }

    fn time(&self) -> u64 {
        let low = self.read(TIME_LOW);
        join(self.read(TIME_HIGH), low)
    }

    /// As Linux does it.
    fn set_alarm(&self, at: u64) {
        self.write(ALARM_HIGH, high(at));
        self.write(ALARM_LOW, low(at));
        self.write(IRQ_ENABLED, 1);
    }

    fn set_time(&self, time: u64) {
        self.write(TIME_HIGH, high(time));
        self.write(TIME_LOW, low(time));
    }
}

#[test]
fn reading_the_lower_half_latches_the_upper() {
    let bench = Bench::new();
    assert_eq!(bench.read(TIME_LOW), 0xffff_fff0);
    bench.set_clock(NOW + 0x10);
    assert_eq!(bench.read(TIME_HIGH), 0x17d0_1234, "of the same moment");
    assert_eq!(bench.time(), NOW + 0x10);
}

#[test]
fn the_guest_sets_the_time() {
    let bench = Bench::new();
    for time in [0, 1, NOW + 5_000_000_000, u64::MAX] {
        bench.set_time(time);
        assert_eq!(bench.time(), time);
    }
}

#[test]
fn an_alarm_goes_off_when_its_time_has_come() {
    let bench = Bench::new();
    let at = NOW + 1_000_000_000;
    bench.set_alarm(at);
    assert_eq!(join(bench.read(ALARM_HIGH), bench.read(ALARM_LOW)), at);
    assert_eq!(bench.read(ALARM_STATUS), 1);
    assert_eq!(bench.wake(), Some(at));
    bench.set_clock(at - 1);
    bench.poll();
    assert!(!bench.level(), "too early");
    assert_eq!(bench.wake(), Some(at));

    bench.set_clock(at);
    bench.poll();
    assert!(bench.level());
    assert_eq!(bench.read(ALARM_STATUS), 0);
    assert_eq!(bench.wake(), None);
    bench.write(CLEAR_INTERRUPT, 1);
    assert!(!bench.level());
    bench.poll();
    assert!(!bench.level(), "once");
}

#[test]
fn an_alarm_in_the_past_goes_off_at_once() {
    let bench = Bench::new();
    bench.set_alarm(NOW);
    assert!(bench.level());
    assert_eq!(bench.read(ALARM_STATUS), 0);
    assert_eq!(bench.wake(), None);
}

#[test]
fn the_interrupt_waits_until_it_is_enabled() {
    let bench = Bench::new();
    bench.write(ALARM_LOW, 0);
    assert!(!bench.level());
    bench.write(IRQ_ENABLED, 0xffff_ffff);
    assert_eq!(bench.read(IRQ_ENABLED), 1);
    assert!(bench.level());
    bench.write(IRQ_ENABLED, 0xffff_fffe);
    assert!(!bench.level());
    bench.write(CLEAR_INTERRUPT, 1);
    bench.write(IRQ_ENABLED, 1);
    assert!(!bench.level());
}

#[test]
fn a_cleared_alarm_does_not_go_off() {
    let bench = Bench::new();
    bench.set_alarm(NOW + 1);
    bench.write(CLEAR_ALARM, 1);
    assert_eq!(bench.read(ALARM_STATUS), 0);
    assert_eq!(bench.wake(), None);
    bench.set_clock(NOW + 2);
    bench.poll();
    assert!(!bench.level());
}

#[test]
fn an_alarm_follows_the_time_that_is_set() {
    let bench = Bench::new();
    let at = NOW + 60_000_000_000;
    bench.set_alarm(at);
    bench.set_time(NOW - 3_600_000_000_000);
    assert_eq!(bench.wake(), Some(at));
    assert!(!bench.level());
    bench.set_time(at + 1);
    assert!(bench.level());
}

#[test]
fn only_words_at_registers_count() {
    let bench = Bench::new();
    bench.write_wide(IRQ_ENABLED, &[1]);
    bench.write_wide(IRQ_ENABLED, &[1, 0, 0, 0, 0, 0, 0, 0]);
    bench.write_wide(IRQ_ENABLED + 2, &[1, 0, 0, 0]);
    assert_eq!(bench.read(IRQ_ENABLED), 0);
    for (offset, width) in [(TIME_LOW, 8), (TIME_LOW, 2), (2, 4), (0x20, 4), (0xffc, 4)] {
        let mut data = [0xff; 8];
        bench.read_wide(offset, &mut data[..width]);
        assert_eq!(data[..width], [0; 8][..width]);
    }
    for register in [CLEAR_ALARM, CLEAR_INTERRUPT] {
        assert_eq!(bench.read(register), 0);
    }
}

/// Every change of the alarm is reported to the owner of the timer.
#[test]
fn changes_of_the_alarm_are_told() {
    let mut registers = Registers::new();
    let now = 5 << 32;
    let mut write = |register, value: u32| registers.write(register, &value.to_le_bytes(), now);
    assert!(!write(ALARM_HIGH, 6).alarm, "it is set with the lower half");
    assert!(write(ALARM_LOW, 1).alarm);
    // The time is set while there is an alarm, which is then sooner or has passed.
    let effects = write(TIME_LOW, 7);
    assert_eq!((effects.time, effects.alarm), (Some(now + 7), true));
    assert!(write(CLEAR_ALARM, 1).alarm);
    assert!(!write(TIME_LOW, 8).alarm, "there is none");
    assert!(!write(IRQ_ENABLED, 1).alarm);
    assert!(!write(CLEAR_INTERRUPT, 1).alarm);
    assert!(write(ALARM_LOW, 1).alarm, "also one that has passed");
}

/// As in QEMU: the halves are written one after the other, and what they are in between is no time that anybody meant.
#[test]
fn the_upper_half_of_an_alarm_means_nothing_before_the_lower_one() {
    let bench = Bench::new();
    bench.write(IRQ_ENABLED, 1);
    bench.set_alarm(NOW + 100);
    for upper in [high(NOW) - 1, high(NOW) + 1] {
        bench.write(ALARM_HIGH, upper);
        assert_eq!(bench.read(ALARM_HIGH), upper);
        assert_eq!(bench.wake(), Some(NOW + 100));
        bench.poll();
        assert!(!bench.level() && bench.read(ALARM_STATUS) == 1);
    }
    bench.set_clock(NOW + 100);
    bench.poll();
    assert!(bench.level());
}
