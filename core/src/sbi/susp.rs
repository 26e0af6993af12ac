//! System suspend (SBI 3.0, chapter "System Suspend Extension").

use super::{Call, Error, Platform, entry};

/// Extension id, "SUSP".
pub const EID: u64 = 0x5355_5350;
/// Function id of System Suspend.
pub const SYSTEM_SUSPEND: u64 = 0;

/// The sleep type that every implementation has.
const SUSPEND_TO_RAM: u64 = 0;

/// Answers a call of this extension.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let [sleep_type, resume_address, opaque, ..] = call.args;
    if call.function != SYSTEM_SUSPEND {
        return Err(Error::NotSupported);
    }
    // The parameter is 32 bits wide; all other types are reserved, or the platform's and not implemented.
    if sleep_type & u64::from(u32::MAX) != SUSPEND_TO_RAM {
        return Err(Error::InvalidParam);
    }
    let resume_address = entry(resume_address, platform)?;
    platform.system_suspend(resume_address, opaque)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::test_platform::{MEMORY, TestPlatform};
    use super::super::{Error, Return, handle};
    use super::*;
    use crate::addr::GuestPhysAddr;

    fn call(function: u64, args: [u64; 3], platform: &mut TestPlatform) -> Return {
        let [a0, a1, a2] = args;
        let call = Call {
            extension: EID,
            function,
            args: [a0, a1, a2, 9, 9, 9],
        };
        handle(&call, platform)
    }

    #[test]
    fn suspend_to_ram_is_the_platform_s_to_do() {
        let mut platform = TestPlatform::with_memory(&[0; 4]);
        let args = [0, MEMORY, 7];
        assert_eq!(call(0, args, &mut platform), Return::success(0));
        assert_eq!(platform.suspended, Some((GuestPhysAddr(MEMORY), 7)));
        platform.suspend_error = Some(Error::Denied);
        assert_eq!(call(0, args, &mut platform), Return::error(Error::Denied));
    }

    #[test]
    fn only_the_low_half_of_the_sleep_type_counts() {
        let mut platform = TestPlatform::with_memory(&[0; 4]);
        assert_eq!(
            call(0, [1 << 32, MEMORY, 7], &mut platform),
            Return::success(0)
        );
    }

    #[test]
    fn other_sleep_types_functions_and_addresses_are_refused() {
        let mut platform = TestPlatform::with_memory(&[0; 4]);
        for sleep_type in [1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(
                call(0, [sleep_type, MEMORY, 7], &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        assert_eq!(
            call(1, [0, MEMORY, 7], &mut platform),
            Return::error(Error::NotSupported)
        );
        for address in [0, MEMORY + 1, MEMORY + 4, u64::MAX] {
            assert_eq!(
                call(0, [0, address, 7], &mut platform),
                Return::error(Error::InvalidAddress)
            );
        }
        assert_eq!(platform.suspended, None);
    }
}
