//! Kernel files, from the file into guest memory.
//!
//! The formats and their placement are in [`hv_core::kernel`]. Each may also be compressed by gzip or zstd,
//! or wrapped as an EFI zboot program (`compressed.rs`). An error describes in one line what is wrong with the file.
//!
//! Crate linux-loader (0.14) is not used, although what both load goes to the same addresses. Its `loader::pe` and
//! `loader::elf` copy a file and do not check what it claims: the end of the kernel that they report leaves out `image_size` of an
//! `Image` and segments that are only .bss, so that an initrd behind it would be overwritten. They accept big-endian and
//! truncated Images, ELF files for other processors, and entry points outside of the file; an ELF file's virtual entry point
//! is returned as it is. `loader::elf` does not exist on RISC-V and `loader::pe` not on x86, where this is tested. Both read
//! with one system call, which may return less ([`fill`]). `cmdline::Cmdline` refuses what is not ASCII, which Linux takes.

mod compressed;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use hv_core::kernel::{self, HEAD, Segment};
use hv_devices::memory::GuestMemoryMmap;
use vm_memory::{Bytes, GuestAddress};

use crate::Error;
use crate::boot::open_files::OpenFiles;
use crate::config::Payload;
use crate::error::KernelProblem as Problem;
use crate::memory::fill;

/// A kernel or firmware that is ready to be put into guest memory.
#[derive(Debug)]
pub struct Kernel {
    /// What the bytes of the segments are read from.
    contents: Contents,
    segments: Vec<Segment>,
    /// Where hart 0 begins, guest-physical.
    pub entry: u64,
    /// All memory that the kernel occupies once it runs, its .bss included, guest-physical. Nothing else may be placed there.
    pub occupied: Range<u64>,
}

#[derive(Debug)]
enum Contents {
    File(File),
    Memory(Vec<u8>),
}

impl Kernel {
    /// Opens the kernel or firmware among `files`, for a guest whose RAM is `ram` (guest-physical).
    ///
    /// # Errors
    /// What is wrong with the file, as [`Error::Payload`].
    pub fn open(payload: &Payload, ram: &Range<u64>, files: &OpenFiles) -> Result<Kernel, Error> {
        Self::open_file(payload.path(), ram, files).map_err(|problem| error(payload, problem))
    }

    fn open_file(path: &Path, ram: &Range<u64>, files: &OpenFiles) -> Result<Kernel, Problem> {
        let mut file = files.open(path, "kernel file").map_err(Problem::Open)?;
        let mut head = Vec::with_capacity(HEAD);
        (&mut file).take(HEAD as u64).read_to_end(&mut head)?;
        let (placement, contents) = match compressed::detect(&head)? {
            Some(compression) => {
                let bytes = compressed::unpack(compression, file, ram)?;
                (
                    kernel::place(bytes.as_slice(), ram)?,
                    Contents::Memory(bytes),
                )
            }
            // The program headers of an ELF file can be anywhere in it, and with debug information it is large.
            None => (
                kernel::place(&object::ReadCache::new(&file), ram)?,
                Contents::File(file),
            ),
        };
        Ok(Kernel {
            contents,
            segments: placement.segments,
            entry: placement.entry,
            occupied: placement.occupied,
        })
    }

    /// What was compressed in the file; `None` if it is the file as it is.
    pub fn unpacked(self) -> Option<Vec<u8>> {
        match self.contents {
            Contents::File(_) => None,
            Contents::Memory(bytes) => Some(bytes),
        }
    }

    /// Copies the kernel into guest memory.
    ///
    /// # Errors
    /// The file cannot be read, as [`Error::Payload`].
    pub fn load(mut self, payload: &Payload, memory: &GuestMemoryMmap) -> Result<(), Error> {
        for segment in &self.segments {
            self.contents
                .copy(segment, memory)
                .map_err(|problem| error(payload, Problem::Io(problem)))?;
        }
        Ok(())
    }
}

fn error(payload: &Payload, problem: Problem) -> Error {
    Error::Payload {
        what: payload.name(),
        path: payload.path().to_owned(),
        problem,
    }
}

impl Contents {
    fn copy(&mut self, segment: &Segment, memory: &GuestMemoryMmap) -> io::Result<()> {
        let address = GuestAddress(segment.address);
        let out_of_bounds = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file ended early");
        let length = usize::try_from(segment.length).map_err(|_| out_of_bounds())?;
        match self {
            Contents::File(file) => {
                file.seek(SeekFrom::Start(segment.offset))?;
                fill(memory, address, file, length)
            }
            Contents::Memory(bytes) => {
                let start = usize::try_from(segment.offset).map_err(|_| out_of_bounds())?;
                let bytes = bytes
                    .get(start..)
                    .and_then(|bytes| bytes.get(..length))
                    .ok_or_else(out_of_bounds)?;
                memory.write_slice(bytes, address).map_err(io::Error::other)
            }
        }
    }
}

#[cfg(test)]
mod tests;
