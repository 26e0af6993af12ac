//! Interrupts between harts (SBI 3.0, chapter "IPI Extension").

use super::pmu::{self, Event};
use super::{Call, Error, HartSet, Platform};

/// Extension id, "sPI".
pub const EID: u64 = 0x73_5049;
/// Function id of Send IPI.
pub const SEND_IPI: u64 = 0;

/// Answers a call of this extension.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let [mask, base, ..] = call.args;
    if call.function != SEND_IPI {
        return Err(Error::NotSupported);
    }
    send(&HartSet::new(mask, base, platform.harts())?, platform);
    Ok(0)
}

/// Interrupts `harts`.
pub(super) fn send(harts: &HartSet, platform: &mut impl Platform) {
    for hart in harts.iter() {
        platform.send_ipi(hart);
    }
    pmu::count_sent(Event::IpiSent, harts, platform);
}

#[cfg(test)]
mod tests {
    use super::super::test_platform::TestPlatform;
    use super::super::{Error, Return, handle};
    use super::*;

    fn call(function: u64, mask: u64, base: u64, platform: &mut TestPlatform) -> Return {
        let call = Call {
            extension: EID,
            function,
            args: [mask, base, 2, 3, 4, 5],
        };
        handle(&call, platform)
    }

    #[test]
    fn the_harts_of_the_mask_are_interrupted() {
        for (mask, base, expected) in [
            (0b101, 1, &[1, 3][..]),
            (0, 0, &[]),
            (0, 1, &[]),
            (0, u64::MAX, &[0, 1, 2, 3]),
        ] {
            let mut platform = TestPlatform::default();
            assert_eq!(
                call(SEND_IPI, mask, base, &mut platform),
                Return::success(0)
            );
            assert_eq!(platform.interrupted, expected);
        }
    }

    #[test]
    fn one_hart_that_does_not_exist_keeps_the_others_from_being_interrupted() {
        let mut platform = TestPlatform::default();
        for (mask, base) in [(0b11, 3), (1, 4)] {
            assert_eq!(
                call(SEND_IPI, mask, base, &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        assert!(platform.interrupted.is_empty());
    }

    #[test]
    fn there_is_no_second_function() {
        let mut platform = TestPlatform::default();
        for function in [1, 0xbad, 1 << 32] {
            assert_eq!(
                call(function, 1, 0, &mut platform),
                Return::error(Error::NotSupported)
            );
        }
        assert!(platform.interrupted.is_empty());
    }
}
