//! The legacy extensions (SBI 3.0, chapter "Legacy Extensions", EIDs 0x00 to 0x0F), of which the hypervisor answers the
//! two console calls. They return one value, in `a0`, and their function id is ignored.

use super::{Call, ERR_FAILED, ERR_NOT_SUPPORTED, Platform, SUCCESS};

/// The first of the legacy extension ids.
pub const FIRST_EID: u64 = 0x00;
/// The last of the legacy extension ids.
pub const LAST_EID: u64 = 0x0f;
/// Extension id of Console Putchar.
pub const CONSOLE_PUTCHAR: u64 = 0x01;
/// Extension id of Console Getchar.
pub const CONSOLE_GETCHAR: u64 = 0x02;

/// Answers a legacy call with the value for `a0`.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> i64 {
    let [character, ..] = call.args;
    match call.extension {
        CONSOLE_PUTCHAR => console_putchar(character, platform),
        CONSOLE_GETCHAR => console_getchar(platform),
        _ => ERR_NOT_SUPPORTED,
    }
}

/// Writes a character and waits until the console has taken it. The parameter is a C `int` of which the console takes
/// the low byte.
fn console_putchar(character: u64, platform: &mut impl Platform) -> i64 {
    let [byte, ..] = character.to_le_bytes();
    match platform.console_write_byte(byte) {
        Ok(()) => SUCCESS,
        Err(_) => ERR_FAILED,
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
