//! System reset (SBI 3.0, chapter "System Reset Extension").

use super::{Call, ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, Platform};

/// Extension id, "SRST".
pub const EID: u64 = 0x5352_5354;
/// Function id of System Reset.
pub const SYSTEM_RESET: u64 = 0;

/// What is to become of the machine, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// What is to become of it.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
}

/// Reset types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The machine is switched off.
    Shutdown,
    /// It is switched off and on again.
    ColdReboot,
    /// Its harts and part of it start anew.
    WarmReboot,
}

/// Reset reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// None that would matter.
    NoReason,
    /// The guest failed.
    SystemFailure,
}

/// Answers a call of this extension. Both parameters are 32 bits wide; the values not named here are reserved, or the
/// platform's and not implemented.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, i64> {
    let [kind, reason, ..] = call.args.map(|argument| argument & u64::from(u32::MAX));
    if call.function != SYSTEM_RESET {
        return Err(ERR_NOT_SUPPORTED);
    }
    let kind = match kind {
        0 => Kind::Shutdown,
        1 => Kind::ColdReboot,
        2 => Kind::WarmReboot,
        _ => return Err(ERR_INVALID_PARAM),
    };
    let reason = match reason {
        0 => Reason::NoReason,
        1 => Reason::SystemFailure,
        _ => return Err(ERR_INVALID_PARAM),
    };
    platform.system_reset(Reset { kind, reason })?;
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
        for (number, kind) in [
            (0, Kind::Shutdown),
            (1, Kind::ColdReboot),
            (2, Kind::WarmReboot),
            (1 << 32, Kind::Shutdown),
        ] {
            for (code, reason) in [
                (0, Reason::NoReason),
                (1, Reason::SystemFailure),
                (1 << 63 | 1, Reason::SystemFailure),
            ] {
                let mut platform = TestPlatform::default();
                assert_eq!(call(0, number, code, &mut platform), Return::success(0));
                assert_eq!(platform.reset, Some(Reset { kind, reason }));
            }
        }
    }

    #[test]
    fn reserved_and_platform_specific_values_are_invalid_parameters() {
        let mut platform = TestPlatform::default();
        for kind in [3, 0xefff_ffff, 0xf000_0000, 0xffff_ffff, u64::MAX] {
            assert_eq!(
                call(0, kind, 0, &mut platform),
                Return::error(ERR_INVALID_PARAM)
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
                Return::error(ERR_INVALID_PARAM)
            );
        }
        assert_eq!(platform.reset, None);
    }

    #[test]
    fn what_the_platform_cannot_do_is_its_error() {
        let mut platform = TestPlatform {
            refusal: Some(ERR_NOT_SUPPORTED),
            ..TestPlatform::default()
        };
        assert_eq!(
            call(0, 2, 0, &mut platform),
            Return::error(ERR_NOT_SUPPORTED)
        );
    }

    #[test]
    fn there_is_no_second_function() {
        let mut platform = TestPlatform::default();
        for function in [1, 0xbad, 1 << 32] {
            assert_eq!(
                call(function, 0, 0, &mut platform),
                Return::error(ERR_NOT_SUPPORTED)
            );
        }
        assert_eq!(platform.reset, None);
    }
}
