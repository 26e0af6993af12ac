//! The C library's heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;

use nix::libc;

use crate::{EXIT_ERROR, terminal};

/// Has all threads share one heap. Of its own accord the C library makes one for each that allocates, of which a page or two
/// are ever used, and which takes system calls and page tables. To be called before there are threads.
pub fn share() {
    // SAFETY: the call sets a number that the allocator reads when a thread allocates for the first time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The program's allocator: the C library's, and an end in good order where that has no memory left. Rust's own end would be an
/// abort, which leaves the terminal raw.
#[derive(Debug)]
pub struct Heap;

// SAFETY: every call is the system's allocator's, with what the caller has promised for it. It answers nothing that this
// allocator has not given out, and no null pointer.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller has promised.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller has promised.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller has promised.
        given(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn given(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        end(size);
    }
    memory
}

/// Ends the process in one line. It may not allocate, and runs on any thread.
#[cold]
fn end(size: usize) -> ! {
    terminal::restore();
    let mut line = Line {
        bytes: [0; 128],
        length: 0,
    };
    // What does not fit is cut off.
    let _ = writeln!(
        line,
        "hvrun: the host has no memory left for hvrun itself ({size} bytes); free some, or raise its limit ('ulimit -v')"
    );
    let text = line.bytes.get(..line.length).unwrap_or_default();
    // SAFETY: the text is as long as is said, and the second call ends the process without running anything more of it.
    unsafe {
        let _ = libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(EXIT_ERROR.into())
    }
}

struct Line {
    bytes: [u8; 128],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
            self.length = self.length.saturating_add(1);
        }
        Ok(())
    }
}
