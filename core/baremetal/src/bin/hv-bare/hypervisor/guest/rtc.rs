//! The guest's real-time clock: core's registers, set from the host's clock, with the time that the guest set.

use super::{Guest, mail};
use crate::hypervisor::state::state;

/// The time of a guest's clock that is so far ahead, nanoseconds.
fn now(ahead: u64) -> u64 {
    state().clock.now().wrapping_add(ahead)
}

impl Guest {
    /// A load from the clock's registers.
    pub fn read_rtc(&self, offset: u64, data: &mut [u8]) {
        let mut rtc = self.board.rtc.lock();
        let now = now(rtc.1);
        rtc.0.read(offset, data, now);
    }

    /// A store of `hart`, which is running here, to the clock's registers.
    pub fn write_rtc(&self, hart: u32, offset: u64, data: &[u8]) {
        let alarm_changed = {
            let mut rtc = self.board.rtc.lock();
            let before = rtc.0.line();
            let before_write = now(rtc.1);
            let effects = rtc.0.write(offset, data, before_write);
            if let Some(time) = effects.time {
                rtc.1 = time.wrapping_sub(state().clock.now());
            }
            let now = now(rtc.1);
            rtc.0.poll(now);
            let after = rtc.0.line();
            if before != after {
                self.set_rtc_line(after, Some(hart));
            }
            effects.alarm
        };
        if alarm_changed && let Some(first) = self.harts.first() {
            first.post(mail::ALARM);
        }
    }

    /// The alarm may be due. `hart` is running here.
    pub fn poll_alarm(&self, hart: u32) {
        let mut rtc = self.board.rtc.lock();
        let before = rtc.0.line();
        let now = now(rtc.1);
        rtc.0.poll(now);
        let after = rtc.0.line();
        if before != after {
            self.set_rtc_line(after, Some(hart));
        }
    }

    /// When the alarm is due, in ticks; the largest number for never.
    pub fn alarm_ticks(&self) -> u64 {
        let rtc = self.board.rtc.lock();
        rtc.0.alarm().map_or(u64::MAX, |at| {
            state().clock.ticks_at(at.wrapping_sub(rtc.1))
        })
    }
}
