//! Fences of other harts (SBI 3.0, chapter "RFENCE Extension"). The hypervisor's fences are not supported: a guest's harts
//! have no hypervisor extension.

use super::pmu::{self, Event};
use super::{Call, Error, HartSet, Platform};

/// Extension id, "RFNC".
pub const EID: u64 = 0x5246_4e43;
/// Function id of Remote FENCE.I.
pub const REMOTE_FENCE_I: u64 = 0;
/// Function id of Remote SFENCE.VMA.
pub const REMOTE_SFENCE_VMA: u64 = 1;
/// Function id of Remote SFENCE.VMA with ASID.
pub const REMOTE_SFENCE_VMA_ASID: u64 = 2;

/// The largest address space identifier that `satp` has room for (privileged specification, section 12.1.11).
const MAX_ASID: u64 = 0xffff;

/// The addresses that a fence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceRange {
    /// The whole address space.
    All,
    /// A range that does not go round the end of the address space.
    Part {
        /// The first address.
        start: u64,
        /// How many bytes, which may be none.
        size: u64,
    },
}

impl FenceRange {
    /// The range that a guest names: everything if both values are 0, or if the size is the largest there is.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] if it goes beyond the end of the address space.
    pub const fn new(start: u64, size: u64) -> Result<Self, Error> {
        match (start, size) {
            (0, 0) | (_, u64::MAX) => Ok(Self::All),
            _ if start.checked_add(size.saturating_sub(1)).is_none() => Err(Error::InvalidAddress),
            _ => Ok(Self::Part { start, size }),
        }
    }
}

/// Answers a call of this extension.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let [mask, base, start, size, asid, _] = call.args;
    if call.function > REMOTE_SFENCE_VMA_ASID {
        return Err(Error::NotSupported);
    }
    let harts = HartSet::new(mask, base, platform.harts())?;
    match call.function {
        REMOTE_FENCE_I => fence_i(&harts, platform),
        REMOTE_SFENCE_VMA => sfence_vma(&harts, FenceRange::new(start, size)?, None, platform),
        _ => {
            let range = FenceRange::new(start, size)?;
            sfence_vma(&harts, range, Some(valid_asid(asid)?), platform);
        }
    }
    Ok(0)
}

/// An address space identifier, if it can be one.
pub(super) fn valid_asid(asid: u64) -> Result<u64, Error> {
    if asid <= MAX_ASID {
        Ok(asid)
    } else {
        Err(Error::InvalidParam)
    }
}

/// Fences the instruction fetches of `harts`.
pub(super) fn fence_i(harts: &HartSet, platform: &mut impl Platform) {
    if !harts.is_empty() {
        platform.remote_fence_i(harts);
    }
    pmu::count_sent(Event::FenceISent, harts, platform);
}

/// Fences the address translation of `harts`.
pub(super) fn sfence_vma(
    harts: &HartSet,
    range: FenceRange,
    asid: Option<u64>,
    platform: &mut impl Platform,
) {
    if !harts.is_empty() {
        platform.remote_sfence_vma(harts, range, asid);
    }
    let event = match asid {
        None => Event::SfenceVmaSent,
        Some(_) => Event::SfenceVmaAsidSent,
    };
    pmu::count_sent(event, harts, platform);
}

#[cfg(test)]
mod tests {
    use super::super::test_platform::{Fence, TestPlatform};
    use super::super::{Return, handle};
    use super::*;

    /// Of harts 1 and 2, with these further arguments.
    fn call(function: u64, [start, size, asid]: [u64; 3], platform: &mut TestPlatform) -> Return {
        call_of([0b11, 1, start, size, asid, 5], function, platform)
    }

    fn call_of(args: [u64; 6], function: u64, platform: &mut TestPlatform) -> Return {
        let call = Call {
            extension: EID,
            function,
            args,
        };
        handle(&call, platform)
    }

    fn harts() -> HartSet {
        HartSet::new(0b11, 1, 4).unwrap()
    }

    #[test]
    fn each_fence_is_what_it_is_called() {
        let mut platform = TestPlatform::default();
        for function in 0..3 {
            assert_eq!(
                call(function, [0x1000, 0x2000, 9], &mut platform),
                Return::success(0)
            );
        }
        let range = FenceRange::Part {
            start: 0x1000,
            size: 0x2000,
        };
        assert_eq!(
            platform.fenced,
            [
                Fence::Instructions(harts()),
                Fence::Memory(harts(), range, None),
                Fence::Memory(harts(), range, Some(9)),
            ]
        );
    }

    #[test]
    fn a_fence_of_everything_is_written_in_two_ways() {
        for (start, size) in [
            (0, 0),
            (0, u64::MAX),
            (0x1000, u64::MAX),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(FenceRange::new(start, size), Ok(FenceRange::All));
        }
        for (start, size) in [
            (0, 1),
            (0x1000, 0),
            (u64::MAX, 0),
            (0, u64::MAX - 1),
            (0xffff_ffff_ffff_f000, 0x1000),
            (u64::MAX, 1),
        ] {
            assert_eq!(
                FenceRange::new(start, size),
                Ok(FenceRange::Part { start, size })
            );
        }
    }

    #[test]
    fn a_range_round_the_end_is_an_invalid_address() {
        let mut platform = TestPlatform::default();
        for (start, size) in [
            (u64::MAX, 2),
            (0xffff_ffff_ffff_f000, 0x1001),
            (3, u64::MAX - 1),
        ] {
            for function in [REMOTE_SFENCE_VMA, REMOTE_SFENCE_VMA_ASID] {
                assert_eq!(
                    call(function, [start, size, 0], &mut platform),
                    Return::error(Error::InvalidAddress)
                );
            }
        }
        assert!(platform.fenced.is_empty());
        assert_eq!(
            call(REMOTE_FENCE_I, [u64::MAX, 2, u64::MAX], &mut platform),
            Return::success(0),
            "it has no range"
        );
    }

    #[test]
    fn harts_and_address_spaces_that_cannot_be_are_invalid_parameters() {
        let mut platform = TestPlatform::default();
        for function in 0..3 {
            assert_eq!(
                call_of([1, 4, 0, 0, 0, 0], function, &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        for asid in [0x1_0000, u64::MAX] {
            assert_eq!(
                call(REMOTE_SFENCE_VMA_ASID, [0, 0, asid], &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        assert!(platform.fenced.is_empty());
        assert_eq!(
            call(REMOTE_SFENCE_VMA_ASID, [0, 0, 0xffff], &mut platform),
            Return::success(0)
        );
    }

    #[test]
    fn no_hart_is_no_error() {
        let mut platform = TestPlatform::default();
        for function in 0..3 {
            assert_eq!(
                call_of([0, 9, 0, 0, 0, 0], function, &mut platform),
                Return::success(0)
            );
        }
        assert!(platform.fenced.is_empty());
    }

    #[test]
    fn the_hypervisors_fences_are_not_supported() {
        let mut platform = TestPlatform::default();
        for function in [3, 4, 5, 6, 7, 0xbad, 1 << 32] {
            for mask in [1, u64::MAX] {
                assert_eq!(
                    call_of([mask, 0, 0, 0, 0, 0], function, &mut platform),
                    Return::error(Error::NotSupported)
                );
            }
        }
        assert!(platform.fenced.is_empty());
    }
}
