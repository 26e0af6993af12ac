//! Cutting a byte stream into frames.

use super::codec::{Error, Result};
use super::{Event, MAX_FRAME, Request};

/// Collects the bytes of a stream as they arrive, and gives out whole messages.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Bytes at the buffer's start that were given out already.
    used: usize,
}

impl Frames {
    /// A stream of which nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that arrived. Call [`Frames::next_event`] or [`Frames::next_request`] until it gives nothing more
    /// before adding further bytes: then less than one frame stays behind, and the buffer is bounded.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message from the controller with its id, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// The stream does not follow the protocol; it cannot be read any further.
    pub fn next_request(&mut self) -> Result<Option<(u32, Request)>> {
        self.next_frame()?.map(Request::decode).transpose()
    }

    /// The next whole message from the agent with its id, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// The stream does not follow the protocol; it cannot be read any further.
    pub fn next_event(&mut self) -> Result<Option<(u32, Event)>> {
        self.next_frame()?.map(Event::decode).transpose()
    }

    fn next_frame(&mut self) -> Result<Option<&[u8]>> {
        let rest = self.buffer.get(self.used..).unwrap_or_default();
        let Some((prefix, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        self.used += prefix.len() + length;
        Ok(Some(frame))
    }
}
