//! Chardevs, as the owner of a machine asks for them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::devices::ConsoleConfig;

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
    /// Whether Ctrl-a in the input is a command to the machine: x to end it, h for help.
    pub escape: bool,
    /// When this descriptor becomes readable, the size of the terminal may have changed: a signalfd for SIGWINCH. What is
    /// read from it is discarded. Only a virtio console has a size.
    pub resized: Option<OwnedFd>,
}

/// The kernel arguments for the consoles. The last console that a kernel has a driver for is its /dev/console. It may have
/// no driver for a virtio console before its initrd has loaded one, and without any console it cannot report an error.
pub fn kernel_arguments(
    serial: Option<&Chardev>,
    device: Option<&ConsoleConfig>,
) -> impl Iterator<Item = &'static str> {
    let virtio = device.and_then(|device| device.console.as_ref());
    let serial = serial.or(virtio).map(|_| "console=ttyS0");
    let virtio = virtio.map(|_| "console=hvc0");
    serial.into_iter().chain(virtio)
}
