//! The goldfish real-time clock of [`hv_core::rtc`], with its IRQ line and the host's time.
//!
//! The alarm costs nothing while it waits: the [`Clock`] is asked for one wake-up, at which the owner of the
//! machine calls [`Rtc::poll`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hv_core::rtc::Registers;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::{Deserialize, Serialize};

use crate::bus::MmioDevice;
use crate::interrupt::IrqLine;
use crate::lock;

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

/// What a [`HostClock`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostClockState {
    /// How far the guest set the clock ahead of the host's, modulo 2^64 nanoseconds.
    ahead: u64,
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

    /// The state, while no vCPU runs.
    pub fn save(&self) -> HostClockState {
        HostClockState {
            ahead: self.ahead.load(Ordering::Relaxed),
        }
    }

    /// Puts a saved state in place of this one. The clock has run meanwhile, as on a battery. To be called before the
    /// [`Rtc`]'s is restored, which sets the alarm by it.
    pub fn restore(&self, state: HostClockState) {
        self.ahead.store(state.ahead, Ordering::Relaxed);
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
pub struct Rtc {
    state: Mutex<State>,
    irq: Arc<dyn IrqLine>,
    clock: Arc<dyn Clock>,
}

/// What an [`Rtc`] holds, apart from the time, which is the [`Clock`]'s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtcState {
    registers: Registers,
}

#[derive(Default)]
struct State {
    registers: Registers,
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
        self.with_registers(|registers| {
            registers.poll(self.clock.now());
            self.clock.wake_at(registers.alarm());
        });
    }

    /// The state, while no vCPU runs.
    #[must_use]
    pub fn save(&self) -> RtcState {
        RtcState {
            registers: lock(&self.state).registers.clone(),
        }
    }

    /// Puts a saved state in place of this one, and drives the line. An alarm whose time has come meanwhile goes off.
    pub fn restore(&self, state: RtcState) {
        self.with_registers(|registers| {
            // Any values of these registers are possible.
            *registers = state.registers;
            registers.poll(self.clock.now());
            self.clock.wake_at(registers.alarm());
        });
    }

    /// Runs `access` and then drives the line to where the registers want it.
    fn with_registers<T>(&self, access: impl FnOnce(&mut Registers) -> T) -> T {
        let mut state = lock(&self.state);
        let result = access(&mut state.registers);
        let level = state.registers.line();
        if level != state.line {
            state.line = level;
            // Under the lock, so that two threads cannot drive the line in the wrong order.
            self.irq.set_level(level);
        }
        result
    }
}

impl MmioDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.with_registers(|registers| registers.read(offset, data, self.clock.now()));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.with_registers(|registers| {
            let effects = registers.write(offset, data, self.clock.now());
            if let Some(time) = effects.time {
                self.clock.set(time);
            }
            if effects.alarm {
                self.clock.wake_at(registers.alarm());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::virtio::testing::TestLine;

    // Register offsets.
    const TIME_LOW: u64 = 0x00;
    const TIME_HIGH: u64 = 0x04;
    const ALARM_LOW: u64 = 0x08;
    const ALARM_HIGH: u64 = 0x0c;
    const IRQ_ENABLED: u64 = 0x10;
    const CLEAR_INTERRUPT: u64 = 0x1c;

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

    /// What waits for an alarm waits for the timer.
    #[test]
    fn the_descriptor_of_a_clock_is_its_timer() {
        let clock = HostClock::new().unwrap();
        assert_eq!(clock.as_raw_fd(), clock.as_fd().as_raw_fd());
        let link = format!("/proc/self/fd/{}", clock.as_raw_fd());
        let target = std::fs::read_link(link).unwrap();
        assert_eq!(target.to_str(), Some("anon_inode:[timerfd]"));
        // A program that the user starts does not inherit it, and an alarm that was not due keeps nobody waiting.
        let flags = |command| nix::fcntl::fcntl(clock.as_fd(), command).unwrap();
        assert_eq!(flags(nix::fcntl::FcntlArg::F_GETFD), libc::FD_CLOEXEC);
        let status = flags(nix::fcntl::FcntlArg::F_GETFL);
        assert_ne!(status & libc::O_NONBLOCK, 0);
    }

    #[test]
    fn an_alarm_drives_the_line_and_a_reboot_forgets_it() {
        let (clock, line) = (Arc::<TestClock>::default(), Arc::<TestLine>::default());
        let rtc = Rtc::new(line.clone(), clock.clone());
        let write = |register, value: u32| rtc.write(register, &value.to_le_bytes());
        write(TIME_LOW, 42);
        write(ALARM_LOW, 43);
        write(IRQ_ENABLED, 1);
        assert_eq!((clock.now(), *lock(&clock.wake)), (42, Some(43)));
        clock.set(43);
        rtc.poll();
        assert!(line.level());
        assert_eq!(*lock(&clock.wake), None);
        write(ALARM_LOW, 50);
        assert_eq!(*lock(&clock.wake), Some(50));

        let line = Arc::<TestLine>::default();
        let rtc = Rtc::new(line.clone(), clock.clone());
        assert_eq!(*lock(&clock.wake), None);
        clock.set(51);
        rtc.poll();
        assert!(!line.level());
        let mut data = [0; 4];
        rtc.read(TIME_LOW, &mut data);
        assert_eq!(data, [51, 0, 0, 0], "the time runs on");
    }

    #[test]
    fn the_line_is_driven_when_it_changes() {
        let (clock, line) = (Arc::<TestClock>::default(), Arc::<TestLine>::default());
        let rtc = Rtc::new(line.clone(), clock.clone());
        let write = |register, value: u32| rtc.write(register, &value.to_le_bytes());
        for round in 1..=2 {
            write(IRQ_ENABLED, 1);
            // An alarm that has passed goes off at once.
            write(ALARM_LOW, 0);
            rtc.poll();
            write(IRQ_ENABLED, 1);
            assert!(line.level());
            assert_eq!(line.assertions(), round);
            write(CLEAR_INTERRUPT, 1);
            assert!(!line.level());
        }
    }

    #[test]
    fn an_alarm_that_has_passed_is_due_at_once() {
        let clock = HostClock::new().unwrap();
        let now = clock.now();
        clock.wake_at(Some(now - 1_000_000_000));
        let mut fds = [PollFd::new(clock.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(
                &mut fds,
                PollTimeout::try_from(hv_test_limit::LIMIT).unwrap()
            )
            .unwrap(),
            1
        );
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
        assert!(readable(
            &clock,
            PollTimeout::try_from(hv_test_limit::LIMIT).unwrap()
        ));
        rtc.poll();
        assert!(line.level());
        assert!(!readable(&clock, PollTimeout::ZERO));
        // The beginning of time and its end are as good as any.
        for at in [0, u64::MAX] {
            clock.wake_at(Some(at));
        }
        assert!(!readable(&clock, PollTimeout::ZERO));
    }

    /// An alarm that is due after a save goes off then, and one whose time has come meanwhile at once.
    #[test]
    fn an_alarm_outlives_a_save() {
        let (clock, line) = (Arc::<TestClock>::default(), Arc::<TestLine>::default());
        let rtc = Rtc::new(line, clock);
        for (register, value) in [(TIME_LOW, 42_u32), (ALARM_LOW, 100), (IRQ_ENABLED, 1)] {
            rtc.write(register, &value.to_le_bytes());
        }
        let saved = serde_json::to_string(&rtc.save()).unwrap();
        for (now, due) in [(60, false), (100, true), (2000, true)] {
            let (clock, line) = (Arc::<TestClock>::default(), Arc::<TestLine>::default());
            let other = Rtc::new(line.clone(), clock.clone());
            clock.set(now);
            other.restore(serde_json::from_str(&saved).unwrap());
            assert_eq!(line.level(), due);
            assert_eq!(*lock(&clock.wake), (!due).then_some(100));
            clock.set(100.max(now));
            other.poll();
            assert!(line.level());
        }
    }

    #[test]
    fn the_hosts_clock_runs_on_over_a_save() {
        let clock = HostClock::new().unwrap();
        clock.set(1_000_000_000);
        let other = HostClock::new().unwrap();
        other.restore(clock.save());
        let (before, now, after) = (clock.now(), other.now(), clock.now());
        assert!(before <= now && now <= after);
        assert!(before < 1 << 60, "in 1970, as the guest set it");
    }
}
