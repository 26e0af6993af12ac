//! gzip and zstd: recognizing such files, and unpacking them within a limit.

use std::io::{self, BufRead, Read};

use hv_core::format::{Compression, Format};

/// The compressions that hvrun can undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// How many bytes tell what a stream is.
const MAGIC: u64 = 4;

/// What a file holds when it is unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// All of its streams, one after the other.
    pub bytes: Vec<u8>,
    /// How many streams they are: members of gzip, frames of zstd.
    pub streams: usize,
    /// Whether something other than a stream follows them.
    pub trailing: bool,
}

/// Why a file was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It holds more than the limit.
    #[error("its contents are larger than {0} bytes")]
    TooLarge(u64),
    /// It cannot be read, ends early, or is no valid stream.
    #[error("its compressed contents are damaged or end early ({0})")]
    Damaged(io::Error),
}

impl Codec {
    /// The compression of what begins with `head`.
    pub fn of(head: &[u8]) -> Option<Codec> {
        match Format::of(head)? {
            Format::Compressed(Compression::Gzip) => Some(Codec::Gzip),
            Format::Compressed(Compression::Zstd) => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// Unpacks all streams that `packed` begins with. Neither what is returned nor what it takes to make it depends on more
    /// than `limit`, in bytes, and the 128 MiB that a zstd stream may look back.
    ///
    /// # Errors
    /// What is wrong with the streams.
    pub fn unpack(self, mut packed: impl BufRead, limit: u64) -> Result<Unpacked, UnpackError> {
        let mut unpacked = Unpacked {
            bytes: Vec::new(),
            streams: 0,
            trailing: false,
        };
        let mut head = Vec::new();
        loop {
            let mut stream = head.as_slice().chain(&mut packed);
            self.unpack_stream(&mut stream, limit, &mut unpacked.bytes)?;
            unpacked.streams += 1;
            // Streams are longer than what tells them apart, so nothing of the previous head is left.
            head.clear();
            (&mut packed)
                .take(MAGIC)
                .read_to_end(&mut head)
                .map_err(UnpackError::Damaged)?;
            if Codec::of(&head) != Some(self) {
                unpacked.trailing = !head.is_empty();
                return Ok(unpacked);
            }
        }
    }

    /// Unpacks one stream, to the end of `bytes`. `packed` is left at the first byte behind it.
    fn unpack_stream(
        self,
        packed: &mut impl BufRead,
        limit: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<(), UnpackError> {
        // One byte more than there may be shows that there are too many.
        let room = limit.saturating_sub(bytes.len() as u64) + 1;
        match self {
            Codec::Gzip => flate2::bufread::GzDecoder::new(packed)
                .take(room)
                .read_to_end(bytes)
                .map(drop),
            Codec::Zstd => unpack_frame(packed, room, bytes),
        }
        .map_err(UnpackError::Damaged)?;
        if bytes.len() as u64 > limit {
            return Err(UnpackError::TooLarge(limit));
        }
        Ok(())
    }
}

/// Unpacks at most `room` bytes of a frame.
fn unpack_frame(packed: &mut impl BufRead, room: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
    let mut decoder = match StreamingDecoder::new(&mut *packed) {
        Ok(decoder) => decoder,
        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
            length,
            ..
        })) => {
            let length = u64::from(length);
            let skipped = io::copy(&mut packed.take(length), &mut io::sink())?;
            return if skipped < length {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(())
            };
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    let count = (&mut decoder).take(room).read_to_end(bytes)?;
    if count as u64 == room {
        // It was not read to its end: there is too much in it, which the caller sees.
        return Ok(());
    }
    let decoder = decoder.into_frame_decoder();
    let promised = decoder.get_checksum_from_data();
    if promised.is_some() && promised != decoder.get_calculated_checksum() {
        return Err(io::Error::other("the checksum is another"));
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use super::*;

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn text() -> Vec<u8> {
        (0..40_000).flat_map(|n: u32| n.to_le_bytes()).collect()
    }

    fn unpack(packed: &[u8], limit: u64) -> Result<Unpacked, UnpackError> {
        // A small buffer, so that streams end anywhere in it.
        let reader = io::BufReader::with_capacity(7, packed);
        Codec::of(packed).unwrap().unpack(reader, limit)
    }

    #[test]
    fn streams_are_recognized() {
        assert_eq!(Codec::of(&gzip(b"")), Some(Codec::Gzip));
        assert_eq!(Codec::of(&zstd(b"")), Some(Codec::Zstd));
        for other in [&b""[..], b"\x1f", b"\x28\xb5\x2f", b"\x7fELF", b"070701"] {
            assert_eq!(Codec::of(other), None);
        }
    }

    #[test]
    fn one_stream() {
        for pack in [gzip, zstd] {
            let unpacked = unpack(&pack(&text()), 160_000).unwrap();
            assert!(unpacked.bytes == text());
            assert_eq!((unpacked.streams, unpacked.trailing), (1, false));
        }
    }

    #[test]
    fn several_streams_are_one_file() {
        for pack in [gzip, zstd] {
            let packed = [pack(b"one, "), pack(b"two, "), pack(b""), pack(b"three")].concat();
            let unpacked = unpack(&packed, 100).unwrap();
            assert_eq!(unpacked.bytes, b"one, two, three");
            assert_eq!((unpacked.streams, unpacked.trailing), (4, false));
            assert!(matches!(
                unpack(&packed, 14),
                Err(UnpackError::TooLarge(14))
            ));
        }
        // As pzstd makes them: frames to be skipped tell where the next ones are.
        let skipped = b"\x50\x2a\x4d\x18\x04\0\0\0four";
        let packed = [skipped, &zstd(b"one")[..], skipped, &zstd(b", two")].concat();
        assert_eq!(unpack(&packed, 100).unwrap().bytes, b"one, two");
        assert!(unpack(&skipped[..10], 100).is_err());
    }

    #[test]
    fn what_follows_is_told() {
        for pack in [gzip, zstd] {
            let unpacked = unpack(&[pack(b"one"), b"rest".to_vec()].concat(), 100).unwrap();
            assert_eq!(unpacked.bytes, b"one");
            assert!(unpacked.trailing);
        }
        assert!(
            unpack(&[gzip(b"one"), zstd(b"two")].concat(), 100)
                .unwrap()
                .trailing
        );
    }

    #[test]
    fn no_more_than_the_limit_is_unpacked() {
        for pack in [gzip, zstd] {
            let bomb = pack(&vec![0; 4 << 20]);
            assert!(bomb.len() < 1 << 16);
            assert!(matches!(
                unpack(&bomb, 1000),
                Err(UnpackError::TooLarge(1000))
            ));
            assert_eq!(unpack(&bomb, 4 << 20).unwrap().bytes.len(), 4 << 20);
        }
    }

    /// What is unpacked until that shows is one byte more than the limit, whatever was there before.
    #[test]
    fn one_byte_shows_that_there_are_too_many() {
        for pack in [gzip, zstd] {
            let packed = pack(&text());
            let mut bytes = vec![0; 100];
            let codec = Codec::of(&packed).unwrap();
            let result = codec.unpack_stream(&mut packed.as_slice(), 1000, &mut bytes);
            assert!(matches!(result, Err(UnpackError::TooLarge(1000))));
            assert_eq!(bytes.len(), 1001);
        }
    }

    #[test]
    fn damage_is_noticed() {
        for pack in [gzip, zstd] {
            let packed = pack(&text());
            for length in [4, 12, packed.len() / 2, packed.len() - 1] {
                let error = unpack(&packed[..length], 1 << 20).unwrap_err();
                assert!(
                    matches!(error, UnpackError::Damaged(_)),
                    "{length}: {error}"
                );
            }
        }
        for (pack, from_the_end) in [(gzip as fn(&[u8]) -> Vec<u8>, 8), (zstd, 4)] {
            let mut packed = pack(b"checked");
            let place = packed.len() - from_the_end;
            packed[place] ^= 1;
            assert!(unpack(&packed, 100).is_err(), "its checksum is another");
        }
    }
}
