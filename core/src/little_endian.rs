//! Little-endian fields of files.

/// The 32-bit field at `offset` (bytes); `None` if `bytes` end before it does.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .get(..4)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

/// The 64-bit field at `offset` (bytes); `None` if `bytes` end before it does.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes
        .get(offset..)?
        .get(..8)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}
