//! Compressed kernels: any format as a gzip or zstd file, and EFI zboot programs with such a payload (Linux,
//! drivers/firmware/efi/libstub/zboot-header.S).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use hv_core::kernel::{Problem as FileProblem, foreign_pe};

use super::Problem;
use crate::boot::compression::{Codec, UnpackError};

/// How a kernel file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// The whole file is gzip or zstd.
    Whole(Codec),
    /// An EFI zboot program with its payload at this place of the file.
    Zboot {
        codec: Codec,
        /// Bytes from the start of the file.
        offset: u64,
        /// Bytes.
        length: u64,
    },
}

/// Whether the file that begins with `head` is compressed, and how.
pub(super) fn detect(head: &[u8]) -> Result<Option<Compression>, FileProblem> {
    if let Some(codec) = Codec::of(head) {
        return Ok(Some(Compression::Whole(codec)));
    }
    if !head.starts_with(b"MZ\0\0zimg") {
        return Ok(None);
    }
    if let Some(architecture) = foreign_pe(head) {
        return Err(FileProblem::WrongArchitecture(architecture.into()));
    }
    let (Some(offset), Some(length), Some(name)) =
        (u32_at(head, 8), u32_at(head, 12), head.get(24..56))
    else {
        return Err(FileProblem::Truncated {
            promised: 64,
            present: head.len() as u64,
        });
    };
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let codec = match name {
        b"gzip" => Codec::Gzip,
        b"zstd" => Codec::Zstd,
        other => {
            return Err(FileProblem::Malformed(format!(
                "its payload is compressed by {}, and hvrun undoes gzip and zstd; build it with CONFIG_KERNEL_GZIP or \
                 CONFIG_KERNEL_ZSTD",
                String::from_utf8_lossy(other)
            )));
        }
    };
    Ok(Some(Compression::Zboot {
        codec,
        offset: u64::from(offset),
        length: u64::from(length),
    }))
}

/// The kernel inside `file`. No more is unpacked than the guest's RAM could hold.
pub(super) fn unpack(
    compression: Compression,
    mut file: File,
    ram: &Range<u64>,
) -> Result<Vec<u8>, Problem> {
    let present = file.seek(SeekFrom::End(0))?;
    let (codec, offset, length) = match compression {
        Compression::Whole(codec) => (codec, 0, present),
        Compression::Zboot {
            codec,
            offset,
            length,
        } => (codec, offset, length),
    };
    if offset + length > present {
        return Err(FileProblem::Truncated {
            promised: offset + length,
            present,
        }
        .into());
    }
    file.seek(SeekFrom::Start(offset))?;
    let packed = io::BufReader::with_capacity(1 << 16, file.take(length));
    match codec.unpack(packed, ram.end - ram.start) {
        Ok(unpacked) => Ok(unpacked.bytes),
        Err(UnpackError::TooLarge(limit)) => {
            Err(FileProblem::too_large(limit.saturating_add(1), ram).into())
        }
        Err(UnpackError::Damaged(error)) => Err(FileProblem::Malformed(format!(
            "its compressed contents are damaged or end early ({error}); copy or build it again"
        ))
        .into()),
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}
