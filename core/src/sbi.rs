//! The supervisor binary interface, version 3.0: the calls that reach the hypervisor.
//!
//! One module per extension; [`handle`] is the only dispatcher. The extension's module decodes and checks a call, and
//! [`Platform`] carries it out in this hypervisor, and says which extensions are handled elsewhere.
//!
//! A call need not return to its caller: a hart that stops, a hart or a machine that suspends and resumes elsewhere, and a
//! machine that is reset do not. The platform, which carries this out, then remembers it, and the return value of [`handle`]
//! is ignored.

use crate::addr::GuestPhysAddr;
use crate::ending::End;

pub mod base;
pub mod dbcn;
pub mod hart_set;
pub mod hsm;
pub mod ipi;
pub mod legacy;
pub mod pmu;
pub mod rfence;
pub mod srst;
pub mod susp;
pub mod time;

pub use base::Identity;
pub use hart_set::HartSet;
pub use rfence::FenceRange;

/// Extension id of steal-time accounting, "STA". No flavor implements it.
pub const STA_EID: u64 = 0x53_5441;
/// Extension id of firmware features, "FWFT". No flavor implements it.
pub const FWFT_EID: u64 = 0x4657_4654;

/// What the error code of a call that succeeded is (binary encoding, table 1, like all codes below).
pub const SUCCESS: i64 = 0;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum Error {
    /// For a reason that has no code of its own.
    Failed = -1,
    /// No such extension or function.
    NotSupported = -2,
    /// A parameter is invalid.
    InvalidParam = -3,
    /// The caller may not do that.
    Denied = -4,
    /// An address is invalid.
    InvalidAddress = -5,
    /// What was asked for is there already.
    AlreadyAvailable = -6,
    /// What was to be started runs already.
    AlreadyStarted = -7,
    /// What was to be stopped stands already.
    AlreadyStopped = -8,
    /// The call needs shared memory and none was set up.
    NoShmem = -9,
    /// Something is in a state in which the call cannot be done.
    InvalidState = -10,
    /// A range is invalid.
    BadRange = -11,
    /// The call gave up after a time.
    Timeout = -12,
    /// Input or output failed.
    Io = -13,
    /// The call is not allowed because something is locked.
    DeniedLocked = -14,
}

impl Error {
    /// The code, for `a0`.
    #[must_use]
    pub const fn code(self) -> i64 {
        self as i64
    }
}

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
    /// `struct sbiret`, of every extension since SBI 0.2: what the function defines, for `a1`, or why it failed.
    Sbiret(Result<u64, Error>),
    /// The single value of a legacy extension, for `a0`.
    Legacy(i64),
}

impl Return {
    /// Success with a value.
    #[must_use]
    pub const fn success(value: u64) -> Self {
        Self::Sbiret(Ok(value))
    }

    /// A failure.
    #[must_use]
    pub const fn error(error: Error) -> Self {
        Self::Sbiret(Err(error))
    }

    /// What `a0` and `a1` hold after `call`.
    #[must_use]
    pub const fn registers(&self, call: &Call) -> [u64; 2] {
        let [_, a1, ..] = call.args;
        match *self {
            Self::Sbiret(Ok(value)) => [SUCCESS.cast_unsigned(), value],
            Self::Sbiret(Err(error)) => [error.code().cast_unsigned(), 0],
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

/// What the extensions need of the hypervisor they run in. What an extension needs that [`Platform::implements`] denies is
/// never called, and has a body that does nothing.
pub trait Platform {
    /// Whether this flavor carries out the calls of `extension`, as far as this module knows it. All others are answered
    /// [`Error::NotSupported`], and BASE's probe tells the guest the same.
    fn implements(&self, extension: u64) -> bool;

    /// What BASE tells of the machine's maker.
    fn identity(&self) -> Identity {
        Identity::default()
    }

    /// How many harts there are; their ids are 0 to one below that.
    fn harts(&self) -> u32 {
        0
    }

    /// The hart that makes the call.
    fn current_hart(&self) -> u32 {
        0
    }

    /// Writes bytes to the console without waiting and returns how many it took, which may be none.
    ///
    /// # Errors
    /// [`ConsoleError`] if the console failed; being full is not a failure.
    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, ConsoleError>;

    /// Writes `size` bytes of guest memory to the console without waiting and returns how many it took: fewer mean that
    /// the console is full, or that the rest is not memory.
    ///
    /// What is provided does it by [`read_memory`](Self::read_memory) and [`console_write`](Self::console_write), piece by
    /// piece.
    ///
    /// # Errors
    /// If nothing was written: [`Error::InvalidParam`] if it is not memory, [`Error::Failed`] if the
    /// console failed.
    fn console_write_memory(&mut self, address: GuestPhysAddr, size: u64) -> Result<u64, Error>
    where
        Self: Sized,
    {
        dbcn::write_pieces(self, address, size)
    }

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
    /// Such as [`Error::Denied`] while another hart runs.
    fn system_suspend(&mut self, resume_address: GuestPhysAddr, opaque: u64) -> Result<(), Error>;

    /// Fills `buffer` from `address`, guest-virtual, as a load of the calling hart's S-mode would. Only legacy calls have
    /// arguments in such memory.
    ///
    /// # Errors
    /// [`BadMemory`] if a byte of it cannot be loaded. The platform then redirects the fault that a load would have met with
    /// to the guest, at the `ecall` (SBI 3.0, chapter "Legacy Extensions"), and what the call returns is ignored.
    fn read_virtual(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BadMemory> {
        let _ = (address, buffer);
        Err(BadMemory)
    }

    /// The calling hart's timer interrupt becomes pending when the `time` CSR reaches `deadline`, and is not pending before:
    /// it is cleared if it was. [`u64::MAX`] is never.
    fn set_timer(&mut self, deadline: u64) {
        let _ = deadline;
    }

    /// The software interrupt of `hart`, which exists and may be the calling one, becomes pending. A stopped hart has none.
    fn send_ipi(&mut self, hart: u32) {
        let _ = hart;
    }

    /// The software interrupt of the calling hart is not pending any more. Whether it was.
    fn clear_ipi(&mut self) -> bool {
        false
    }

    /// All of `harts` execute FENCE.I before the call returns. The calling hart may be one of them.
    fn remote_fence_i(&mut self, harts: &HartSet) {
        let _ = harts;
    }

    /// All of `harts` execute SFENCE.VMA for `range`, guest-virtual, before the call returns: for one address space, which is
    /// at most 16 bits wide, or for all of them. The calling hart may be one of the harts.
    fn remote_sfence_vma(&mut self, harts: &HartSet, range: FenceRange, asid: Option<u64>) {
        let _ = (harts, range, asid);
    }

    /// Starts `hart`, which exists, at `address`, where memory is, with its id in `a0` and `opaque` in `a1`, and with `satp`
    /// and `sstatus.SIE` 0 (SBI 3.0, chapter "Hart State Management Extension"). [`hsm::Harts::start`] is the transition.
    ///
    /// # Errors
    /// [`Error::AlreadyAvailable`] if it runs, or [`Error::Failed`].
    fn hart_start(&mut self, hart: u32, address: GuestPhysAddr, opaque: u64) -> Result<(), Error> {
        let _ = (hart, address, opaque);
        Err(Error::NotSupported)
    }

    /// Stops the calling hart, to which the call then does not return.
    ///
    /// # Errors
    /// [`Error::Failed`].
    fn hart_stop(&mut self) -> Result<(), Error> {
        Err(Error::NotSupported)
    }

    /// The state of `hart`, or `None` if there is no such hart.
    fn hart_state(&self, hart: u32) -> Option<hsm::State> {
        let _ = hart;
        None
    }

    /// Suspends the calling hart until an interrupt comes for it. With `resume`, its state is lost: the call does not return,
    /// and the hart goes on at that address as a started one does, with the value beside it in `a1`. Else it keeps its state,
    /// and the call returns then.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if this flavor cannot do that, or [`Error::Failed`].
    fn hart_suspend(&mut self, resume: Option<(GuestPhysAddr, u64)>) -> Result<(), Error> {
        let _ = resume;
        Err(Error::NotSupported)
    }

    /// The machine's run ends so: never by [`End::TestFailed`], which is the test device's. The call does not return.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if this flavor cannot do that, or [`Error::Failed`].
    fn system_reset(&mut self, end: End) -> Result<(), Error> {
        let _ = end;
        Err(Error::NotSupported)
    }

    /// The firmware counters of the calling hart, `None` on a platform that has none. The extensions count in them what the
    /// hart asks for; that it received something from another hart is for the platform to count.
    fn pmu(&mut self) -> Option<&mut pmu::Counters> {
        None
    }

    /// What legacy `console_getchar` answers when the console has nothing. The specification says -1; some guests know
    /// only 0.
    fn legacy_getchar_empty(&self) -> i64 {
        -1
    }
}

/// Answers one call. Extensions and functions that are not implemented get [`Error::NotSupported`], as the specification
/// demands (binary encoding).
pub fn handle(call: &Call, platform: &mut impl Platform) -> Return {
    if let legacy::FIRST_EID..=legacy::LAST_EID = call.extension {
        return Return::Legacy(legacy::handle(call, platform));
    }
    if !platform.implements(call.extension) {
        return Return::error(Error::NotSupported);
    }
    Return::Sbiret(match call.extension {
        time::EID => time::handle(call, platform),
        ipi::EID => ipi::handle(call, platform),
        rfence::EID => rfence::handle(call, platform),
        hsm::EID => hsm::handle(call, platform),
        dbcn::EID => dbcn::handle(call, platform),
        base::EID => base::handle(call, platform),
        pmu::EID => pmu::handle(call, platform),
        srst::EID => srst::handle(call, platform),
        susp::EID => susp::handle(call, platform),
        _ => Err(Error::NotSupported),
    })
}

/// Whether [`handle`] carries out calls of this extension.
fn is_available(extension: u64, platform: &impl Platform) -> bool {
    let known = matches!(
        extension,
        legacy::FIRST_EID
            ..=legacy::SHUTDOWN
                | base::EID
                | dbcn::EID
                | hsm::EID
                | ipi::EID
                | pmu::EID
                | rfence::EID
                | srst::EID
                | susp::EID
                | time::EID
    );
    known && platform.implements(extension)
}

/// The smallest instruction, in bytes: what there has to be where a hart begins, and what its address is a multiple of.
const INSTRUCTION: u64 = 2;

/// The physical address at which a hart is to begin or to resume.
fn entry(address: u64, platform: &impl Platform) -> Result<GuestPhysAddr, Error> {
    let entry = GuestPhysAddr(address);
    let aligned = address.is_multiple_of(INSTRUCTION);
    if aligned && platform.is_memory(entry, INSTRUCTION, Access::Read) {
        Ok(entry)
    } else {
        Err(Error::InvalidAddress)
    }
}

#[cfg(test)]
mod test_platform;

#[cfg(test)]
mod tests {
    use proptest::array::uniform6;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::test_platform::{MEMORY, TestPlatform};
    use super::*;

    /// Vendor, firmware and experimental extensions, and ids that are none.
    const UNKNOWN: [u64; 8] = [
        0x09,
        0x11,
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
        for extension in UNKNOWN {
            let call = Call {
                extension,
                function: 0,
                args: [1; 6],
            };
            let a1 = u64::from(extension <= legacy::LAST_EID);
            assert_eq!(
                handle(&call, &mut platform).registers(&call),
                [(-2_i64).cast_unsigned(), a1]
            );
        }
    }

    #[test]
    fn what_the_platform_leaves_to_others_is_not_supported() {
        let mut platform = TestPlatform {
            extensions: Some(&[dbcn::EID]),
            ..TestPlatform::with_memory(&[0; 4])
        };
        for extension in [
            legacy::SHUTDOWN,
            base::EID,
            hsm::EID,
            ipi::EID,
            pmu::EID,
            rfence::EID,
            srst::EID,
            susp::EID,
            time::EID,
        ] {
            let call = Call {
                extension,
                function: 0,
                args: [0; 6],
            };
            let [error, _] = handle(&call, &mut platform).registers(&call);
            assert_eq!(error, (-2_i64).cast_unsigned(), "{extension:#x}");
        }
        assert_eq!((platform.timer, platform.end), (None, None));
    }

    /// A platform with nothing but what it has to provide, which claims to implement all.
    struct Minimal;

    impl Platform for Minimal {
        fn implements(&self, _: u64) -> bool {
            true
        }
        fn console_write(&mut self, _: &[u8]) -> Result<usize, ConsoleError> {
            Err(ConsoleError)
        }
        fn console_write_byte(&mut self, _: u8) -> Result<(), ConsoleError> {
            Err(ConsoleError)
        }
        fn console_read(&mut self, _: &mut [u8]) -> Result<usize, ConsoleError> {
            Ok(0)
        }
        fn is_memory(&self, _: GuestPhysAddr, _: u64, _: Access) -> bool {
            true
        }
        fn read_memory(&mut self, _: GuestPhysAddr, _: &mut [u8]) -> Result<(), BadMemory> {
            Ok(())
        }
        fn write_memory(&mut self, _: GuestPhysAddr, _: &[u8]) -> Result<(), BadMemory> {
            Ok(())
        }
        fn system_suspend(&mut self, _: GuestPhysAddr, _: u64) -> Result<(), Error> {
            Err(Error::NotSupported)
        }
    }

    /// What a platform does not provide is refused, and is never a success.
    #[test]
    fn what_a_platform_does_not_provide_is_refused() {
        let mut platform = Minimal;
        assert_eq!((platform.harts(), platform.current_hart()), (0, 0));
        assert!(!platform.clear_ipi());
        assert_eq!(platform.read_virtual(0, &mut [0]), Err(BadMemory));
        let address = GuestPhysAddr(MEMORY);
        assert_eq!(platform.hart_start(0, address, 0), Err(Error::NotSupported));
        assert_eq!(platform.hart_suspend(None), Err(Error::NotSupported));
        assert!(platform.pmu().is_none());
        let mut result = |extension, function| {
            let call = Call {
                extension,
                function,
                args: [0; 6],
            };
            let [a0, _] = handle(&call, &mut platform).registers(&call);
            a0.cast_signed()
        };
        assert_eq!(result(hsm::EID, hsm::HART_STOP), -2);
        assert_eq!(result(hsm::EID, hsm::HART_GET_STATUS), -3);
        assert_eq!(result(srst::EID, srst::SYSTEM_RESET), -2);
        assert_eq!(result(pmu::EID, 0), -2);
        assert_eq!(result(legacy::SHUTDOWN, 0), -2);
        assert_eq!(result(legacy::CONSOLE_GETCHAR, 0), -1);
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
            Return::error(Error::NotSupported)
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
            Return::error(Error::Denied).registers(&call),
            [u64::MAX - 3, 0]
        );
    }

    proptest! {
        #[test]
        fn no_call_panics(
            extension in prop_oneof![
                0..0x20_u64,
                select(&[dbcn::EID, hsm::EID, ipi::EID, pmu::EID, rfence::EID, srst::EID, susp::EID, time::EID][..]),
                any::<u64>(),
            ],
            function in prop_oneof![0..10_u64, any::<u64>()],
            args in uniform6(prop_oneof![0..20_u64, MEMORY - 20..MEMORY + 20, Just(u64::MAX), any::<u64>()]),
        ) {
            let call = Call { extension, function, args };
            let _ = handle(&call, &mut TestPlatform::with_memory(&[0x55; 64])).registers(&call);
        }
    }
}
