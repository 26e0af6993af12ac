//! The timer (SBI 3.0, chapter "Timer Extension").

use super::pmu::{self, Event};
use super::{Call, Error, Platform};

/// Extension id, "TIME".
pub const EID: u64 = 0x5449_4d45;
/// Function id of Set Timer.
pub const SET_TIMER: u64 = 0;

/// Answers a call of this extension, which never fails.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let [deadline, ..] = call.args;
    match call.function {
        SET_TIMER => {
            set_timer(deadline, platform);
            Ok(0)
        }
        _ => Err(Error::NotSupported),
    }
}

/// Sets the calling hart's timer.
pub(super) fn set_timer(deadline: u64, platform: &mut impl Platform) {
    platform.set_timer(deadline);
    pmu::count(Event::SetTimer, 1, platform);
}

#[cfg(test)]
mod tests {
    use super::super::test_platform::TestPlatform;
    use super::super::{Error, Return, handle};
    use super::*;

    fn call(function: u64, deadline: u64, platform: &mut TestPlatform) -> Return {
        let call = Call {
            extension: EID,
            function,
            args: [deadline, 1, 2, 3, 4, 5],
        };
        handle(&call, platform)
    }

    #[test]
    fn a_deadline_reaches_the_platform_as_it_is() {
        let mut platform = TestPlatform::default();
        for deadline in [0, 1, 1 << 40, u64::MAX] {
            assert_eq!(call(SET_TIMER, deadline, &mut platform), Return::success(0));
            assert_eq!(platform.timer, Some(deadline));
        }
    }

    #[test]
    fn there_is_no_second_function() {
        let mut platform = TestPlatform::default();
        for function in [1, 0xbad, 1 << 32, u64::MAX] {
            assert_eq!(
                call(function, 7, &mut platform),
                Return::error(Error::NotSupported)
            );
        }
        assert_eq!(platform.timer, None);
    }
}
