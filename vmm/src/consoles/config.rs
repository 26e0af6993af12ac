//! The configuration of a guest's consoles.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::config::Placement;

/// The guest's consoles and ports. The default is none at all.
#[derive(Debug, Default)]
pub struct ConsoleConfig {
    /// The chardev of the serial port, which every guest has (Linux's `ttyS0`). With `None`, it gets no input, and its output
    /// goes to the virtio console's chardev, if there is one, for messages from before the guest has a driver for that.
    /// Lines that a Linux kernel logs to both appear once.
    pub serial: Option<Chardev>,
    /// The chardev of a virtio console (`hvc0`), if there is one.
    pub virtio: Option<Chardev>,
    /// Further ports of the virtio console device, which are not consoles.
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
