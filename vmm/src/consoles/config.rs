//! Chardevs, as the owner of a machine asks for them.

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// A character device of the host's (QEMU's term): what a console or a port of the guest is connected to.
#[derive(Debug)]
pub enum Chardev {
    /// Open files, such as the standard streams. The guest waits for a slow reader, and the machine's end waits until its last
    /// output is written.
    Stdio(Stdio),
    /// A file for the output, emptied when the guest starts. There is no input. It must not be one of the machine's own files,
    /// and is locked as a disk is.
    File(PathBuf),
    /// A pseudo-terminal, whose path is in [`Vm::pseudo_terminals`](crate::Vm::pseudo_terminals). Output is dropped while
    /// it is not open.
    Pty,
    /// A listening Unix socket, for one client at a time. Output is dropped while no client is connected.
    Unix(PathBuf),
}

/// Open files as a chardev.
#[derive(Debug)]
pub struct Stdio {
    /// The source of the guest's input; `None` for no input. Its end does not end the guest.
    pub input: Option<File>,
    /// The destination of its output, which is dropped once the reader has closed it.
    pub output: File,
    /// Sees the input before the guest does.
    pub filter: Option<Arc<dyn InputFilter>>,
    /// When this descriptor becomes readable, the size of the terminal may have changed: a signalfd for SIGWINCH. What is
    /// read from it is discarded. Only a virtio console has a size.
    pub resized: Option<OwnedFd>,
}

/// Decides what of a console's input reaches the guest: by it a program has keys of its own, and turns them into requests on
/// the machine's [`Handle`](crate::Handle).
///
/// Input is read only while the machine runs. With a filter it is also read while the guest takes none, as far as there is
/// room for what waits.
pub trait InputFilter: Debug + Send + Sync {
    /// Returns what the guest gets of `input`, which has just been read. What is passed to `print` appears among the guest's
    /// output, as far as there is room for it.
    ///
    /// Called on the thread that runs the machine, and serves its other consoles and requests: so it must not wait, and a
    /// handle's requests other than [`Handle::stop`](crate::Handle::stop) would wait for themselves.
    fn filter(&self, input: &[u8], print: &dyn Fn(&[u8])) -> Vec<u8>;
}

/// A named channel between guest and host.
#[derive(Debug)]
pub struct PortConfig {
    /// Its name in the guest (`/dev/virtio-ports/NAME`).
    pub name: String,
    /// What it is connected to.
    pub chardev: Chardev,
}
