//! The legacy extensions (SBI 3.0, chapter "Legacy Extensions", EIDs 0x00 to 0x0F). They return one value, in `a0`, and
//! their function id is ignored. A list of harts is a bit vector in the guest's virtual memory.

use super::rfence::{self, FenceRange};
use super::{Call, Error, HartSet, Platform, SUCCESS, ipi, time};
use crate::ending::End;
use crate::layout::MAX_HARTS;

#[cfg(test)]
mod tests;

/// The first of the legacy extension ids.
pub const FIRST_EID: u64 = 0x00;
/// The last of the legacy extension ids.
pub const LAST_EID: u64 = 0x0f;
/// Extension id of Set Timer.
pub const SET_TIMER: u64 = 0x00;
/// Extension id of Console Putchar.
pub const CONSOLE_PUTCHAR: u64 = 0x01;
/// Extension id of Console Getchar.
pub const CONSOLE_GETCHAR: u64 = 0x02;
/// Extension id of Clear IPI.
pub const CLEAR_IPI: u64 = 0x03;
/// Extension id of Send IPI.
pub const SEND_IPI: u64 = 0x04;
/// Extension id of Remote FENCE.I.
pub const REMOTE_FENCE_I: u64 = 0x05;
/// Extension id of Remote SFENCE.VMA.
pub const REMOTE_SFENCE_VMA: u64 = 0x06;
/// Extension id of Remote SFENCE.VMA with ASID.
pub const REMOTE_SFENCE_VMA_ASID: u64 = 0x07;
/// Extension id of System Shutdown. Those above it are reserved.
pub const SHUTDOWN: u64 = 0x08;

/// Bits of a word of a list of harts.
const WORD_BITS: usize = u64::BITS as usize;
/// Bytes of a word of a list of harts.
const WORD_BYTES: usize = size_of::<u64>();
/// The most words of a list of harts.
const MAX_WORDS: usize = (MAX_HARTS as usize).div_ceil(WORD_BITS);

/// Answers a legacy call with the value for `a0`.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> i64 {
    if !platform.implements(call.extension) {
        return Error::NotSupported.code();
    }
    let [first, start, size, asid, ..] = call.args;
    let result = match call.extension {
        SET_TIMER => {
            time::set_timer(first, platform);
            Ok(SUCCESS)
        }
        CONSOLE_PUTCHAR => Ok(console_putchar(first, platform)),
        CONSOLE_GETCHAR => Ok(console_getchar(platform)),
        CLEAR_IPI => Ok(platform.clear_ipi().into()),
        SEND_IPI => for_harts(first, platform, ipi::send),
        REMOTE_FENCE_I => for_harts(first, platform, rfence::fence_i),
        REMOTE_SFENCE_VMA => FenceRange::new(start, size).and_then(|range| {
            for_harts(first, platform, |harts, platform| {
                rfence::sfence_vma(harts, range, None, platform);
            })
        }),
        REMOTE_SFENCE_VMA_ASID => FenceRange::new(start, size).and_then(|range| {
            let asid = rfence::valid_asid(asid)?;
            for_harts(first, platform, |harts, platform| {
                rfence::sfence_vma(harts, range, Some(asid), platform);
            })
        }),
        SHUTDOWN => shutdown(platform),
        _ => Err(Error::NotSupported),
    };
    match result {
        Ok(value) => value,
        Err(error) => error.code(),
    }
}

/// Does something to the harts of the list at a virtual address. The specification does not say what a list is that is
/// nowhere, or that names harts that do not exist. As with the implementations for which legacy guests were written (BBL and
/// OpenSBI), address 0 is all harts, and there is nothing to be done to a hart that does not exist.
fn for_harts<P: Platform>(
    list: u64,
    platform: &mut P,
    action: impl Fn(&HartSet, &mut P),
) -> Result<i64, Error> {
    let count = platform.harts();
    if list == 0 {
        action(&HartSet::all(count), platform);
        return Ok(SUCCESS);
    }
    let mut buffer = [0; MAX_WORDS.saturating_mul(WORD_BYTES)];
    let words = (count as usize).div_ceil(WORD_BITS);
    let bytes = buffer
        .get_mut(..words.saturating_mul(WORD_BYTES))
        .ok_or(Error::Failed)?;
    platform
        .read_virtual(list, bytes)
        .map_err(|_| Error::Failed)?;
    let (words, _) = bytes.as_chunks();
    for (first, word) in (0..count).step_by(WORD_BITS).zip(words) {
        let missing = u64::BITS.saturating_sub(count.saturating_sub(first));
        let existing = u64::MAX.unbounded_shr(missing);
        let mask = u64::from_le_bytes(*word) & existing;
        let harts = HartSet::new(mask, first.into(), count)?;
        if !harts.is_empty() {
            action(&harts, platform);
        }
    }
    Ok(SUCCESS)
}

/// Switches the machine off.
fn shutdown(platform: &mut impl Platform) -> Result<i64, Error> {
    platform.system_reset(End::PowerOff)?;
    Ok(SUCCESS)
}

/// Writes a character and waits until the console has taken it. The parameter is a C `int` of which the console takes
/// the low byte.
fn console_putchar(character: u64, platform: &mut impl Platform) -> i64 {
    let [byte, ..] = character.to_le_bytes();
    match platform.console_write_byte(byte) {
        Ok(()) => SUCCESS,
        Err(_) => Error::Failed.code(),
    }
}

/// Reads a character without waiting. The specification has one answer for "nothing there" and "failed"; so has this.
fn console_getchar(platform: &mut impl Platform) -> i64 {
    let mut byte = [0];
    match platform.console_read(&mut byte) {
        Ok(1..) => i64::from(u8::from_le_bytes(byte)),
        Ok(0) | Err(_) => platform.legacy_getchar_empty(),
    }
}
