//! The configuration of a guest's consoles.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::config::Placement;

/// The guest's consoles and ports. The default is none at all.
#[derive(Debug, Default)]
pub struct ConsoleConfig {
    /// What the serial port is connected to, which every guest has (Linux's `ttyS0`). With `None` its output goes
    /// where that of the virtio console goes, for what a guest prints before it has a driver for that one, and nowhere
    /// if there is none; and no input comes. What a Linux kernel logs to both appears once.
    pub serial: Option<Chardev>,
    /// A virtio console (`hvc0`), and what it is connected to.
    pub virtio: Option<Chardev>,
    /// Further ports of the virtio console device, which are no consoles.
    pub ports: Vec<PortConfig>,
    /// Where the virtio console device is, if there is one.
    pub placement: Placement,
}

/// A named channel between guest and host.
#[derive(Debug)]
pub struct PortConfig {
    /// Its name in the guest (`/dev/virtio-ports/NAME`).
    pub name: String,
    /// What it is connected to.
    pub chardev: Chardev,
}

/// A character device of the host's (QEMU's term): what a console or a port of the guest is connected to.
#[derive(Debug)]
pub enum Chardev {
    /// Open files, such as the standard streams. A guest waits for a reader that is slow, and its last output is waited
    /// for.
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

impl ConsoleConfig {
    /// Whether the machine has a virtio console device.
    pub(crate) fn has_device(&self) -> bool {
        self.virtio.is_some() || !self.ports.is_empty()
    }

    /// The kernel arguments for the consoles. The last console that a kernel has a driver for is its /dev/console. It may have
    /// no driver for a virtio console before its initrd has loaded one, and without any console it cannot report an error.
    pub(crate) fn kernel_arguments(&self) -> impl Iterator<Item = &'static str> {
        let serial = (self.serial.is_some() || self.virtio.is_some()).then_some("console=ttyS0");
        let virtio = self.virtio.as_ref().map(|_| "console=hvc0");
        serial.into_iter().chain(virtio)
    }
}
