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

#[cfg(test)]
mod tests {
    use super::super::test_platform::TestPlatform;
    use super::super::{Return, handle};
    use super::*;

    /// Calls with a function id that is to be ignored. Returns `a0` and `a1`.
    fn call(extension: u64, character: u64, platform: &mut TestPlatform) -> [u64; 2] {
        let call = Call {
            extension,
            function: 0x5555,
            args: [character, 0x1111, 2, 3, 4, 5],
        };
        let answer = handle(&call, platform);
        assert!(matches!(answer, Return::Legacy(_)));
        answer.registers(&call)
    }

    #[test]
    fn putchar_writes_the_low_byte_and_leaves_a1() {
        let mut platform = TestPlatform::default();
        assert_eq!(
            call(CONSOLE_PUTCHAR, 0xffff_ffff_ffff_ff41, &mut platform),
            [0, 0x1111]
        );
        assert_eq!(platform.written, b"A");
        platform.broken = true;
        assert_eq!(
            call(CONSOLE_PUTCHAR, 0x41, &mut platform),
            [u64::MAX, 0x1111]
        );
    }

    #[test]
    fn getchar_returns_the_byte_unsigned_and_leaves_a1() {
        let mut platform = TestPlatform::default();
        platform.input.extend([0xff, 0]);
        assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [0xff, 0x1111]);
        assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [0, 0x1111]);
    }

    #[test]
    fn getchar_without_a_character_is_minus_one_or_what_the_platform_chose() {
        let mut platform = TestPlatform::default();
        assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [u64::MAX, 0x1111]);
        platform.getchar_empty = 0;
        assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [0, 0x1111]);
    }

    #[test]
    fn the_other_legacy_extensions_are_not_supported_and_leave_a1() {
        let mut platform = TestPlatform::default();
        for extension in
            (FIRST_EID..=LAST_EID).filter(|id| ![CONSOLE_PUTCHAR, CONSOLE_GETCHAR].contains(id))
        {
            assert_eq!(
                call(extension, 0, &mut platform),
                [ERR_NOT_SUPPORTED.cast_unsigned(), 0x1111]
            );
        }
        assert!(platform.written.is_empty());
    }
}
