//! The nested-QEMU lab of hvrun.

pub mod cache;
pub mod initramfs;
pub mod provision;
