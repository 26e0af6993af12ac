//! Fields of a frame: writing and reading them, bounded.

use std::fmt;

use super::MAX_FRAME;

/// What can be wrong with a frame. The stream cannot be used any further after any of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The frame is longer than [`MAX_FRAME`] bytes.
    TooLong(usize),
    /// The frame ends within a field.
    Truncated,
    /// Bytes are left behind the last field.
    TrailingBytes(usize),
    /// No message has this kind.
    UnknownKind(u8),
    /// A field holds a value that its type does not have.
    BadValue(&'static str),
}

/// The result of reading or writing a frame.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => {
                write!(
                    f,
                    "a frame of {length} bytes is longer than the {MAX_FRAME} that the protocol allows"
                )
            }
            Self::Truncated => f.write_str("a frame ends within a field"),
            Self::TrailingBytes(count) => {
                write!(f, "a frame has {count} bytes behind its last field")
            }
            Self::UnknownKind(kind) => write!(f, "a frame has the unknown kind {kind:#04x}"),
            Self::BadValue(field) => {
                write!(f, "a frame has an impossible value in its field `{field}`")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Builds one frame.
pub(super) struct Writer {
    frame: Vec<u8>,
}

impl Writer {
    /// Begins a frame of `kind` for `id`.
    pub(super) fn new(kind: u8, id: u32) -> Self {
        let mut frame = vec![0; 4];
        frame.push(kind);
        frame.extend_from_slice(&id.to_le_bytes());
        Self { frame }
    }

    /// Fills in the length and returns the frame, unless it is too long.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        let length = self.frame.len() - 4;
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        let prefix = u32::try_from(length).map_err(|_| Error::TooLong(length))?;
        self.frame[..4].copy_from_slice(&prefix.to_le_bytes());
        Ok(self.frame)
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.frame.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.frame.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.frame.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.frame.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.frame.extend_from_slice(&value.to_le_bytes());
    }

    /// A length beyond 32 bits is written as the largest one: [`Writer::finish`] refuses such a frame anyway.
    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.frame.extend_from_slice(bytes);
    }

    pub(super) fn string(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
            None => self.u8(0),
        }
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.length(items.len());
        for item in items {
            write(self, item);
        }
    }
}

/// Takes one frame apart. Nothing is allocated that is longer than the frame itself.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of a frame's bytes behind the length field.
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    /// Ends the reading: all bytes must have been read.
    pub(super) fn finish(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Error::TrailingBytes(count)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn length(&mut self) -> Result<usize> {
        usize::try_from(self.u32()?).map_err(|_| Error::Truncated)
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>> {
        let length = self.length()?;
        self.take(length).map(<[u8]>::to_vec)
    }

    pub(super) fn string(&mut self, field: &'static str) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(|_| Error::BadValue(field))
    }

    pub(super) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Error::BadValue(field)),
        }
    }

    /// Every item takes at least one byte of the frame, so a false count ends in [`Error::Truncated`] and not in a
    /// huge list.
    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.length()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }
}
