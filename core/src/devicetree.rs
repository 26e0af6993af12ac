//! The machine as a flattened device tree.
use alloc::vec::Vec;

use crate::machine::Machine;

/// Why no tree could be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The writer refused.
    #[error("the device tree cannot be written: {0}")]
    Write(vm_fdt::Error),
}

impl From<vm_fdt::Error> for Error {
    fn from(error: vm_fdt::Error) -> Self {
        Self::Write(error)
    }
}

/// The device tree of `machine`, as a blob.
///
/// # Errors
/// [`Error`] if the description cannot be put into a tree.
pub fn build(machine: &Machine) -> Result<Vec<u8>, Error> {
    let _ = machine;
    Ok(vm_fdt::FdtWriter::new()?.finish()?)
}
