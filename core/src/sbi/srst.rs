//! System reset (SBI 3.0, chapter "System Reset Extension").

use super::{Call, Error, Platform};
use crate::ending::End;

/// Extension id, "SRST".
pub const EID: u64 = 0x5352_5354;
/// Function id of System Reset.
pub const SYSTEM_RESET: u64 = 0;

/// Reset type: the machine is switched off.
pub const SHUTDOWN: u64 = 0;
/// Reset type: it is switched off and on again.
pub const COLD_REBOOT: u64 = 1;
/// Reset type: its harts and part of it start anew.
pub const WARM_REBOOT: u64 = 2;

/// Reset reason: none that would matter.
pub const NO_REASON: u64 = 0;
/// Reset reason: the guest failed.
pub const SYSTEM_FAILURE: u64 = 1;

/// Answers a call of this extension. Both parameters are 32 bits wide; the values not named here are reserved, or the
/// platform's and not implemented.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let [kind, reason, ..] = call.args.map(|argument| argument & u64::from(u32::MAX));
    if call.function != SYSTEM_RESET {
        return Err(Error::NotSupported);
    }
    let failed = match reason {
        NO_REASON => false,
        SYSTEM_FAILURE => true,
        _ => return Err(Error::InvalidParam),
    };
    let end = match kind {
        SHUTDOWN if failed => End::SystemFailure,
        SHUTDOWN => End::PowerOff,
        COLD_REBOOT | WARM_REBOOT => End::Reset,
        _ => return Err(Error::InvalidParam),
    };
    platform.system_reset(end)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::test_platform::TestPlatform;
    use super::super::{Return, handle};
    use super::*;

    fn call(function: u64, kind: u64, reason: u64, platform: &mut TestPlatform) -> Return {
        let call = Call {
            extension: EID,
            function,
            args: [kind, reason, 2, 3, 4, 5],
        };
        handle(&call, platform)
    }

    #[test]
    fn each_reset_is_what_it_is_called() {
        for (kind, reason, end) in [
            (0, 0, End::PowerOff),
            (0, 1, End::SystemFailure),
            (1, 0, End::Reset),
            (1, 1, End::Reset),
            (2, 0, End::Reset),
            (2, 1, End::Reset),
            // The upper halves of the registers do not count.
            (1 << 32, 1 << 63, End::PowerOff),
            (1 << 32, 1 << 63 | 1, End::SystemFailure),
            (1 << 32 | 2, 1 << 32, End::Reset),
        ] {
            let mut platform = TestPlatform::default();
            assert_eq!(call(0, kind, reason, &mut platform), Return::success(0));
            assert_eq!(platform.end, Some(end), "{kind:#x} {reason:#x}");
        }
    }

    #[test]
    fn reserved_and_platform_specific_values_are_invalid_parameters() {
        let mut platform = TestPlatform::default();
        for kind in [3, 0xefff_ffff, 0xf000_0000, 0xffff_ffff, u64::MAX] {
            assert_eq!(
                call(0, kind, 0, &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        for reason in [
            2,
            0xdfff_ffff,
            0xe000_0000,
            0xefff_ffff,
            0xf000_0000,
            0xffff_ffff,
        ] {
            assert_eq!(
                call(0, 0, reason, &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        assert_eq!(platform.end, None);
    }

    #[test]
    fn what_the_platform_cannot_do_is_its_error() {
        let mut platform = TestPlatform {
            refusal: Some(Error::NotSupported),
            ..TestPlatform::default()
        };
        assert_eq!(
            call(0, 2, 0, &mut platform),
            Return::error(Error::NotSupported)
        );
    }

    #[test]
    fn there_is_no_second_function() {
        let mut platform = TestPlatform::default();
        for function in [1, 0xbad, 1 << 32] {
            assert_eq!(
                call(function, 0, 0, &mut platform),
                Return::error(Error::NotSupported)
            );
        }
        assert_eq!(platform.end, None);
    }
}
