//! Time.

use hv_core::addr::HostPhysAddr;

use super::csr::{self, number};
use super::mmio;

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

/// Ticks of `time`.
pub fn ticks() -> u64 {
    csr::read::<{ number::TIME }>()
}

/// The time of day: the host's at the start, and the `time` CSR since.
#[derive(Debug)]
pub struct Clock {
    frequency: u32,
    /// Nanoseconds since 1970 at tick 0, modulo 2^64.
    origin: u64,
}

impl Clock {
    /// A clock of so many ticks in a second, set from the host's real-time clock, a goldfish, if it has one.
    pub fn new(frequency: u32, rtc: Option<HostPhysAddr>) -> Self {
        let clock = Self {
            frequency: frequency.max(1),
            origin: 0,
        };
        // SAFETY: the device tree says that a goldfish clock is there; reading TIME_LOW latches TIME_HIGH and does nothing else.
        let now = rtc.map_or(0, |rtc| unsafe {
            let low = u64::from(mmio::read32(rtc));
            let high = rtc
                .checked_add(4)
                .map_or(0, |high| u64::from(mmio::read32(high)));
            high << 32 | low
        });
        Self {
            origin: now.wrapping_sub(clock.now()),
            ..clock
        }
    }

    /// Nanoseconds since 1970.
    pub fn now(&self) -> u64 {
        self.nanoseconds(ticks()).wrapping_add(self.origin)
    }

    /// When `time` is at least at `at`, nanoseconds since 1970, in ticks.
    pub fn ticks_at(&self, at: u64) -> u64 {
        let since = u128::from(at.wrapping_sub(self.origin));
        let ticks = since.saturating_mul(self.frequency.into()).div_ceil(SECOND);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    fn nanoseconds(&self, ticks: u64) -> u64 {
        let nanoseconds = u128::from(ticks).saturating_mul(SECOND) / u128::from(self.frequency);
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}
