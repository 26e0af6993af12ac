//! The base extension (SBI 3.0, chapter "Base Extension"), as far as it reaches the hypervisor: KVM answers all of it but
//! the probe of an experimental or a vendor-specific extension.

use super::{Call, ERR_NOT_SUPPORTED, Return, implements};

/// Extension id.
pub const EID: u64 = 0x10;
/// Function id of Probe SBI extension.
pub const PROBE_EXTENSION: u64 = 3;

/// Answers a call of this extension. A probe never fails: its value is 0 for what is not there.
pub(super) fn handle(call: &Call) -> Return {
    let [extension, ..] = call.args;
    match call.function {
        PROBE_EXTENSION => Return::success(implements(extension).into()),
        _ => Return::error(ERR_NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests {
    use super::super::dbcn;
    use super::super::legacy;
    use super::*;

    fn probe(extension: u64) -> Return {
        handle(&Call {
            extension: EID,
            function: PROBE_EXTENSION,
            args: [extension, 1, 2, 3, 4, 5],
        })
    }

    #[test]
    fn a_probe_finds_what_is_there() {
        for extension in [
            EID,
            dbcn::EID,
            legacy::CONSOLE_PUTCHAR,
            legacy::CONSOLE_GETCHAR,
        ] {
            assert_eq!(probe(extension), Return::success(1), "{extension:#x}");
        }
    }

    #[test]
    fn a_probe_of_nothing_succeeds_with_zero() {
        for extension in [
            0x00,
            0x03,
            0x0800_0000,
            0x08ff_ffff,
            0x0900_0000,
            0x0a00_0000,
            u64::MAX,
        ] {
            assert_eq!(probe(extension), Return::success(0), "{extension:#x}");
        }
    }
}
