//! The base extension (SBI 3.0, chapter "Base Extension"). Of a guest under KVM, only the probes of experimental and
//! vendor-specific extensions get here: KVM handles all other calls itself.

use super::{Call, Error, Platform, is_available};

/// Extension id.
pub const EID: u64 = 0x10;
/// Function id of Get SBI specification version.
pub const GET_SPEC_VERSION: u64 = 0;
/// Function id of Get SBI implementation ID.
pub const GET_IMPL_ID: u64 = 1;
/// Function id of Get SBI implementation version.
pub const GET_IMPL_VERSION: u64 = 2;
/// Function id of Probe SBI extension.
pub const PROBE_EXTENSION: u64 = 3;
/// Function id of Get machine vendor ID.
pub const GET_MVENDORID: u64 = 4;
/// Function id of Get machine architecture ID.
pub const GET_MARCHID: u64 = 5;
/// Function id of Get machine implementation ID.
pub const GET_MIMPID: u64 = 6;

/// Version 3.0 of the specification: the major number from bit 24 on, the minor number below.
pub const SPEC_VERSION: u64 = 3 << 24;

/// The implementation id, "hv": none of those that are assigned, for it has the quirks of none of them.
pub const IMPL_ID: u64 = 0x6876;

/// The implementation's version, which is that of this crate: the major number from bit 16 on, the minor number below.
pub const IMPL_VERSION: u64 =
    number(env!("CARGO_PKG_VERSION_MAJOR")) << 16 | number(env!("CARGO_PKG_VERSION_MINOR"));

/// Values that are legal for the CSRs of these names. 0 is one for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Who made the hart: a JEDEC id, of 32 bits.
    pub mvendorid: u64,
    /// Which microarchitecture it has.
    pub marchid: u64,
    /// Which version of it.
    pub mimpid: u64,
}

const fn number(digits: &str) -> u64 {
    match u64::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

/// Answers a call of this extension. None of its functions fails: a probe's value is 0 for what is not there.
pub(super) fn handle(call: &Call, platform: &impl Platform) -> Result<u64, Error> {
    let [extension, ..] = call.args;
    match call.function {
        GET_SPEC_VERSION => Ok(SPEC_VERSION),
        GET_IMPL_ID => Ok(IMPL_ID),
        GET_IMPL_VERSION => Ok(IMPL_VERSION),
        PROBE_EXTENSION => Ok(is_available(extension, platform).into()),
        GET_MVENDORID => Ok(platform.identity().mvendorid),
        GET_MARCHID => Ok(platform.identity().marchid),
        GET_MIMPID => Ok(platform.identity().mimpid),
        _ => Err(Error::NotSupported),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_platform::TestPlatform;
    use super::super::{Return, dbcn, handle, hsm, ipi, legacy, pmu, rfence, srst, susp, time};
    use super::*;

    fn call(function: u64, argument: u64, platform: &mut TestPlatform) -> Return {
        let call = Call {
            extension: EID,
            function,
            args: [argument, 1, 2, 3, 4, 5],
        };
        handle(&call, platform)
    }

    fn probe(extension: u64) -> Return {
        call(PROBE_EXTENSION, extension, &mut TestPlatform::default())
    }

    #[test]
    fn the_specification_is_version_3_0() {
        let version = call(GET_SPEC_VERSION, 0, &mut TestPlatform::default());
        assert_eq!(version, Return::success(0x0300_0000));
    }

    #[test]
    fn the_implementation_is_none_of_those_that_have_an_id() {
        let mut platform = TestPlatform::default();
        assert_eq!(call(GET_IMPL_ID, 0, &mut platform), Return::success(0x6876));
        assert!(matches!(
            call(GET_IMPL_VERSION, 0, &mut platform),
            Return::Sbiret(Ok(1..))
        ));
        assert_eq!(number("12"), 12);
    }

    #[test]
    fn the_hart_is_the_platform_s() {
        let mut platform = TestPlatform {
            identity: Identity {
                mvendorid: 0x489,
                marchid: 1 << 63 | 7,
                mimpid: 42,
            },
            ..TestPlatform::default()
        };
        for (function, expected) in [(4, 0x489), (5, 1 << 63 | 7), (6, 42)] {
            assert_eq!(call(function, 0, &mut platform), Return::success(expected));
        }
    }

    #[test]
    fn a_probe_finds_what_is_there() {
        for extension in [
            EID,
            dbcn::EID,
            hsm::EID,
            ipi::EID,
            pmu::EID,
            rfence::EID,
            srst::EID,
            susp::EID,
            time::EID,
        ] {
            assert_eq!(probe(extension), Return::success(1), "{extension:#x}");
        }
        for extension in legacy::FIRST_EID..=legacy::SHUTDOWN {
            assert_eq!(probe(extension), Return::success(1), "{extension:#x}");
        }
    }

    #[test]
    fn a_probe_of_nothing_succeeds_with_zero() {
        for extension in [
            0x09,
            0x0f,
            0x11,
            1 << 32 | EID,
            0x0800_0000,
            0x08ff_ffff,
            0x0900_0000,
            0x0a00_0000,
            0x0b00_0000,
            u64::MAX,
        ] {
            assert_eq!(probe(extension), Return::success(0), "{extension:#x}");
        }
    }

    #[test]
    fn a_probe_does_not_find_what_the_platform_leaves_to_others() {
        let mut platform = TestPlatform {
            extensions: Some(&[EID, dbcn::EID]),
            ..TestPlatform::default()
        };
        for (extension, there) in [(EID, 1), (dbcn::EID, 1), (time::EID, 0), (0, 0), (8, 0)] {
            assert_eq!(
                call(PROBE_EXTENSION, extension, &mut platform),
                Return::success(there)
            );
        }
    }

    #[test]
    fn there_is_no_eighth_function() {
        for function in [7, 0xbad, 1 << 32, u64::MAX] {
            assert_eq!(
                call(function, 0, &mut TestPlatform::default()),
                Return::error(Error::NotSupported)
            );
        }
    }
}
