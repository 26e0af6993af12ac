//! The nested-QEMU lab of hvrun.

pub mod bench;
pub mod cache;
pub mod host;
pub mod initramfs;
pub mod provision;
