//! The goldfish real-time clock: the time of day, which the guest may set, and one alarm.
//!
//! Sources: QEMU, `hw/rtc/goldfish_rtc.c`; Linux, `drivers/rtc/rtc-goldfish.c`. The time is in nanoseconds since 1970
//! (UTC), in two 32-bit halves. Registers take aligned 32-bit accesses only; others read zero and write nothing.
//!
//! The alarm costs nothing while it waits: the [`Clock`] is asked for one wake-up, at which whoever runs the machine
//! calls [`Rtc::poll`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::bus::MmioDevice;
use crate::interrupt::IrqLine;
use crate::lock;

/// Register offsets.
mod register {
    /// Reading latches the upper half; writing sets the lower half and puts the time that is now set into effect.
    pub const TIME_LOW: u64 = 0x00;
    /// Reads what the last read of the lower half latched.
    pub const TIME_HIGH: u64 = 0x04;
    /// Writing arms the alarm.
    pub const ALARM_LOW: u64 = 0x08;
    pub const ALARM_HIGH: u64 = 0x0c;
    pub const IRQ_ENABLED: u64 = 0x10;
    pub const CLEAR_ALARM: u64 = 0x14;
    pub const ALARM_STATUS: u64 = 0x18;
    pub const CLEAR_INTERRUPT: u64 = 0x1c;
}

/// The part of the clock that a battery keeps running: it lasts from one boot of the machine to the next.
pub trait Clock: Send + Sync {
    /// The time, in nanoseconds since 1970 (UTC) as far as the guest did not set it otherwise.
    fn now(&self) -> u64;

    /// Sets the time, in nanoseconds. A wake-up that was asked for stays where it is until it is asked for again.
    fn set(&self, now: u64);

    /// Asks that [`Rtc::poll`] be called when the time is `at`, in nanoseconds, or soon after; `None` asks for no call.
    /// Takes the place of what was asked for before.
    fn wake_at(&self, at: Option<u64>);
}

/// The host's time of day. Its descriptor becomes readable when the alarm is due: [`Rtc::poll`] is to be called then,
/// which also makes it unreadable.
#[derive(Debug)]
pub struct HostClock {
    timer: TimerFd,
    /// What the guest set the clock ahead of the host's, modulo 2^64 nanoseconds.
    ahead: AtomicU64,
}

impl HostClock {
    /// A clock that shows the host's time.
    ///
    /// # Errors
    /// If the host has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self {
            timer: TimerFd::new(ClockId::CLOCK_REALTIME, flags)?,
            ahead: AtomicU64::new(0),
        })
    }

    fn host_time() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
    }
}

impl Clock for HostClock {
    fn now(&self) -> u64 {
        Self::host_time().wrapping_add(self.ahead.load(Ordering::Relaxed))
    }

    fn set(&self, now: u64) {
        let ahead = now.wrapping_sub(Self::host_time());
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    fn wake_at(&self, at: Option<u64>) {
        let set = match at {
            None => self.timer.unset(),
            Some(at) => {
                let host = Self::host_time();
                let now = host.wrapping_add(self.ahead.load(Ordering::Relaxed));
                // An absolute time follows the host's clock when that is set. Zero would switch the timer off.
                let due = host.saturating_add(at.saturating_sub(now)).max(1);
                self.timer.set(
                    Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(due))),
                    TimerSetTimeFlags::TFD_TIMER_ABSTIME,
                )
            }
        };
        if let Err(error) = set {
            log::error!("the real-time clock's alarm cannot be set: {error}");
        }
    }
}

impl AsFd for HostClock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl AsRawFd for HostClock {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_fd().as_raw_fd()
    }
}

/// The real-time clock.
///
/// The interrupt is a level: high from an alarm until the guest clears the interrupt, while it has it enabled.
pub struct Rtc {
    state: Mutex<State>,
    irq: Arc<dyn IrqLine>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    /// The upper half of the time that was last read.
    latched: u32,
    /// When the alarm goes off, in nanoseconds.
    alarm: u64,
    armed: bool,
    pending: bool,
    enabled: bool,
    /// Where the line was last put.
    line: bool,
}

impl Rtc {
    /// A clock after power-on: the time runs, and no alarm is set, not even one that an earlier machine left in `clock`.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, clock: Arc<dyn Clock>) -> Self {
        clock.wake_at(None);
        Self {
            state: Mutex::default(),
            irq,
            clock,
        }
    }

    /// Lets the alarm go off if its time has come. Harmless at any time.
    pub fn poll(&self) {
        self.with_state(|state| {
            if state.armed {
                self.arm(state);
            } else {
                self.clock.wake_at(None);
            }
        });
    }

    /// Runs `access` and then drives the line to where the state wants it.
    fn with_state<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let result = access(&mut state);
        let level = state.pending && state.enabled;
        if level != state.line {
            state.line = level;
            // Under the lock, so that two threads cannot drive the line in the wrong order.
            self.irq.set_level(level);
        }
        result
    }

    /// Arms the alarm, or lets it go off at once if its time has passed.
    fn arm(&self, state: &mut State) {
        state.armed = state.alarm > self.clock.now();
        state.pending |= !state.armed;
        self.clock.wake_at(state.armed.then_some(state.alarm));
    }

    fn read_register(&self, state: &mut State, register: u64) -> u32 {
        match register {
            register::TIME_LOW => {
                let now = self.clock.now();
                state.latched = high(now);
                low(now)
            }
            register::TIME_HIGH => state.latched,
            register::ALARM_LOW => low(state.alarm),
            register::ALARM_HIGH => high(state.alarm),
            register::IRQ_ENABLED => state.enabled.into(),
            register::ALARM_STATUS => state.armed.into(),
            _ => 0,
        }
    }

    fn write_register(&self, state: &mut State, register: u64, value: u32) {
        match register {
            register::TIME_LOW => {
                self.clock.set(join(high(self.clock.now()), value));
                // The alarm is at a time of this clock. Linux writes the upper half first, and between the two the
                // time is not one that anybody meant.
                if state.armed {
                    self.arm(state);
                }
            }
            register::TIME_HIGH => self.clock.set(join(value, low(self.clock.now()))),
            register::ALARM_LOW => {
                state.alarm = join(high(state.alarm), value);
                self.arm(state);
            }
            register::ALARM_HIGH => state.alarm = join(value, low(state.alarm)),
            register::IRQ_ENABLED => state.enabled = value & 1 != 0,
            register::CLEAR_ALARM => {
                state.armed = false;
                self.clock.wake_at(None);
            }
            register::CLEAR_INTERRUPT => state.pending = false,
            _ => {}
        }
    }
}

impl MmioDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self
                .with_state(|state| self.read_register(state, offset))
                .to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Ok(&data) = <&[u8; 4]>::try_from(data) {
            let value = u32::from_le_bytes(data);
            self.with_state(|state| self.write_register(state, offset, value));
        }
    }
}

#[allow(clippy::cast_possible_truncation)]
fn low(time: u64) -> u32 {
    time as u32
}

fn high(time: u64) -> u32 {
    low(time >> u32::BITS)
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << u32::BITS | u64::from(low)
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::register::*;
    use super::*;
    use crate::virtio::testing::TestLine;

    const NOW: u64 = 0x17d0_1234_ffff_fff0;

    /// A clock that stands still until a test moves it.
    #[derive(Default)]
    struct TestClock {
        now: AtomicU64,
        wake: Mutex<Option<u64>>,
    }

    impl Clock for TestClock {
        fn now(&self) -> u64 {
            self.now.load(Ordering::Relaxed)
        }
        fn set(&self, now: u64) {
            self.now.store(now, Ordering::Relaxed);
        }
        fn wake_at(&self, at: Option<u64>) {
            *lock(&self.wake) = at;
        }
    }

    struct Bench {
        rtc: Rtc,
        clock: Arc<TestClock>,
        line: Arc<TestLine>,
    }

    impl Bench {
        fn new() -> Self {
            let (clock, line) = (Arc::<TestClock>::default(), Arc::<TestLine>::default());
            clock.set(NOW);
            Self {
                rtc: Rtc::new(line.clone(), clock.clone()),
                clock,
                line,
            }
        }

        fn read(&self, register: u64) -> u32 {
            let mut data = [0; 4];
            self.rtc.read(register, &mut data);
            u32::from_le_bytes(data)
        }

        fn write(&self, register: u64, value: u32) {
            self.rtc.write(register, &value.to_le_bytes());
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

        fn wake(&self) -> Option<u64> {
            *lock(&self.clock.wake)
        }
    }

    #[test]
    fn reading_the_lower_half_latches_the_upper() {
        let bench = Bench::new();
        assert_eq!(bench.read(TIME_LOW), 0xffff_fff0);
        bench.clock.set(NOW + 0x10);
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
        bench.clock.set(at - 1);
        bench.rtc.poll();
        assert!(!bench.line.level(), "too early");
        assert_eq!(bench.wake(), Some(at));

        bench.clock.set(at);
        bench.rtc.poll();
        assert!(bench.line.level());
        assert_eq!(bench.read(ALARM_STATUS), 0);
        assert_eq!(bench.wake(), None);
        bench.write(CLEAR_INTERRUPT, 1);
        assert!(!bench.line.level());
        bench.rtc.poll();
        assert!(!bench.line.level(), "once");
    }

    #[test]
    fn an_alarm_in_the_past_goes_off_at_once() {
        let bench = Bench::new();
        bench.set_alarm(NOW);
        assert!(bench.line.level());
        assert_eq!(bench.read(ALARM_STATUS), 0);
        assert_eq!(bench.wake(), None);
    }

    #[test]
    fn the_interrupt_waits_until_it_is_enabled() {
        let bench = Bench::new();
        bench.write(ALARM_LOW, 0);
        assert!(!bench.line.level());
        bench.write(IRQ_ENABLED, 0xffff_ffff);
        assert_eq!(bench.read(IRQ_ENABLED), 1);
        assert!(bench.line.level());
        bench.write(IRQ_ENABLED, 0xffff_fffe);
        assert!(!bench.line.level());
        bench.write(CLEAR_INTERRUPT, 1);
        bench.write(IRQ_ENABLED, 1);
        assert!(!bench.line.level());
    }

    #[test]
    fn a_cleared_alarm_does_not_go_off() {
        let bench = Bench::new();
        bench.set_alarm(NOW + 1);
        bench.write(CLEAR_ALARM, 1);
        assert_eq!(bench.read(ALARM_STATUS), 0);
        assert_eq!(bench.wake(), None);
        bench.clock.set(NOW + 2);
        bench.rtc.poll();
        assert!(!bench.line.level());
    }

    #[test]
    fn an_alarm_follows_the_time_that_is_set() {
        let bench = Bench::new();
        let at = NOW + 60_000_000_000;
        bench.set_alarm(at);
        bench.set_time(NOW - 3_600_000_000_000);
        assert_eq!(bench.wake(), Some(at));
        assert!(!bench.line.level());
        bench.set_time(at + 1);
        assert!(bench.line.level());
    }

    #[test]
    fn only_words_at_registers_count() {
        let bench = Bench::new();
        bench.rtc.write(IRQ_ENABLED, &[1]);
        bench.rtc.write(IRQ_ENABLED, &[1, 0, 0, 0, 0, 0, 0, 0]);
        bench.rtc.write(IRQ_ENABLED + 2, &[1, 0, 0, 0]);
        assert_eq!(bench.read(IRQ_ENABLED), 0);
        for (offset, width) in [(TIME_LOW, 8), (TIME_LOW, 2), (2, 4), (0x20, 4), (0xffc, 4)] {
            let mut data = vec![0; width];
            bench.rtc.read(offset, &mut data);
            assert!(data.iter().all(|byte| *byte == 0));
        }
        for register in [CLEAR_ALARM, CLEAR_INTERRUPT] {
            assert_eq!(bench.read(register), 0);
        }
    }

    #[test]
    fn a_reboot_keeps_the_time_and_forgets_the_alarm() {
        let bench = Bench::new();
        bench.set_time(42);
        bench.set_alarm(43);
        let (clock, line) = (bench.clock.clone(), Arc::<TestLine>::default());
        let rtc = Rtc::new(line.clone(), clock.clone());
        assert_eq!(*lock(&clock.wake), None);
        clock.set(44);
        rtc.poll();
        assert!(!line.level());
        let mut data = [0; 4];
        rtc.read(TIME_LOW, &mut data);
        assert_eq!(data, [44, 0, 0, 0]);
    }

    #[test]
    fn the_hosts_clock_wakes_by_its_descriptor() {
        let readable = |clock: &HostClock, timeout| {
            let mut fds = [PollFd::new(clock.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).unwrap() == 1
        };
        let clock = Arc::new(HostClock::new().unwrap());
        let before = HostClock::host_time();
        let now = clock.now();
        assert!(before <= now && now <= HostClock::host_time());
        // One second after 1970, and a tenth of a second until the alarm.
        let line = Arc::<TestLine>::default();
        let rtc = Rtc::new(line.clone(), clock.clone());
        for (register, value) in [
            (TIME_HIGH, 0),
            (TIME_LOW, 1_000_000_000_u32),
            (ALARM_HIGH, 0),
            (ALARM_LOW, 1_100_000_000),
            (IRQ_ENABLED, 1),
        ] {
            rtc.write(register, &value.to_le_bytes());
        }
        assert!(readable(&clock, PollTimeout::from(60_000_u16)));
        rtc.poll();
        assert!(line.level());
        assert!(!readable(&clock, PollTimeout::ZERO));
        // The beginning of time and its end are as good as any.
        for at in [0, u64::MAX] {
            clock.wake_at(Some(at));
        }
        assert!(!readable(&clock, PollTimeout::ZERO));
    }
}
