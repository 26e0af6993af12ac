//! The files that a guest boots from, for callers that place them in its memory by other means than [`Vm`](crate::Vm).

use std::path::PathBuf;

use hv_core::layout;

use crate::boot::devicetree::TreeFile;
use crate::boot::initrd::Initrd;
use crate::boot::kernel::Kernel;
use crate::boot::open_files::OpenFiles;
use crate::config::Config;
use crate::{Error, Payload};

/// What a guest boots from, found to be in order.
#[derive(Debug)]
pub struct BootFiles {
    /// The kernel or the firmware: an `Image`, an ELF executable or a flat binary.
    pub payload: BootFile,
    /// The initial RAM disk.
    pub initrd: Option<BootFile>,
}

/// A file whose contents go into the guest's memory.
#[derive(Debug)]
pub struct BootFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its contents where these are other than the file's own bytes: what was compressed in it.
    pub unpacked: Option<Vec<u8>>,
}

impl BootFiles {
    /// Opens and unpacks the files of a guest as it would be done to boot it.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn open(config: &Config) -> Result<BootFiles, Error> {
        config.warn_of_a_long_command_line();
        let files = OpenFiles::default();
        let base = layout::RAM_BASE.0;
        let ram = base..base.saturating_add(config.memory);
        let kernel = Kernel::open(&config.payload, &ram, &files)?;
        let free = ram.end.saturating_sub(kernel.occupied.end);
        let (Payload::Kernel(path) | Payload::Firmware(path)) = &config.payload;
        if let Some(tree) = &config.dtb {
            TreeFile::open(tree, config.command_line.clone(), &files)?;
        }
        let initrd = |path: &PathBuf| {
            let unpacked = Initrd::open(path, free, &files)?.unpacked();
            let path = path.clone();
            Ok::<_, Error>(BootFile { path, unpacked })
        };
        Ok(BootFiles {
            payload: BootFile {
                path: path.clone(),
                unpacked: kernel.unpacked(),
            },
            initrd: config.initrd.as_ref().map(initrd).transpose()?,
        })
    }
}
