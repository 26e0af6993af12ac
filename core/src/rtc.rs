//! The goldfish real-time clock: the time of day, which the guest may set, and one alarm.
//!
//! Sources: QEMU, `hw/rtc/goldfish_rtc.c`; Linux, `drivers/rtc/rtc-goldfish.c`. The time is in nanoseconds since 1970
//! (UTC), in two 32-bit halves. Registers take aligned 32-bit accesses only; others read zero and write nothing.
//!
//! The running clock itself, which a battery would keep, is not here: each call gets the time, in nanoseconds since 1970
//! (UTC) unless the guest has set it differently, and the result of a write says if the guest sets it.

use crate::layout;
use crate::node::{DeviceNode, Node, Trigger};

/// What the device tree says of the board's clock (bindings: `rtc/google,goldfish-rtc.txt`).
#[must_use]
pub fn node() -> DeviceNode {
    let node = Node::new("rtc")
        .strings("compatible", ["google,goldfish-rtc"])
        .registers()
        .interrupt(layout::RTC_IRQ, Trigger::LevelHigh);
    DeviceNode::new(layout::RTC_BASE, layout::RTC_SIZE, node)
}

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

/// A real-time clock. After each call, the owner sets the IRQ line to the level of [`line`](Self::line).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Registers {
    /// The upper half of the time that was last read.
    latched: u32,
    /// The alarm's registers, in nanoseconds.
    alarm: u64,
    /// When the alarm goes off, in nanoseconds: what the registers held when it was armed. The upper half is written first, and
    /// means nothing before the lower one is.
    due: u64,
    armed: bool,
    pending: bool,
    enabled: bool,
}

/// What the owner of the clock has to do after a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// The guest has set the time, to this many nanoseconds.
    pub time: Option<u64>,
    /// The guest has set or cleared the alarm, or the time that it is measured by: [`Registers::poll`] is to be called at
    /// the time that [`Registers::alarm`] now tells, and no longer at an earlier one.
    pub alarm: bool,
}

impl Registers {
    /// A clock after power-on: the time runs, and no alarm is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The guest reads at `offset` from the clock's base when the time is `now`.
    pub fn read(&mut self, offset: u64, data: &mut [u8], now: u64) {
        data.fill(0);
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.read_register(offset, now).to_le_bytes();
        }
    }

    /// The guest writes at `offset` from the clock's base when the time is `now`.
    pub fn write(&mut self, offset: u64, data: &[u8], now: u64) -> Effects {
        match <&[u8; 4]>::try_from(data) {
            Ok(&data) => self.write_register(offset, u32::from_le_bytes(data), now),
            Err(_) => Effects::default(),
        }
    }

    /// Lets the alarm go off if its time has come when the time is `now`. Harmless at any time.
    pub fn poll(&mut self, now: u64) {
        if self.armed {
            self.arm(now);
        }
    }

    /// When [`poll`](Self::poll) is to be called, in nanoseconds of this clock's time, or soon after; `None` while no alarm is
    /// set.
    #[must_use]
    pub fn alarm(&self) -> Option<u64> {
        self.armed.then_some(self.due)
    }

    /// Where the interrupt line is: a level, high from an alarm until the guest clears the interrupt, while it has it
    /// enabled.
    #[must_use]
    pub fn line(&self) -> bool {
        self.pending && self.enabled
    }

    /// Arms the alarm, or lets it go off at once if its time has passed.
    fn arm(&mut self, now: u64) {
        self.armed = self.due > now;
        self.pending |= !self.armed;
    }

    fn read_register(&mut self, register: u64, now: u64) -> u32 {
        match register {
            register::TIME_LOW => {
                self.latched = high(now);
                low(now)
            }
            register::TIME_HIGH => self.latched,
            register::ALARM_LOW => low(self.alarm),
            register::ALARM_HIGH => high(self.alarm),
            register::IRQ_ENABLED => self.enabled.into(),
            register::ALARM_STATUS => self.armed.into(),
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u64, value: u32, now: u64) -> Effects {
        let mut effects = Effects::default();
        match register {
            register::TIME_LOW => {
                let time = join(high(now), value);
                effects.time = Some(time);
                // The alarm is at a time of this clock. Linux writes the upper half first, and between the two
                // writes the time is not a meaningful one.
                if self.armed {
                    self.arm(time);
                    effects.alarm = true;
                }
            }
            register::TIME_HIGH => effects.time = Some(join(value, low(now))),
            register::ALARM_LOW => {
                self.alarm = join(high(self.alarm), value);
                self.due = self.alarm;
                self.arm(now);
                effects.alarm = true;
            }
            register::ALARM_HIGH => self.alarm = join(value, low(self.alarm)),
            register::IRQ_ENABLED => self.enabled = value & 1 != 0,
            register::CLEAR_ALARM => {
                self.armed = false;
                effects.alarm = true;
            }
            register::CLEAR_INTERRUPT => self.pending = false,
            _ => {}
        }
        effects
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
mod tests;
