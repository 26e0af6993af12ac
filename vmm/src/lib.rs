//! hvrun's virtual machine monitor as a library: a guest on Linux KVM, on a RISC-V host.
//!
//! ```no_run
//! use hv_vmm::{Chardev, Config, DiskConfig, Outcome, Payload, Vm};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::new(Payload::Kernel("Image".into()))
//!     .cpus(2)
//!     .serial(Chardev::File("console.log".into()))
//!     .device(DiskConfig::new("root.img"));
//! match Vm::new(config)?.run()? {
//!     Outcome::PowerOff => println!("the guest switched itself off"),
//!     outcome => println!("{outcome:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! On a host of another architecture, everything builds, and [`Vm::new`] fails with the message that it needs a RISC-V host.
//!
//! [`Vm::handle`] gives a [`Handle`], by which other threads control the machine. Devices of the program's own are
//! [`PlatformDevice`]s and [`CustomConfig`]s. The package's examples show each: `boot`, `control`, `pause`, `own_device`.
//!
//! # What the process has to do
//! - Leave the signal SIGURG to the machine, which uses it to make vCPU threads leave KVM.
//! - Ignore SIGPIPE (Rust's runtime does), and SIGXFSZ if the size of files may be limited (RLIMIT_FSIZE). A write that fails is
//!   then an error of the guest's disk or console.
//! - With [`Config::sandbox`], keep the signal SIGSYS unblocked in every thread that makes or runs a machine, and do nothing more
//!   on the thread that runs it than to end: it keeps no rights.
//! - Use a logger that does not block: a logger that waits for its reader makes the guest wait, too.
//!
//! [`Capabilities::query`] reports what this host's KVM can give a guest, [`Host::look`] other facts about the host.

mod boot;
mod config;
mod consoles;
mod control;
mod devices;
mod error;
mod inputs;
mod inspect;
mod kvm;
mod machine;
mod memory;
mod probe;
mod sandbox;
mod sync;
mod vcpu;
mod vm;
pub mod warnings;

pub use boot::boot_files::{BootFile, BootFiles};
pub use config::{Config, IrqchipChoice, Payload};
pub use consoles::{Chardev, InputFilter, PortConfig, PseudoTerminal, Stdio};
pub use control::{Event, Handle, Refused, Status};
pub use devices::{
    ConsoleConfig, CustomConfig, DeviceConfig, DeviceKind, DiskConfig, Location, NetConfig,
    PlatformDevice, RngConfig, VsockConfig,
};
pub use error::{Error, InitrdProblem, KernelProblem, PlatformProblem};
pub use hv_core::kernel::{NoProgram, Problem as KernelFileProblem};
/// The interfaces of devices: [`MmioDevice`](hv_devices::bus::MmioDevice) for a [`PlatformDevice`],
/// [`VirtioDevice`](hv_devices::virtio::VirtioDevice) for a [`CustomConfig`].
pub use hv_devices;
pub use hv_devices::chardev::LostOutput;
pub use hv_devices::device_file::{DeviceFile, DeviceState, HostDevice};
pub use hv_devices::virtio::block::{ImageFormat, OnError, RequestError, Serial};
pub use hv_devices::virtio::net::{Mac, Vhost};
pub use hv_devices::virtio::transport::mmio::Version as VirtioVersion;
pub use hv_devices::write_problem;
pub use inspect::capabilities::{AiaAbsence, AnsweredBy, Capabilities, SbiExtension};
pub use inspect::host::Host;
pub use kvm::aia::{AiaError, AiaStep, Attribute as AiaAttribute};
pub use kvm::{AiaFeatures, Errno, OpenError};
pub use memory::huge_pages::HugePages;
pub use sandbox::{Sandbox, allowed as allowed_calls, on_violation};
pub use vm::Vm;

/// How a guest's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off.
    PowerOff,
    /// The guest switched itself off and reported a system failure (SBI SRST, reset reason 1).
    SystemFailure,
    /// The guest reported a failure through the test device ("sifive_test"), with a code of its own.
    TestFailed(u16),
    /// The guest reset itself, and [`Config::no_reboot`] says that it is not to be booted again.
    Reset,
    /// It was stopped from outside: by [`Config::stop`] or by [`Handle::stop`].
    Stopped,
}

impl From<hv_core::ending::End> for Outcome {
    fn from(end: hv_core::ending::End) -> Self {
        use hv_core::ending::End;
        match end {
            End::PowerOff => Self::PowerOff,
            End::SystemFailure => Self::SystemFailure,
            End::TestFailed(code) => Self::TestFailed(code),
            End::Reset => Self::Reset,
        }
    }
}
