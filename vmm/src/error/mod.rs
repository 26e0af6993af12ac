//! The errors of a machine, each in one line: what is wrong. What to do about it is for the program to say, whose options it names.

mod initrd;
mod kernel;
mod platform;

use std::io;
use std::path::PathBuf;

use hv_devices::chardev::LostOutput;

use crate::Outcome;
use crate::kvm::aia::AiaError;
use crate::kvm::{Errno, OpenError};

pub use initrd::InitrdProblem;
pub use kernel::KernelProblem;
pub use platform::PlatformProblem;

/// An error of a machine. A guest's mistake is never one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM cannot be used on this host.
    #[error(transparent)]
    Kvm(#[from] OpenError),
    /// KVM refused something that every host's KVM can do.
    #[error("KVM cannot {doing}: {errno}")]
    KvmRefused {
        /// What was asked of it.
        doing: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// A sandbox is asked for, and the host's kernel cannot filter system calls.
    #[error(
        "the host's kernel cannot filter system calls (it is built without CONFIG_SECCOMP_FILTER), so there is no sandbox"
    )]
    NoSeccomp,
    /// The kernel or firmware cannot be booted.
    #[error("cannot boot the {what} {}: {problem}", .path.display())]
    Payload {
        /// Which of them it is.
        what: &'static str,
        /// The file, as the user named it.
        path: PathBuf,
        /// What is wrong with it.
        problem: KernelProblem,
    },
    /// The initial RAM disk cannot be read.
    #[error("cannot use the initrd {}: {problem}", .path.display())]
    Initrd {
        /// The file, as the user named it.
        path: PathBuf,
        /// What is wrong with it.
        problem: InitrdProblem,
    },
    /// The user's device tree cannot be used.
    #[error("cannot use the device tree {}: {problem}", .path.display())]
    DeviceTreeFile {
        /// The file, as the user named it.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Kernel, initrd and device tree do not fit into the guest's memory together.
    #[error("the {what} does not fit into the guest's {memory} MiB of memory beside the kernel")]
    DoesNotFit {
        /// Which of them was placed last.
        what: &'static str,
        /// MiB.
        memory: u64,
    },
    /// A disk image cannot be used.
    #[error(transparent)]
    Disk(#[from] hv_devices::virtio::block::OpenError),
    /// A tap interface cannot be used.
    #[error(transparent)]
    Tap(#[from] hv_devices::virtio::net::OpenError),
    /// vhost-net is required for a network interface, and the host's kernel cannot serve it.
    #[error(transparent)]
    Vhost(#[from] hv_devices::virtio::net::VhostError),
    /// A vsock cannot be opened.
    #[error(transparent)]
    Vsock(#[from] hv_devices::virtio::vsock::OpenError),
    /// A chardev, the back end of a console or port, cannot be opened.
    #[error(transparent)]
    Chardev(#[from] hv_devices::chardev::OpenError),
    /// An output would overwrite one of the machine's input files.
    #[error("cannot write the {what} to {}: it is this machine's {input}; use another file", .path.display())]
    OutputIsInput {
        /// What was to be in the file.
        what: String,
        /// The file, as the user named it.
        path: PathBuf,
        /// What it is.
        input: &'static str,
    },
    /// The guest's run ended, and some of what it printed could not be written.
    #[error("{}; make room there, or give the output another end", .lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    OutputLost {
        /// How it ended.
        outcome: Outcome,
        /// What is lost, of each console.
        lost: Vec<LostOutput>,
    },
    /// More ports than a virtio console device can have.
    #[error("{asked} ports are more than the {max} that a guest can have{}", if *.max < hv_devices::virtio::console::MAX_PORTS { " beside its virtio console" } else { "" })]
    TooManyPorts {
        /// What the user wants.
        asked: usize,
        /// What is possible.
        max: usize,
    },
    /// More virtio devices than the board has slots.
    #[error("{0} virtio devices are more than the {max} that a guest can have", max = hv_core::layout::VIRTIO_SLOTS)]
    TooManyDevices(usize),
    /// A slot that the board does not have.
    #[error("there is no virtio slot {0}: slots are 0 to {last}", last = hv_core::layout::VIRTIO_SLOTS - 1)]
    NoSuchSlot(u32),
    /// Two devices in one slot.
    #[error(
        "virtio slot {0} is given to two devices; give one of them another slot, or none to have it chosen"
    )]
    SlotTaken(u32),
    /// A device of the program's own that the machine cannot have.
    #[error("the guest cannot have the device '{name}': {problem}")]
    PlatformDevice {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: PlatformProblem,
    },
    /// Two devices with one id.
    #[error("two devices have the id {0:?}; give one of them another")]
    SameId(String),
    /// More than one virtio console device.
    #[error("a guest has one virtio console device at most; give that one more ports")]
    TwoConsoles,
    /// More than one vsock.
    #[error("a guest has one vsock at most: its driver serves no more")]
    TwoVsocks,
    /// A virtio console device without a port.
    #[error("a virtio console device has a console or ports, and this one has neither")]
    ConsoleOfNothing,
    /// No harts, or too many.
    #[error("a guest has at least one CPU")]
    NoCpus,
    /// More vCPUs than KVM allows here.
    #[error("{asked} CPUs are more than the {max} that KVM allows a guest on this host")]
    TooManyCpus {
        /// What the user wants.
        asked: u32,
        /// What KVM, and the board, allow.
        max: u32,
    },
    /// Not a size of memory that a guest can have.
    #[error(
        "{0} bytes is no size for a guest's memory: it must be a multiple of 4 KiB and more than 0"
    )]
    MemorySize(u64),
    /// Not a size of memory that huge pages make up.
    #[error("{0} bytes of memory are not made up of huge pages of 2 MiB")]
    MemorySizeOfHugePages(u64),
    /// The host has reserved fewer huge pages than the guest's memory is made of.
    #[error("the guest's memory is {wanted} huge pages of 2 MiB, and the host has {free} to give")]
    TooFewHugePages {
        /// Pages.
        wanted: u64,
        /// Pages that nobody uses.
        free: u64,
        /// All that the host has to reserve, those that others use included.
        enough: u64,
    },
    /// The host's kernel cannot reserve huge pages.
    #[error("this host's kernel has no huge pages of 2 MiB to reserve (CONFIG_HUGETLBFS)")]
    NoHugePages,
    /// More RAM than the G-stage can address.
    #[error(
        "{} MiB of memory is more than this host's KVM can address for a guest ({bits} bits of guest-physical address, so at \
         most {} MiB)", .size >> 20, .max >> 20
    )]
    MemoryBeyondGuestPhysical {
        /// Bytes wanted.
        size: u64,
        /// Bytes possible.
        max: u64,
        /// Bits of a guest-physical address.
        bits: u32,
    },
    /// The host has no memory for the guest's.
    #[error("the host has no {} MiB of address space for the guest's memory", .size >> 20)]
    NoHostMemory {
        /// Bytes.
        size: u64,
    },
    /// An AIA was asked for and the host has none to give.
    #[error("this host's KVM has no in-kernel AIA")]
    NoAia,
    /// An AIA was asked for, the host has one, and KVM does not give it to the guest.
    #[error("the guest cannot have an AIA: {0}")]
    Aia(#[from] AiaError),
    /// The device tree cannot be built.
    #[error("cannot build the guest's device tree: {0}")]
    DeviceTree(#[from] hv_core::devicetree::Error),
    /// The machine's owner ended it, by [`Config::stop`](crate::Config::stop), while its files were opened or read.
    #[error("ended while files were opened or read")]
    Stopped,
    /// The device tree cannot be written to the user's file.
    #[error("cannot write the device tree to {}: {problem}", .path.display())]
    WriteDeviceTree {
        /// The file, as the user named it.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A system call failed that normally does not.
    #[error("cannot {doing}: {error}")]
    Host {
        /// What was tried.
        doing: &'static str,
        /// The host's answer.
        error: io::Error,
    },
    /// A vCPU cannot go on: KVM says so, not the guest.
    #[error("vCPU {hart} stopped at pc {pc:#x}: {why}")]
    Vcpu {
        /// Its hart id.
        hart: u32,
        /// Where it was, guest-virtual.
        pc: u64,
        /// KVM's reason.
        why: String,
    },
}

/// Why a file of the user's cannot be opened or read, and what to do where that is known.
pub(crate) fn file_problem(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => "there is no such file; check the path".into(),
        (io::ErrorKind::PermissionDenied, _) => {
            "no permission to read it; check its mode and those of the directories above".into()
        }
        (_, Some(code)) => Errno(code).to_string(),
        _ => error.to_string(),
    }
}

impl Error {
    /// For `map_err` on a KVM call.
    pub(crate) fn kvm(doing: &'static str) -> impl FnOnce(Errno) -> Error {
        move |errno| Error::KvmRefused { doing, errno }
    }

    /// For `map_err` on a system call.
    pub(crate) fn host<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
        move |error| Error::Host {
            doing,
            error: error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_with_files_have_no_numbers_of_errors() {
        for (errno, part) in [
            (libc::ENOENT, "there is no such file"),
            (libc::EACCES, "no permission to read it"),
            (libc::EPERM, "no permission to read it"),
            (libc::EIO, "I/O error"),
            (libc::ELOOP, "symbolic links"),
        ] {
            let problem = file_problem(&io::Error::from_raw_os_error(errno));
            assert!(problem.contains(part), "{problem}");
            assert!(!problem.contains("os error"), "{problem}");
        }
        assert_eq!(file_problem(&io::Error::other("a reason")), "a reason");
    }
}
