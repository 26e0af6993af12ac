//! The nested-QEMU lab of hvrun.

pub mod bare;
pub mod bench;
pub mod cache;
pub mod host;
pub mod hostile;
pub mod initramfs;
pub mod matrix;
pub mod provision;
pub mod test_kernel;
pub mod watch;
