//! Chardevs (QEMU's term): the host's end of a byte channel such as a guest's console, where its output goes and its input
//! comes from.
//!
//! | module | what it holds |
//! |---|---|
//! | `file` | a file for output, which is nobody else's |
//! | `merged` | several consoles on one output |
//! | `output` | a bounded buffer that a thread empties into a file, pipe, terminal or whatever is an [`Outlet`] |
//! | `pty` | a pseudo-terminal, which people open and close as they like |
//! | `socket` | a Unix socket, to which one client at a time connects |
//! | `window` | the size of a terminal |
//!
//! A device prints to an [`OutputSink`] and is an [`InputSink`]; whoever builds the machine connects the two sides.

mod file;
mod merged;
mod output;
mod pty;
mod socket;
mod window;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestSlice;
use crate::write_problem;

pub use file::OutputFile;
pub use merged::Merged;
pub use output::{LostOutput, Outlet, OutputThread};
pub use pty::Pty;
pub use socket::{ClientInput, Socket};
pub use window::window_size;

/// Where a device's output goes: what a guest prints.
pub trait OutputSink: Send + Sync {
    /// Takes all of `bytes`, in order. May block the calling vCPU while the reader of the output is slow: a guest must
    /// not lose output because the terminal cannot keep up.
    fn write(&self, bytes: &[u8]);

    /// The same for what is in guest memory.
    fn write_memory(&self, memory: &GuestSlice<'_>) {
        copy_memory(self, memory);
    }

    /// Takes what there is room for, without waiting, and returns how many bytes that is. If it is not all of them, the
    /// event of [`set_room_event`](Self::set_room_event) is written to when another try is worth it.
    fn try_write(&self, bytes: &[u8]) -> usize;

    /// Sets the event for [`try_write`](Self::try_write). There is one for each output, which is for the one device
    /// that uses it like that.
    fn set_room_event(&self, event: Arc<EventFd>);
}

/// A device that takes input from a chardev.
pub trait InputSink: Send + Sync {
    /// Hands bytes to the guest. Returns how many of them were taken: as many as there is room for.
    fn receive(&self, bytes: &[u8]) -> usize;

    /// Sets the event that is written to when the guest has read everything after [`receive`](Self::receive) could not
    /// take all it was given. Then it is worth another try.
    fn set_room_event(&self, event: EventFd);

    /// Takes what the guest has not read from the device yet, for a guest that reads its console by other means (SBI).
    /// Returns the number of bytes.
    fn take_received(&self, buffer: &mut [u8]) -> usize;
}

/// Has `output` take what is in guest memory, which may change meanwhile, by way of a buffer.
fn copy_memory(output: &(impl OutputSink + ?Sized), memory: &GuestSlice<'_>) {
    let mut chunk = [0; 4096];
    let mut rest = *memory;
    while !rest.is_empty() {
        let count = rest.copy_to(&mut chunk);
        output.write(chunk.get(..count).unwrap_or_default());
        let Ok(behind) = rest.offset(count) else {
            return;
        };
        rest = behind;
    }
}

/// The output of a device that has no chardev: it is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl OutputSink for Nowhere {
    fn write(&self, _: &[u8]) {}

    fn write_memory(&self, _: &GuestSlice<'_>) {}

    fn try_write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn set_room_event(&self, _: Arc<EventFd>) {}
}

/// Why a chardev cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be written.
    #[error("cannot write the {what} to {}: {}", .path.display(), write_problem(.error))]
    File {
        /// What was to be in it.
        what: String,
        /// The file, as the user named it.
        path: PathBuf,
        /// The host's reason.
        error: io::Error,
    },
    /// A whole disk, which would be overwritten.
    #[error("cannot write the {what} to {}: it is a block device; use a file", .path.display())]
    BlockDevice {
        /// What was to be in it.
        what: String,
        /// The device, as the user named it.
        path: PathBuf,
    },
    /// A virtual machine has the file already.
    #[error("cannot write the {what} to {}: it is in use by a virtual machine, or given twice; use another file", .path.display())]
    FileInUse {
        /// What was to be in it.
        what: String,
        /// The file, as the user named it.
        path: PathBuf,
    },
    /// The host has no pseudo-terminal to give.
    #[error("cannot make a pseudo-terminal for the console: {0}")]
    Pty(io::Error),
    /// No socket can be made there.
    #[error("cannot make the console's socket {}: {}", .path.display(), write_problem(.error))]
    Socket {
        /// Its path, as the user named it.
        path: PathBuf,
        /// The host's reason.
        error: io::Error,
    },
    /// Somebody listens there already.
    #[error("the console's socket {} is in use: another program listens on it; use another path", .0.display())]
    SocketInUse(PathBuf),
    /// There is a file where the socket is to be, and it is none that may be replaced.
    #[error("cannot make the console's socket {}: a file is there that is no socket; remove it or use another path", .0.display())]
    NotASocket(PathBuf),
}
