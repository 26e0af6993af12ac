//! The targets, one file for each part of hvrun.

pub mod boot_files;
pub mod bundle;
pub mod clock;
pub mod device_tree;
pub mod instruction;
pub mod kernel;
pub mod keys;
pub mod merged;
pub mod plic;
pub mod sbi;
pub mod screen;
pub mod uart;
pub mod virtio;
