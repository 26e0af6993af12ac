//! The C library's heap.

/// Has all threads share one heap. Of its own accord the C library makes one for each that allocates, of which a page or two
/// are ever used, and which takes system calls and page tables. To be called before there are threads.
pub fn share() {
    // SAFETY: the call sets a number that the allocator reads when a thread allocates for the first time.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}
