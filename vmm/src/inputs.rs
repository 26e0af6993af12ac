//! The input files of a machine, which none of its outputs may overwrite.

use std::path::{Path, PathBuf};

use hv_devices::chardev::OutputFile;

use crate::Error;

/// The input files of a machine, with their names in messages. No output may overwrite them.
#[derive(Clone, Debug, Default)]
pub struct Inputs(pub Vec<(&'static str, PathBuf)>);

impl Inputs {
    /// Opens a file for `what`, such as `serial port's output`, and locks it. Its contents are not changed yet.
    ///
    /// # Errors
    /// If it is one of these, by whatever path, or is in use by a machine, or cannot be written.
    pub fn open_output(&self, path: &Path, what: &str) -> Result<OutputFile, Error> {
        let output = OutputFile::open(path, what)?;
        if let Some((input, _)) = self.0.iter().find(|(_, path)| output.is(path)) {
            return Err(Error::OutputIsInput {
                what: what.to_owned(),
                path: path.to_owned(),
                input,
            });
        }
        output.lock()?;
        Ok(output)
    }
}
