//! The supervisor binary interface, version 3.0: the calls that reach the hypervisor.
//!
//! One module per extension; [`handle`] is the only dispatcher. The extension says what a call means, [`Platform`] says
//! how this flavor of the hypervisor does it.

use crate::addr::GuestPhysAddr;

pub mod base;
pub mod dbcn;
pub mod legacy;
pub mod susp;

/// The call succeeded (binary encoding, table 1, like all codes below).
pub const SUCCESS: i64 = 0;
/// The call failed for a reason that has no code of its own.
pub const ERR_FAILED: i64 = -1;
/// No such extension or function.
pub const ERR_NOT_SUPPORTED: i64 = -2;
/// A parameter is invalid.
pub const ERR_INVALID_PARAM: i64 = -3;
/// The caller may not do that.
pub const ERR_DENIED: i64 = -4;
/// An address is invalid.
pub const ERR_INVALID_ADDRESS: i64 = -5;
/// What was asked for is there already.
pub const ERR_ALREADY_AVAILABLE: i64 = -6;
/// What was to be started runs already.
pub const ERR_ALREADY_STARTED: i64 = -7;
/// What was to be stopped stands already.
pub const ERR_ALREADY_STOPPED: i64 = -8;
/// The call needs shared memory and none was set up.
pub const ERR_NO_SHMEM: i64 = -9;
/// Something is in a state in which the call cannot be done.
pub const ERR_INVALID_STATE: i64 = -10;
/// A range is invalid.
pub const ERR_BAD_RANGE: i64 = -11;
/// The call gave up after a time.
pub const ERR_TIMEOUT: i64 = -12;
/// Input or output failed.
pub const ERR_IO: i64 = -13;
/// The call is not allowed because something is locked.
pub const ERR_DENIED_LOCKED: i64 = -14;

/// An SBI call as the guest's registers have it at its `ecall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The extension id (EID), from `a7`.
    pub extension: u64,
    /// The function id (FID), from `a6`. Legacy extensions ignore it.
    pub function: u64,
    /// The arguments, from `a0` to `a5`.
    pub args: [u64; 6],
}

/// What an SBI call returns. The two calling conventions differ in more than meaning: a legacy call must leave `a1` as
/// it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// `struct sbiret`, of every extension since SBI 0.2.
    Sbiret {
        /// [`SUCCESS`] or one of the error codes, for `a0`.
        error: i64,
        /// What the function defines, for `a1`; 0 with an error.
        value: u64,
    },
    /// The single value of a legacy extension, for `a0`.
    Legacy(i64),
}

impl Return {
    /// Success with a value.
    #[must_use]
    pub const fn success(value: u64) -> Self {
        Self::Sbiret {
            error: SUCCESS,
            value,
        }
    }

    /// An error, with one of the codes above.
    #[must_use]
    pub const fn error(error: i64) -> Self {
        Self::Sbiret { error, value: 0 }
    }

    /// What `a0` and `a1` hold after `call`.
    #[must_use]
    pub const fn registers(&self, call: &Call) -> [u64; 2] {
        let [_, a1, ..] = call.args;
        match *self {
            Self::Sbiret { error, value } => [error.cast_unsigned(), value],
            Self::Legacy(value) => [value.cast_unsigned(), a1],
        }
    }
}

/// The console behind the platform failed, beyond being full or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleError;

/// A range is not guest memory, or not memory that may be used that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMemory;

/// What a call wants to do with guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The hypervisor reads what the guest wrote.
    Read,
    /// The hypervisor writes for the guest to read.
    Write,
}

/// What the extensions need of the hypervisor they run in.
pub trait Platform {
    /// Writes bytes to the console without waiting and returns how many it took, which may be none.
    ///
    /// # Errors
    /// [`ConsoleError`] if the console failed; being full is not a failure.
    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, ConsoleError>;

    /// Writes one byte to the console and returns once the console has taken it.
    ///
    /// # Errors
    /// [`ConsoleError`] if the console failed.
    fn console_write_byte(&mut self, byte: u8) -> Result<(), ConsoleError>;

    /// Reads from the console what is there, without waiting, and returns how many bytes that was.
    ///
    /// # Errors
    /// [`ConsoleError`] if the console failed; having nothing is not a failure.
    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, ConsoleError>;

    /// Whether all `size` bytes from `address` are guest memory that can be accessed so. The guest chooses both, so the
    /// range may wrap around the address space: then it is not.
    fn is_memory(&self, address: GuestPhysAddr, size: u64, access: Access) -> bool;

    /// Fills `buffer` from guest memory.
    ///
    /// # Errors
    /// [`BadMemory`] if not all of it is guest memory.
    fn read_memory(&mut self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), BadMemory>;

    /// Copies `bytes` to guest memory.
    ///
    /// # Errors
    /// [`BadMemory`] if not all of it is guest memory.
    fn write_memory(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), BadMemory>;

    /// Suspends the machine to RAM. When it wakes up, the calling hart, which is the only one that runs, begins at
    /// `resume_address` as a started hart does: with its id in `a0` and `opaque` in `a1` (SBI 3.0, chapter "System Suspend
    /// Extension").
    ///
    /// # Errors
    /// One of the error codes, such as [`ERR_DENIED`] while another hart runs.
    fn system_suspend(&mut self, resume_address: GuestPhysAddr, opaque: u64) -> Result<(), i64>;

    /// What legacy `console_getchar` answers when the console has nothing. The specification says -1; some guests know
    /// only 0.
    fn legacy_getchar_empty(&self) -> i64 {
        -1
    }
}

/// Answers one call. Extensions and functions that are not implemented get [`ERR_NOT_SUPPORTED`], as the specification
/// demands (binary encoding).
pub fn handle(call: &Call, platform: &mut impl Platform) -> Return {
    match call.extension {
        legacy::FIRST_EID..=legacy::LAST_EID => Return::Legacy(legacy::handle(call, platform)),
        base::EID => base::handle(call),
        dbcn::EID => dbcn::handle(call, platform),
        susp::EID => susp::handle(call, platform),
        _ => Return::error(ERR_NOT_SUPPORTED),
    }
}

/// Whether [`handle`] carries out calls of this extension.
const fn implements(extension: u64) -> bool {
    matches!(
        extension,
        base::EID | dbcn::EID | susp::EID | legacy::CONSOLE_PUTCHAR | legacy::CONSOLE_GETCHAR
    )
}

#[cfg(test)]
mod test_platform;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::test_platform::TestPlatform;
    use super::*;

    /// Of BASE what KVM keeps to itself, vendor, firmware and experimental extensions, those that KVM keeps to itself, and ids that are none.
    const UNSUPPORTED: [u64; 9] = [
        0x10,
        0x5449_4d45,
        0x5352_5354,
        0x0800_0000,
        0x08ff_ffff,
        0x0900_0000,
        0x0a00_0000,
        0xffff_ffff,
        u64::MAX,
    ];

    #[test]
    fn what_is_not_implemented_is_not_supported() {
        let mut platform = TestPlatform::default();
        for extension in UNSUPPORTED {
            let call = Call {
                extension,
                function: 0,
                args: [1; 6],
            };
            assert_eq!(
                handle(&call, &mut platform).registers(&call),
                [(-2_i64).cast_unsigned(), 0]
            );
        }
    }

    #[test]
    fn an_extension_id_is_compared_whole() {
        let mut platform = TestPlatform::default();
        let call = Call {
            extension: 1 << 32 | legacy::CONSOLE_PUTCHAR,
            function: 0,
            args: [0x41; 6],
        };
        assert_eq!(
            handle(&call, &mut platform),
            Return::error(ERR_NOT_SUPPORTED)
        );
        assert!(platform.written.is_empty());
    }

    #[test]
    fn results_are_returned_in_two_registers() {
        let call = Call {
            extension: 0x10,
            function: 0,
            args: [1; 6],
        };
        assert_eq!(Return::success(7).registers(&call), [0, 7]);
        assert_eq!(
            Return::error(ERR_DENIED).registers(&call),
            [u64::MAX - 3, 0]
        );
    }

    proptest! {
        #[test]
        fn no_call_panics(
            extension in prop_oneof![0..0x20_u64, Just(dbcn::EID), Just(susp::EID), any::<u64>()],
            function in prop_oneof![0..4_u64, any::<u64>()],
            args: [u64; 6],
        ) {
            let call = Call { extension, function, args };
            let _ = handle(&call, &mut TestPlatform::default()).registers(&call);
        }
    }
}
