//! Buffers of one packet or several, in guest memory.

use crate::memory::GuestSlice;

/// Buffers in guest memory, one after the other, both as slices and as the kernel takes them (`struct iovec`).
#[derive(Default)]
pub struct IoVector<'m> {
    slices: Vec<GuestSlice<'m>>,
    /// The same, kept beside it so that it need not be made for each packet.
    entries: Vec<libc::iovec>,
}

impl<'m> IoVector<'m> {
    /// The most buffers there may be: what the kernel takes (`UIO_MAXIOV`), less one for an overflow.
    pub const MAX: usize = 1023;

    /// The buffers.
    #[must_use]
    pub fn slices(&self) -> &[GuestSlice<'m>] {
        &self.slices
    }

    /// The buffers, for the kernel. They are valid as long as this is borrowed, and guest memory, which the guest may read and
    /// write at any time.
    pub(super) fn entries(&self) -> &[libc::iovec] {
        &self.entries
    }

    /// Calls `read` with the buffers for the kernel, and `overflow` as the last of them.
    pub(super) fn with_overflow<T>(
        &mut self,
        overflow: &mut [u8],
        read: impl FnOnce(&[libc::iovec]) -> T,
    ) -> T {
        self.entries.push(libc::iovec {
            iov_base: overflow.as_mut_ptr().cast(),
            iov_len: overflow.len(),
        });
        let result = read(&self.entries);
        self.entries.pop();
        result
    }

    pub(super) fn push(&mut self, slice: GuestSlice<'m>) {
        let memory = slice.ptr_guard_mut();
        self.entries.push(libc::iovec {
            iov_base: memory.as_ptr().cast(),
            iov_len: memory.len(),
        });
        self.slices.push(slice);
    }

    pub(super) fn len(&self) -> usize {
        self.slices.len()
    }

    pub(super) fn clear(&mut self) {
        self.slices.clear();
        self.entries.clear();
    }

    /// Removes the first `count` buffers.
    pub(super) fn remove_front(&mut self, count: usize) {
        self.slices.drain(..count.min(self.slices.len()));
        self.entries.drain(..count.min(self.entries.len()));
    }

    /// Reads what is at the front into `bytes`, as far as there are buffers. Returns how many bytes that is.
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0_usize;
        for slice in &self.slices {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            done = done.saturating_add(slice.copy_to(rest));
        }
        done
    }

    /// Stores `bytes` from `offset` on, as far as there are buffers. Returns how many bytes that is.
    pub fn copy_at(&self, mut offset: usize, bytes: &[u8]) -> usize {
        let mut done = 0_usize;
        for slice in &self.slices {
            let rest = bytes.get(done..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match slice.offset(offset) {
                Ok(place) => {
                    place.copy_from(rest);
                    done = done.saturating_add(place.len().min(rest.len()));
                    offset = 0;
                }
                Err(_) => offset = offset.saturating_sub(slice.len()),
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::virtio::testing::{DATA, memory};

    #[test]
    fn bytes_are_stored_across_buffers() {
        let memory = memory();
        let mut vector = IoVector::default();
        for (offset, length) in [(0, 3), (0x10, 0), (0x100, 2), (0x200, 4)] {
            let address = GuestAddress(DATA + offset);
            vector.push(memory.get_slice(address, length).unwrap());
        }
        assert_eq!(vector.len(), 4);
        assert_eq!(vector.copy_at(2, b"abcd"), 4);
        assert_eq!(vector.copy_at(8, b"xyz"), 1);
        let byte = |offset| memory.read_obj::<u8>(GuestAddress(DATA + offset)).unwrap();
        assert_eq!([byte(2), byte(3)], [b'a', 0]);
        assert_eq!([byte(0x100), byte(0x101), byte(0x102)], [b'b', b'c', 0]);
        assert_eq!([byte(0x200), byte(0x201), byte(0x203)], [b'd', 0, b'x']);
        let mut bytes = [0xee; 10];
        assert_eq!(vector.copy_to(&mut bytes), 9);
        assert_eq!(&bytes, b"\0\0abcd\0\0x\xee");
        vector.remove_front(3);
        assert_eq!(vector.copy_at(1, b"!"), 1);
        assert_eq!(byte(0x201), b'!');
        assert_eq!(vector.len(), 1);
    }
}
