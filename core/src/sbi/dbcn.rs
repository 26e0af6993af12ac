//! The debug console (SBI 3.0, chapter "Debug Console Extension").
//!
//! The guest names a range of its memory by length and address, both of its own choosing. The length is never allocated:
//! data moves in chunks through a buffer on the stack, and one call moves at most [`MAX_BYTES_PER_CALL`]. The
//! specification allows both: a call may move less than was asked for, and says how much.

use super::{Access, BadMemory, Call, ConsoleError, Error, Platform};
use crate::addr::GuestPhysAddr;

/// Extension id, "DBCN".
pub const EID: u64 = 0x4442_434e;
/// Function id of Console Write.
pub const CONSOLE_WRITE: u64 = 0;
/// Function id of Console Read.
pub const CONSOLE_READ: u64 = 1;
/// Function id of Console Write Byte.
pub const CONSOLE_WRITE_BYTE: u64 = 2;

/// The most bytes that one call moves. Large enough that no line of a guest's log is cut, for Linux's early console takes
/// no notice of how much was written; small enough that no call keeps a hart from its interrupts for long.
pub const MAX_BYTES_PER_CALL: u64 = 64 * 1024;

/// Size in bytes of the buffer on the stack through which data moves.
const CHUNK: usize = 512;

/// Answers a call of this extension.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let [first, low, high, ..] = call.args;
    match call.function {
        CONSOLE_WRITE => memory(first, low, high, Access::Read, platform).and_then(|address| {
            platform.console_write_memory(address, first.min(MAX_BYTES_PER_CALL))
        }),
        CONSOLE_READ => memory(first, low, high, Access::Write, platform).and_then(|address| {
            transfer(address, first.min(MAX_BYTES_PER_CALL), platform, read_chunk)
        }),
        CONSOLE_WRITE_BYTE => write_byte(first, platform),
        _ => Err(Error::NotSupported),
    }
}

/// The address of a range that the guest named, if all of it is memory for this access, even where a call will not get
/// to (binary encoding, "Shared memory physical address range parameter"). No machine here has memory above 64 bits.
fn memory(
    size: u64,
    low: u64,
    high: u64,
    access: Access,
    platform: &impl Platform,
) -> Result<GuestPhysAddr, Error> {
    let address = GuestPhysAddr(low);
    if high == 0 && (size == 0 || platform.is_memory(address, size, access)) {
        Ok(address)
    } else {
        Err(Error::InvalidParam)
    }
}

/// Moves up to `size` bytes from or to memory at `address`, chunk by chunk, until the console moves less than it was
/// offered. Returns how many bytes moved. An error after some have moved is left to the next call to find.
fn transfer<P: Platform>(
    address: GuestPhysAddr,
    size: u64,
    platform: &mut P,
    chunk: fn(&mut P, GuestPhysAddr, &mut [u8]) -> Result<usize, Error>,
) -> Result<u64, Error> {
    let mut buffer = [0; CHUNK];
    let mut moved = 0;
    while moved < size {
        let offered = usize::try_from(size.saturating_sub(moved))
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let buffer = buffer.get_mut(..offered).unwrap_or_default();
        let address = address.checked_add(moved).ok_or(Error::InvalidParam)?;
        match chunk(platform, address, buffer) {
            Ok(count) => {
                moved = moved.saturating_add(count.min(offered) as u64);
                if count < offered {
                    break;
                }
            }
            Err(error) if moved == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(moved)
}

/// Moves up to `size` bytes from memory at `address` to the console.
///
/// # Errors
/// That of the first piece: the memory cannot be read, or the console failed.
pub fn write_pieces(
    platform: &mut impl Platform,
    address: GuestPhysAddr,
    size: u64,
) -> Result<u64, Error> {
    transfer(address, size, platform, write_chunk)
}

/// Moves one chunk from memory to the console.
fn write_chunk<P: Platform>(
    platform: &mut P,
    address: GuestPhysAddr,
    buffer: &mut [u8],
) -> Result<usize, Error> {
    platform
        .read_memory(address, buffer)
        .map_err(memory_error)?;
    platform.console_write(buffer).map_err(console_error)
}

/// Moves one chunk from the console to memory.
fn read_chunk<P: Platform>(
    platform: &mut P,
    address: GuestPhysAddr,
    buffer: &mut [u8],
) -> Result<usize, Error> {
    let count = platform.console_read(buffer).map_err(console_error)?;
    let bytes = buffer.get(..count).unwrap_or_default();
    platform
        .write_memory(address, bytes)
        .map_err(memory_error)?;
    Ok(bytes.len())
}

/// Writes the low byte of `byte`, whose type is `uint8_t`, and waits until the console has taken it. The value is zero.
fn write_byte(byte: u64, platform: &mut impl Platform) -> Result<u64, Error> {
    let [byte, ..] = byte.to_le_bytes();
    platform.console_write_byte(byte).map_err(console_error)?;
    Ok(0)
}

const fn memory_error(BadMemory: BadMemory) -> Error {
    Error::InvalidParam
}

const fn console_error(ConsoleError: ConsoleError) -> Error {
    Error::Failed
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::super::test_platform::{MEMORY, TestPlatform};
    use super::super::{Return, SUCCESS, handle};
    use super::*;

    fn call(function: u64, args: [u64; 3], platform: &mut TestPlatform) -> (i64, u64) {
        let [first, low, high] = args;
        let call = Call {
            extension: EID,
            function,
            args: [first, low, high, 0x55, 0x66, 0x77],
        };
        match handle(&call, platform) {
            Return::Sbiret(Ok(value)) => (SUCCESS, value),
            Return::Sbiret(Err(error)) => (error.code(), 0),
            Return::Legacy(_) => panic!("not a legacy extension"),
        }
    }

    #[test]
    fn the_extension_id_spells_its_name() {
        assert_eq!(EID.to_be_bytes(), *b"\0\0\0\0DBCN");
    }

    #[test]
    fn a_write_comes_out_of_memory_onto_the_console() {
        let mut platform = TestPlatform::with_memory(b"xHello, world");
        assert_eq!(
            call(CONSOLE_WRITE, [5, MEMORY + 1, 0], &mut platform),
            (SUCCESS, 5)
        );
        assert_eq!(platform.written, b"Hello");
    }

    #[test]
    fn a_write_longer_than_the_buffer_comes_out_whole() {
        let text: Vec<u8> = (0..=255).cycle().take(3 * CHUNK + 7).collect();
        let mut platform = TestPlatform::with_memory(&text);
        let size = text.len() as u64;
        assert_eq!(
            call(CONSOLE_WRITE, [size, MEMORY, 0], &mut platform),
            (SUCCESS, size)
        );
        assert_eq!(platform.written, text);
    }

    #[test]
    fn a_full_console_makes_a_write_partial() {
        let _watch = hv_test_limit::watch();
        let mut platform = TestPlatform::with_memory(&[b'a'; 2000]);
        platform.room = 700;
        assert_eq!(
            call(CONSOLE_WRITE, [2000, MEMORY, 0], &mut platform),
            (SUCCESS, 700)
        );
        assert_eq!(
            call(CONSOLE_WRITE, [1300, MEMORY + 700, 0], &mut platform),
            (SUCCESS, 0)
        );
    }

    #[test]
    fn one_call_moves_no_more_than_its_bound() {
        let mut platform = TestPlatform::with_memory(&vec![b'a'; 100_000]);
        assert_eq!(
            call(CONSOLE_WRITE, [100_000, MEMORY, 0], &mut platform),
            (SUCCESS, MAX_BYTES_PER_CALL)
        );
        assert_eq!(platform.written.len() as u64, MAX_BYTES_PER_CALL);
    }

    #[test]
    fn memory_that_is_not_there_is_an_invalid_parameter() {
        for (size, low, high) in [
            (1, MEMORY - 1, 0),
            (17, MEMORY, 0),
            (1, MEMORY + 16, 0),
            (u64::MAX, MEMORY, 0),
            (2, u64::MAX, 0),
            (u64::MAX, u64::MAX, 0),
        ] {
            for function in [CONSOLE_WRITE, CONSOLE_READ] {
                let mut platform = TestPlatform::with_memory(&[0; 16]);
                platform.input.extend(b"input");
                assert_eq!(
                    call(function, [size, low, high], &mut platform),
                    (Error::InvalidParam.code(), 0)
                );
                assert!(platform.written.is_empty());
                assert_eq!(platform.input.len(), 5, "no input is lost");
            }
        }
    }

    /// Between the look at the memory and the transfer another hart may have it taken away.
    #[test]
    fn memory_that_goes_away_ends_a_transfer() {
        let memory = vec![b'a'; CHUNK + 10];
        let size = 2 * CHUNK as u64;
        let mut platform = TestPlatform::with_memory(&memory);
        let moved = write_pieces(&mut platform, GuestPhysAddr(MEMORY), size);
        assert_eq!(moved, Ok(CHUNK as u64), "what has moved is told");
        let moved = write_pieces(&mut platform, GuestPhysAddr(MEMORY + 11), size);
        assert_eq!(moved, Err(Error::InvalidParam));
    }

    #[test]
    fn the_high_address_word_counts() {
        for function in [CONSOLE_WRITE, CONSOLE_READ] {
            for high in [1, u64::MAX] {
                let mut platform = TestPlatform::with_memory(&[0; 16]);
                assert_eq!(
                    call(function, [16, MEMORY, high], &mut platform),
                    (Error::InvalidParam.code(), 0)
                );
                assert_eq!(
                    call(function, [0, MEMORY, high], &mut platform),
                    (Error::InvalidParam.code(), 0)
                );
            }
        }
    }

    #[test]
    fn memory_that_cannot_be_written_can_be_printed() {
        let mut platform = TestPlatform::with_memory(b"text");
        platform.read_only = true;
        platform.input.extend(b"input");
        assert_eq!(
            call(CONSOLE_WRITE, [4, MEMORY, 0], &mut platform),
            (SUCCESS, 4)
        );
        assert_eq!(
            call(CONSOLE_READ, [4, MEMORY, 0], &mut platform),
            (Error::InvalidParam.code(), 0)
        );
    }

    #[test]
    fn nothing_to_move_is_no_error_wherever_it_is() {
        let mut platform = TestPlatform::with_memory(&[]);
        for function in [CONSOLE_WRITE, CONSOLE_READ] {
            assert_eq!(call(function, [0, 0, 0], &mut platform), (SUCCESS, 0));
        }
    }

    #[test]
    fn a_read_takes_what_is_there() {
        let _watch = hv_test_limit::watch();
        let mut platform = TestPlatform::with_memory(&[b'.'; 8]);
        assert_eq!(
            call(CONSOLE_READ, [8, MEMORY, 0], &mut platform),
            (SUCCESS, 0)
        );
        assert_eq!(platform.memory, b"........");
        platform.input.extend(b"typed");
        assert_eq!(
            call(CONSOLE_READ, [3, MEMORY, 0], &mut platform),
            (SUCCESS, 3)
        );
        assert_eq!(
            call(CONSOLE_READ, [4, MEMORY + 4, 0], &mut platform),
            (SUCCESS, 2)
        );
        assert_eq!(platform.memory, b"typ.ed..");
    }

    #[test]
    fn a_broken_console_is_a_failure() {
        let mut platform = TestPlatform::with_memory(b"text");
        platform.broken = true;
        assert_eq!(
            call(CONSOLE_WRITE, [4, MEMORY, 0], &mut platform),
            (Error::Failed.code(), 0)
        );
        assert_eq!(
            call(CONSOLE_READ, [4, MEMORY, 0], &mut platform),
            (Error::Failed.code(), 0)
        );
        assert_eq!(
            call(CONSOLE_WRITE_BYTE, [4, 0, 0], &mut platform),
            (Error::Failed.code(), 0)
        );
    }

    #[test]
    fn a_byte_is_written_whatever_is_above_it() {
        let mut platform = TestPlatform::default();
        assert_eq!(
            call(
                CONSOLE_WRITE_BYTE,
                [0xffff_ff00 | u64::from(b'x'), 1, 2],
                &mut platform
            ),
            (SUCCESS, 0)
        );
        assert_eq!(platform.written, b"x");
    }

    #[test]
    fn there_is_no_fourth_function() {
        let mut platform = TestPlatform::with_memory(b"text");
        for function in [3, 4, 1 << 32, u64::MAX] {
            assert_eq!(
                call(function, [4, MEMORY, 0], &mut platform),
                (Error::NotSupported.code(), 0)
            );
        }
    }

    proptest! {
        /// Whatever the arguments, a call moves exactly the bytes it says it did, of the range it was given.
        #[test]
        fn any_arguments_get_an_answer_that_is_true(
            function in 0..4_u64,
            size in prop_oneof![0..100_u64, any::<u64>()],
            low in prop_oneof![MEMORY - 8..MEMORY + 80, any::<u64>()],
            high in prop_oneof![9 => Just(0), 1 => any::<u64>()],
            room in 0..100_usize,
        ) {
            let memory: Vec<u8> = (0..64).collect();
            let mut platform = TestPlatform::with_memory(&memory);
            platform.room = room;
            platform.input.extend([0xee; 40]);
            let (error, value) = call(function, [size, low, high], &mut platform);
            prop_assert!(error == SUCCESS || value == 0);
            let moved = usize::try_from(value).unwrap();
            match function {
                CONSOLE_WRITE if moved > 0 => {
                    let start = usize::try_from(low - MEMORY).unwrap();
                    prop_assert_eq!(&platform.written, &memory[start..start + moved]);
                    prop_assert_eq!(value, size.min(room as u64));
                }
                CONSOLE_READ if moved > 0 => {
                    prop_assert_eq!(value, size.min(40));
                    prop_assert_eq!(platform.memory.iter().filter(|byte| **byte == 0xee).count(), moved);
                }
                CONSOLE_WRITE_BYTE => prop_assert!(platform.written.len() <= 1),
                _ => prop_assert!(platform.written.is_empty() && platform.memory == memory),
            }
        }
    }
}
