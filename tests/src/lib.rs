//! The nested-QEMU lab of hvrun.

pub mod cache;
pub mod provision;
