//! Firmware counters (SBI 3.0, chapter "Performance Monitoring Unit Extension"): each hart has some that count what it asks
//! of the SBI and what other harts do to it by SBI. There are no hardware counters, and no snapshots.

use super::{Access, Call, Error, HartSet, Platform};
use crate::addr::GuestPhysAddr;

#[cfg(test)]
mod tests;

/// Extension id, "PMU".
pub const EID: u64 = 0x50_4d55;
/// Function id of Get number of counters.
pub const NUM_COUNTERS: u64 = 0;
/// Function id of Get details of a counter.
pub const COUNTER_GET_INFO: u64 = 1;
/// Function id of Find and configure a matching counter.
pub const COUNTER_CONFIG_MATCHING: u64 = 2;
/// Function id of Start a set of counters.
pub const COUNTER_START: u64 = 3;
/// Function id of Stop a set of counters.
pub const COUNTER_STOP: u64 = 4;
/// Function id of Read a firmware counter.
pub const COUNTER_FW_READ: u64 = 5;
/// Function id of Read a firmware counter high bits.
pub const COUNTER_FW_READ_HI: u64 = 6;
/// Function id of Set PMU snapshot shared memory.
pub const SNAPSHOT_SET_SHMEM: u64 = 7;
/// Function id of Get PMU Event info.
pub const EVENT_GET_INFO: u64 = 8;

/// How many counters each hart has.
pub const COUNTERS: u32 = 16;

/// The details of every counter: of firmware (bit 63), and 64 bits wide, of which bits 17 to 12 hold one less. The width is
/// to be ignored of a firmware counter, and Linux does not (`drivers/perf/riscv_pmu_sbi.c`).
const COUNTER_INFO: u64 = 1 << 63 | 63 << 12;

/// Flag of [`COUNTER_CONFIG_MATCHING`]: take the first counter of the set.
const CONFIG_SKIP_MATCH: u64 = 1 << 0;
/// Flag of [`COUNTER_CONFIG_MATCHING`]: the counter begins at zero.
const CONFIG_CLEAR_VALUE: u64 = 1 << 1;
/// Flag of [`COUNTER_CONFIG_MATCHING`]: start it, too.
const CONFIG_AUTO_START: u64 = 1 << 2;
/// All flags of [`COUNTER_CONFIG_MATCHING`]. Those not named above filter by mode, which is a hint.
const CONFIG_FLAGS: u64 = 0xff;

/// Flag of [`COUNTER_START`]: the counters begin at the value given.
const START_SET_INIT_VALUE: u64 = 1 << 0;
/// Flag of [`COUNTER_START`]: the counters begin at the snapshot's values.
const START_INIT_SNAPSHOT: u64 = 1 << 1;

/// Flag of [`COUNTER_STOP`]: the counters lose their events.
const STOP_RESET: u64 = 1 << 0;
/// Flag of [`COUNTER_STOP`]: the counters' values go to the snapshot.
const STOP_TAKE_SNAPSHOT: u64 = 1 << 1;

/// Bytes of an entry of [`EVENT_GET_INFO`]: the event's index, the answer, and eight bytes of the event's data.
const EVENT_ENTRY: u64 = size_of::<[u64; 2]>() as u64;
/// Where an entry's answer is.
const EVENT_OUTPUT: u64 = 4;
/// The most events one call can ask about: more than there are, and few enough not to keep a hart from its interrupts for
/// long.
const MAX_EVENT_ENTRIES: u64 = 1024;

/// What a counter can count: firmware events (event type 15). The numbers are the specification's event codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Event {
    /// The hart set its timer.
    SetTimer = 5,
    /// It interrupted another hart.
    IpiSent = 6,
    /// Another hart interrupted it.
    IpiReceived = 7,
    /// It had another hart execute FENCE.I.
    FenceISent = 8,
    /// Another hart had it execute FENCE.I.
    FenceIReceived = 9,
    /// It had another hart execute SFENCE.VMA for all address spaces.
    SfenceVmaSent = 10,
    /// Another hart had it execute SFENCE.VMA for all address spaces.
    SfenceVmaReceived = 11,
    /// It had another hart execute SFENCE.VMA for one address space.
    SfenceVmaAsidSent = 12,
    /// Another hart had it execute SFENCE.VMA for one address space.
    SfenceVmaAsidReceived = 13,
}

impl Event {
    const ALL: [Self; 9] = [
        Self::SetTimer,
        Self::IpiSent,
        Self::IpiReceived,
        Self::FenceISent,
        Self::FenceIReceived,
        Self::SfenceVmaSent,
        Self::SfenceVmaReceived,
        Self::SfenceVmaAsidSent,
        Self::SfenceVmaAsidReceived,
    ];

    /// The event's `event_idx`.
    #[must_use]
    pub const fn index(self) -> u64 {
        const FIRMWARE: u64 = 15;
        FIRMWARE << 16 | self as u64
    }

    /// The event that a guest means by `event_idx` and `event_data`, if it can be counted. These events have no data.
    fn from_guest(index: u64, data: u64) -> Option<Self> {
        let mut events = Self::ALL.into_iter();
        events.find(|event| event.index() == index && data == 0)
    }
}

/// The counters of one hart: plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    counters: [Counter; COUNTERS as usize],
    /// Those that count, by bits.
    started: u64,
}

/// One counter. The event stays until it is taken away: a counter that is stopped but has one is not free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counter {
    event: Option<Event>,
    value: u64,
}

impl Counters {
    /// All stopped, without an event and at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The event has happened so many times.
    pub fn count(&mut self, event: Event, times: u64) {
        // Most guests count nothing, and all of them send interrupts.
        if self.started == 0 {
            return;
        }
        for (_, counter) in self.of(self.started) {
            if counter.event == Some(event) {
                counter.value = counter.value.wrapping_add(times);
            }
        }
    }

    /// Answers a call that needs nothing but the counters.
    fn handle(&mut self, call: &Call) -> Result<u64, Error> {
        let [base, mask, flags, fourth, data, _] = call.args;
        match call.function {
            NUM_COUNTERS => Ok(COUNTERS.into()),
            COUNTER_GET_INFO => self.get(base).map(|_| COUNTER_INFO),
            COUNTER_CONFIG_MATCHING => self.configure(set(base, mask)?, flags, fourth, data),
            COUNTER_START => self.start(set(base, mask)?, flags, fourth),
            COUNTER_STOP => self.stop(set(base, mask)?, flags),
            COUNTER_FW_READ => self.get(base).map(|counter| counter.value),
            // All of a counter fits into the register.
            COUNTER_FW_READ_HI => self.get(base).map(|_| 0),
            _ => Err(Error::NotSupported),
        }
    }

    /// Has a counter of the set that is free count an event, and answers which. With the flag for it, that is the first one
    /// of the set, free or not.
    fn configure(&mut self, set: u64, flags: u64, index: u64, data: u64) -> Result<u64, Error> {
        if flags & !CONFIG_FLAGS != 0 {
            return Err(Error::InvalidParam);
        }
        let event = Event::from_guest(index, data).ok_or(Error::NotSupported)?;
        let started = self.started;
        let is_free = |bit, counter: &Counter| counter.event.is_none() && !contains(started, bit);
        let (bit, counter) = self
            .of(set)
            .find(|(bit, counter)| flags & CONFIG_SKIP_MATCH != 0 || is_free(*bit, counter))
            .ok_or(Error::NotSupported)?;
        counter.event = Some(event);
        if flags & CONFIG_CLEAR_VALUE != 0 {
            counter.value = 0;
        }
        if flags & CONFIG_AUTO_START != 0 {
            self.started |= 1_u64.unbounded_shl(bit);
        }
        Ok(bit.into())
    }

    /// Starts those of the set that stand. It is an error that there are others, and does not keep them from starting.
    fn start(&mut self, set: u64, flags: u64, value: u64) -> Result<u64, Error> {
        if flags & !(START_SET_INIT_VALUE | START_INIT_SNAPSHOT) != 0 {
            return Err(Error::InvalidParam);
        }
        if flags & START_INIT_SNAPSHOT != 0 {
            return Err(Error::NoShmem);
        }
        if flags & START_SET_INIT_VALUE != 0 {
            for (_, counter) in self.of(set & !self.started) {
                counter.value = value;
            }
        }
        let before = self.started;
        self.started |= set;
        if before & set == 0 {
            Ok(0)
        } else {
            Err(Error::AlreadyStarted)
        }
    }

    /// Stops those of the set that count. It is an error that there are others, and does not keep them from stopping. With the
    /// flag for it, all of the set lose their events: Linux begins by such a call for all counters, and expects the error.
    fn stop(&mut self, set: u64, flags: u64) -> Result<u64, Error> {
        if flags & !(STOP_RESET | STOP_TAKE_SNAPSHOT) != 0 {
            return Err(Error::InvalidParam);
        }
        if flags & STOP_TAKE_SNAPSHOT != 0 {
            return Err(Error::NoShmem);
        }
        if flags & STOP_RESET != 0 {
            for (_, counter) in self.of(set) {
                counter.event = None;
            }
        }
        let before = self.started;
        self.started &= !set;
        if before & set == set {
            Ok(0)
        } else {
            Err(Error::AlreadyStopped)
        }
    }

    fn get(&self, counter: u64) -> Result<&Counter, Error> {
        usize::try_from(counter)
            .ok()
            .and_then(|counter| self.counters.get(counter))
            .ok_or(Error::InvalidParam)
    }

    /// The counters of a set, by their numbers.
    fn of(&mut self, set: u64) -> impl Iterator<Item = (u32, &mut Counter)> {
        (0..)
            .zip(&mut self.counters)
            .filter(move |(bit, _)| contains(set, *bit))
    }
}

/// The counters that a guest names by bits of `mask`, whose bit 0 is counter `base`: by bits from counter 0 on.
fn set(base: u64, mask: u64) -> Result<u64, Error> {
    let Some(highest) = mask.checked_ilog2() else {
        return Ok(0);
    };
    match base.checked_add(highest.into()) {
        Some(last) if last < u64::from(COUNTERS) => u32::try_from(base)
            .map(|base| mask.unbounded_shl(base))
            .map_err(|_| Error::InvalidParam),
        _ => Err(Error::InvalidParam),
    }
}

const fn contains(set: u64, bit: u32) -> bool {
    set.unbounded_shr(bit) & 1 == 1
}

/// Answers a call of this extension.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let counters = platform.pmu().ok_or(Error::NotSupported)?;
    if call.function == EVENT_GET_INFO {
        event_get_info(call, platform)
    } else {
        counters.handle(call)
    }
}

/// Tells of each event in a table of the guest's whether it can be counted.
fn event_get_info(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    const EVENT_RESERVED: u32 = !0xf_ffff;
    let [low, high, count, flags, ..] = call.args;
    let table = GuestPhysAddr(low);
    if flags != 0 || !low.is_multiple_of(EVENT_ENTRY) {
        return Err(Error::InvalidParam);
    }
    let is_memory = |size| size == 0 || platform.is_memory(table, size, Access::Write);
    if high != 0 || !count.checked_mul(EVENT_ENTRY).is_some_and(is_memory) {
        return Err(Error::InvalidAddress);
    }
    if count > MAX_EVENT_ENTRIES {
        return Err(Error::Failed);
    }
    for entry in 0..count {
        let mut bytes = [0; size_of::<[u64; 2]>()];
        let address = entry
            .checked_mul(EVENT_ENTRY)
            .and_then(|offset| table.checked_add(offset))
            .ok_or(Error::InvalidAddress)?;
        platform
            .read_memory(address, &mut bytes)
            .map_err(|_| Error::InvalidAddress)?;
        let [i0, i1, i2, i3, _, _, _, _, data @ ..] = bytes;
        let index = u32::from_le_bytes([i0, i1, i2, i3]);
        if index & EVENT_RESERVED != 0 {
            return Err(Error::InvalidParam);
        }
        let event = Event::from_guest(index.into(), u64::from_le_bytes(data));
        let output = address
            .checked_add(EVENT_OUTPUT)
            .ok_or(Error::InvalidAddress)?;
        platform
            .write_memory(output, &u32::from(event.is_some()).to_le_bytes())
            .map_err(|_| Error::InvalidAddress)?;
    }
    Ok(0)
}

/// Counts an event of the calling hart.
pub(super) fn count(event: Event, times: u64, platform: &mut impl Platform) {
    if let Some(counters) = platform.pmu() {
        counters.count(event, times);
    }
}

/// Counts what the calling hart sent to `harts`: once for each other hart.
pub(super) fn count_sent(event: Event, harts: &HartSet, platform: &mut impl Platform) {
    let itself = u32::from(harts.contains(platform.current_hart()));
    let others = harts.len().saturating_sub(itself);
    count(event, others.into(), platform);
}
