//! The host's entropy: the one place where random bytes come from.
//!
//! It is the system call getrandom(2), and not /dev/urandom: it needs no file system and no descriptor, so it works in a chroot,
//! at the limit of open files and in a sandbox that is entered after the start, and it cannot be redirected by a mount. It waits
//! only until the host's kernel has collected its first entropy; /dev/urandom gives predictable bytes before that.

use std::io;

use crate::memory::{GuestSlice, note_write};

/// Fills `bytes`.
///
/// # Errors
/// The host's kernel has no getrandom(2), or a filter of system calls forbids it.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let start = bytes.as_mut_ptr();
    // SAFETY: `bytes` is borrowed mutably across the call.
    unsafe { fill_raw(start, bytes.len()) }
}

/// Fills guest memory, which the guest may read and write meanwhile.
///
/// # Errors
/// As those of [`fill`].
pub fn fill_guest(memory: &GuestSlice<'_>) -> io::Result<()> {
    let guard = memory.ptr_guard_mut();
    // SAFETY: the slice is valid guest memory across the call. Only the kernel writes to it here, as the guest may at the same
    // time: it is accessed through raw pointers and volatile slices alone.
    let result = unsafe { fill_raw(guard.as_ptr(), guard.len()) };
    // Some of it may have been written before an error.
    note_write([*memory], memory.len());
    result
}

/// # Safety
/// The kernel may write `length` bytes from `start` on.
unsafe fn fill_raw(start: *mut u8, length: usize) -> io::Result<()> {
    let mut done = 0_usize;
    while done < length {
        let rest = length.saturating_sub(done);
        // SAFETY: `done` is less than `length`, and the caller vouches for that many bytes.
        let result = unsafe { libc::getrandom(start.add(done).cast(), rest, 0) };
        match usize::try_from(result) {
            // A signal ends a long call early.
            Ok(count) => done = done.saturating_add(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::virtio::testing::{DATA, memory};

    /// A byte is zero after 20 fills only if it is never filled.
    #[test]
    fn all_of_it_is_filled_and_nothing_else() {
        for length in [0, 1, 2, 7, 64, 257, 100_000] {
            let mut filled = vec![0; length];
            for _ in 0..20 {
                let mut bytes = vec![0; length + 2];
                fill(&mut bytes[1..=length]).unwrap();
                assert_eq!((bytes[0], bytes[length + 1]), (0, 0));
                for (all, byte) in filled.iter_mut().zip(&bytes[1..]) {
                    *all |= byte;
                }
            }
            assert!(!filled.contains(&0), "{length}");
        }
    }

    #[test]
    fn an_error_of_the_host_is_passed_on() {
        let refused = hv_test_limit::within(|| {
            // SAFETY: nothing is mapped at this address, so the kernel writes nothing and refuses.
            unsafe { fill_raw(std::ptr::without_provenance_mut(1), 1) }
        });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn guest_memory_is_filled_and_nothing_else() {
        let memory = memory();
        let slice = memory.get_slice(GuestAddress(DATA), 1000).unwrap();
        fill_guest(&slice).unwrap();
        let mut bytes = [0; 1001];
        memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        assert_eq!(bytes[1000], 0);
        // Of 125 numbers of 64 bits no two are equal, and none is zero.
        let different: BTreeSet<_> = bytes[..1000].chunks(8).collect();
        assert_eq!(different.len(), 125);
        assert!(!different.contains(&[0; 8][..]));
    }
}
