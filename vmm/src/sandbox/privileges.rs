//! Capabilities (capabilities(7)) and `no_new_privs`.

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3` (include/uapi/linux/capability.h): sets of 64 capabilities, in two halves.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    /// 0: the calling thread.
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes every capability from the calling thread, also the ambient ones, and all ways to new ones: a program that it executes has
/// no more rights either.
///
/// # Errors
/// The kernel's, which are not expected: giving up needs no right.
pub fn drop_all() -> io::Result<()> {
    // SAFETY: the call has no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let none = [Half::default(); 2];
    // SAFETY: header and data are what this version of the call reads, and live across it.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
