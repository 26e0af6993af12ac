//! The debug console (SBI 3.0, chapter "Debug Console Extension").
//!
//! The guest names a range of its memory by length and address, both of its own choosing. The length is never
//! allocated: data moves in chunks through a buffer on the stack, and one call moves at most
//! [`MAX_BYTES_PER_CALL`]. The specification allows both: a call may move less than was asked for, and says how much.

use super::{
    Access, Call, ConsoleError, ERR_FAILED, ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, Platform, Return,
};
use crate::addr::GuestPhysAddr;

/// Extension id, "DBCN".
pub const EID: u64 = 0x4442_434e;
/// Function id of Console Write.
pub const CONSOLE_WRITE: u64 = 0;
/// Function id of Console Read.
pub const CONSOLE_READ: u64 = 1;
/// Function id of Console Write Byte.
pub const CONSOLE_WRITE_BYTE: u64 = 2;

/// The most bytes that one call moves. Large enough that no guest's log line is cut, for Linux's early console takes no
/// notice of how much was written; small enough that no call keeps a hart from its interrupts for long.
pub const MAX_BYTES_PER_CALL: u64 = 64 * 1024;

/// Size of the buffer on the stack through which data moves.
const CHUNK: usize = 512;

/// Answers a call of this extension.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Return {
    let [first, low, high, ..] = call.args;
    let _ = (first, low, high, platform);
    Return::error(ERR_NOT_SUPPORTED)
}
