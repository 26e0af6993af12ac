//! The bare-metal hypervisor in QEMU: guests' files made into a [bundle], and the [machine](Machine) that it boots on.

pub mod bundle;
mod machine;
pub mod pipe;

pub use machine::{Disk, Machine};
