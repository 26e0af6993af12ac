//! Everything the lab needs on a developer's machine, got without root and without touching the system.
//!
//! Each function returns what it found or made; what was made once is in the [cache](crate::cache), so that later calls
//! need neither time nor network. What the machine already has on `PATH` is preferred to downloads. Functions may be
//! called from several threads and processes at once: one of them does the work, the others wait for it.

mod apt;
mod busybox;
mod compiler;
mod cross;
mod error;
mod guest;
mod kernel;
mod modules;
mod nested_qemu;
pub(crate) mod progress;
mod qemu;
mod run;
mod rust_library;
mod small_kernel;
mod tools;
mod u_boot;

pub(crate) use busybox::applets;
pub use busybox::busybox;
pub use cross::{
    bare_hypervisor, clippy, cross_build, cross_build_example, cross_build_with_names, fuzzer,
    profile_plugin, test_kernel,
};
pub use error::{Error, Result};
pub use guest::{
    GUEST_DISK_SIZE, GUEST_GREETING, GUEST_PROMPT, debugfs, dtc, e2fsck, guest_disk, guest_initrd,
};
pub use kernel::{DebianKernel, KernelFiles, debian_kernel};
pub use modules::modules_closure;
pub use nested_qemu::{NestedQemu, nested_qemu};
pub use qemu::{Qemu, qemu};
pub(crate) use run::{die_with_parent, run};
pub use small_kernel::{oldest_kernel, small_kernel};
pub use u_boot::{UBoot, u_boot};

/// Debian's present stable release: QEMU, the usual host and guest kernel, busybox and kernel sources come from it,
/// whatever release this machine runs.
const STABLE: &str = "trixie";

/// The architecture of the machines in the lab, in Debian's terms.
const GUEST_ARCH: &str = "riscv64";
