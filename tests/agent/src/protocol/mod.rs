//! The protocol between the developer's machine (the *controller*) and the agent in the nested host.
//!
//! A stream of frames in each direction, [`Request`]s to the agent and [`Event`]s from it. Every frame bears an id that
//! the controller chose; ids of processes and of single requests come from one sequence and are never used twice.
//!
//! # Flow control
//! Each end always reads the stream, so that one process whose data nobody takes cannot hold up another. What bounds
//! the memory for that are credits, counted in bytes per process and stream: an end sends data only as far as the other
//! has granted credit. Both start with [`WINDOW`]; the agent returns credit for input once the process took it
//! ([`Event::InputCredit`]), the controller returns credit for output once it has room again ([`Request::Credit`]).
//!
//! # Frames
//! | bytes | what |
//! |---|---|
//! | 4 | length of the rest, little-endian, at most [`MAX_FRAME`] |
//! | 1 | kind |
//! | 4 | id, little-endian |
//! | … | fields: integers little-endian, strings and bytes behind a 32-bit length, lists behind a 32-bit count |

mod codec;
mod frames;
mod message;

pub use codec::{Error, Result};
pub use frames::Frames;
pub use message::{Event, ExitStatus, Mount, Request, Spawn, Stdio, Stream, WindowSize};

/// Raised with every change of the protocol; [`Event::Ready`] carries it.
pub const VERSION: u32 = 1;

/// Name of the virtio-serial port that carries the stream, as in `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "hv-lab.control";

/// The largest frame in bytes, without its length field. Linux takes argument lists of up to 128 KiB a string, which
/// is more than any test needs.
pub const MAX_FRAME: usize = 256 * 1024;

/// The largest piece of data in one frame, in bytes: small enough that streams take turns.
pub const MAX_DATA: usize = 32 * 1024;

/// Credit in bytes with which each stream of a process starts.
pub const WINDOW: u32 = 256 * 1024;

#[cfg(test)]
mod tests;
