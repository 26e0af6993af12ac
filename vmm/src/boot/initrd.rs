//! The initial RAM disk: a file that is copied to guest memory unchanged, or unpacked.
//!
//! Linux unpacks an initrd itself if it was built with `RD_GZIP` or `RD_ZSTD`; other systems do not. So a file that is a single
//! gzip or zstd stream is unpacked here. Everything else, such as several concatenated archives, is left to the guest. Disk
//! containers, which no guest understands as an initrd, are refused.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use hv_core::format::{Archive, Format, HEAD};
use hv_devices::memory::GuestMemoryMmap;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::compression::{Codec, UnpackError, Unpacked};
use crate::boot::open_files::OpenFiles;
use crate::error::InitrdProblem as Problem;
use crate::memory::fill;
use crate::{Error, warnings};

/// Of the memory that the kernel leaves, an initrd that is unpacked here takes no more than one part in so many. The guest
/// has it in memory twice before it is done with it, as the archive and as its files.
const SHARE: u64 = 3;

/// An initial RAM disk that is ready to be put into guest memory.
#[derive(Debug)]
pub struct Initrd<'a> {
    path: &'a Path,
    contents: Contents,
    /// Bytes, in guest memory.
    pub size: u64,
}

#[derive(Debug)]
enum Contents {
    File(File),
    Memory(Vec<u8>),
}

impl<'a> Initrd<'a> {
    /// Opens the initrd at `path` among `files`, for a guest whose kernel leaves it `free` bytes of memory.
    ///
    /// # Errors
    /// What is wrong with the file, as [`Error::Initrd`].
    pub fn open(path: &'a Path, free: u64, files: &OpenFiles) -> Result<Initrd<'a>, Error> {
        Self::open_file(path, free, files).map_err(|problem| Error::Initrd {
            path: path.to_owned(),
            problem,
        })
    }

    fn open_file(path: &'a Path, free: u64, files: &OpenFiles) -> Result<Initrd<'a>, Problem> {
        let mut file = files.open(path, "archive").map_err(Problem::Open)?;
        let mut head = Vec::new();
        (&file)
            .take(HEAD as u64)
            .read_to_end(&mut head)
            .and_then(|_| file.rewind())?;
        match Format::of(&head).map_or(Suits::Perhaps, Suits::of) {
            Suits::Perhaps => {}
            Suits::Hardly(target, problem) => {
                log::warn!(target: target, "the initrd {}: {problem}", path.display());
            }
            Suits::No(problem) => return Err(problem),
        }
        let unpacked = unpack(path, &file, free / SHARE)?;
        if let Some(bytes) = unpacked {
            return Ok(Initrd {
                path,
                size: bytes.len() as u64,
                contents: Contents::Memory(bytes),
            });
        }
        let size = file
            .seek(io::SeekFrom::End(0))
            .and_then(|size| file.rewind().map(|()| size))?;
        if size == 0 {
            return Err(Problem::Empty);
        }
        Ok(Initrd {
            path,
            contents: Contents::File(file),
            size,
        })
    }

    /// What was compressed in the file; `None` if the guest is to have the file as it is.
    pub fn unpacked(self) -> Option<Vec<u8>> {
        match self.contents {
            Contents::File(_) => None,
            Contents::Memory(bytes) => Some(bytes),
        }
    }

    /// Copies it into guest memory.
    ///
    /// # Errors
    /// The file cannot be read, as [`Error::Initrd`].
    pub fn load(self, address: u64, memory: &GuestMemoryMmap) -> Result<(), Error> {
        let address = GuestAddress(address);
        let copied = match self.contents {
            Contents::Memory(bytes) => memory
                .write_slice(&bytes, address)
                .map_err(io::Error::other),
            Contents::File(mut file) => usize::try_from(self.size)
                .map_err(io::Error::other)
                .and_then(|size| fill(memory, address, &mut file, size)),
        };
        copied.map_err(|error| Error::Initrd {
            path: self.path.to_owned(),
            problem: Problem::Io(error),
        })
    }
}

/// Whether a file can be an initrd.
enum Suits {
    Perhaps,
    /// Some guests take it: a warning, with its target.
    Hardly(&'static str, String),
    No(Problem),
}

impl Suits {
    fn of(format: Format) -> Self {
        match format {
            Format::DiskImage(image) => Self::No(Problem::DiskImage(image.name())),
            Format::Partitions => Self::No(Problem::Partitions),
            Format::Luks => Self::No(Problem::Encrypted),
            // Linux's RAM disk of old, which other systems have as well.
            Format::FileSystem(system) => Self::Hardly(
                warnings::INITRD_IS_FILE_SYSTEM,
                format!(
                    "it is a file system ({}), which Linux takes for one with root=/dev/ram0 only",
                    system.name()
                ),
            ),
            Format::DeviceTree => Self::Hardly(
                warnings::INITRD_IS_DEVICE_TREE,
                "it is a device tree".into(),
            ),
            Format::UImage => Self::Hardly(
                module_path!(),
                "it is wrapped for U-Boot, which Linux does not undo; give it the archive inside"
                    .into(),
            ),
            Format::Archive(Archive::Zip | Archive::SevenZip | Archive::Ar) => Self::Hardly(
                module_path!(),
                "it is an archive, and not of the cpio kind that Linux unpacks".into(),
            ),
            Format::Archive(Archive::Cpio | Archive::Tar) | Format::Compressed(_) => Self::Perhaps,
        }
    }
}

/// What the file holds if it is one compressed stream of at most `limit` bytes when unpacked, and else nothing.
fn unpack(path: &Path, mut file: &File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    file.take(4).read_to_end(&mut head)?;
    let Some(codec) = Codec::of(&head) else {
        return Ok(None);
    };
    file.rewind()?;
    let (level, reason) = match codec.unpack(io::BufReader::with_capacity(1 << 16, file), limit) {
        Ok(Unpacked {
            bytes,
            streams: 1,
            trailing: false,
        }) if !bytes.is_empty() => return Ok(Some(bytes)),
        Ok(_) => (log::Level::Info, "it is not one archive".to_owned()),
        Err(error @ UnpackError::TooLarge(_)) => (log::Level::Info, error.to_string()),
        Err(error @ UnpackError::Damaged(_)) => (log::Level::Warn, error.to_string()),
    };
    log::log!(
        level,
        "the initrd {} is given to the guest as it is: {reason}",
        path.display()
    );
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::boot::compression::tests::{gzip, zstd};

    /// What the guest finds, if its kernel leaves it `free` bytes.
    fn loaded(file: &[u8], free: u64) -> Vec<u8> {
        let mut named = tempfile::NamedTempFile::new().unwrap();
        named.write_all(file).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 1 << 20)]).unwrap();
        let initrd = Initrd::open(named.path(), free, &OpenFiles::default()).unwrap();
        let mut found = vec![0; usize::try_from(initrd.size).unwrap()];
        initrd.load(0x2000, &memory).unwrap();
        memory.read_slice(&mut found, GuestAddress(0x2000)).unwrap();
        found
    }

    #[test]
    fn one_stream_is_unpacked() {
        let archive = vec![b'0'; 10_000];
        for packed in [gzip(&archive), zstd(&archive)] {
            assert!(loaded(&packed, 30_000) == archive);
        }
    }

    #[test]
    fn everything_else_is_handed_over_as_it_is() {
        let archive = vec![b'0'; 10_000];
        for packed in [gzip(&archive), zstd(&archive)] {
            let mut damaged = packed.clone();
            damaged.truncate(packed.len() - 1);
            for file in [
                archive.clone(),
                [&packed[..], &packed].concat(),
                [&packed[..], b"\0\0\0\0"].concat(),
                damaged,
            ] {
                assert!(loaded(&file, 1 << 20) == file);
            }
            assert!(loaded(&packed, 29_999) == packed, "too large when unpacked");
        }
        assert!(loaded(&gzip(b""), 1 << 20) == gzip(b""));
    }

    #[test]
    fn what_some_guests_take_is_handed_over_with_a_warning() {
        let mut ext = vec![0x13; 0x1000];
        ext[0x438..0x43e].copy_from_slice(&[0x53, 0xef, 1, 0, 1, 0]);
        let uimage = b"\x27\x05\x19\x56 and more".to_vec();
        for file in [ext, uimage, b"hsqs".to_vec()] {
            let format = Format::of(&file).unwrap();
            assert!(matches!(Suits::of(format), Suits::Hardly(..)));
            assert!(loaded(&file, 1 << 20) == file);
        }
    }

    /// For who passes a file on instead of loading it.
    #[test]
    fn only_what_was_compressed_is_unpacked() {
        let text = vec![7; 5000];
        for (file, expected) in [
            (gzip(&text), Some(text.clone())),
            (zstd(&text), Some(text.clone())),
            (text.clone(), None),
        ] {
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(path.path(), &file).unwrap();
            let initrd = Initrd::open(path.path(), 1 << 20, &OpenFiles::default()).unwrap();
            assert_eq!(initrd.unpacked(), expected);
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let problem = |path: &Path| {
            Initrd::open(path, 1 << 20, &OpenFiles::default())
                .unwrap_err()
                .to_string()
        };
        assert!(problem(Path::new("/")).contains("directory"));
        assert!(problem(Path::new("/no/such/file")).contains("no such file"));
        for (magic, expected) in [
            (&b"QFI\xfb\0\0\0\x03"[..], "qcow2"),
            (b"vhdxfile", "vhdx"),
            (b"LUKS\xba\xbe\0\x02", "encrypted disk"),
        ] {
            let disk = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(disk.path(), magic).unwrap();
            let problem = problem(disk.path());
            assert!(problem.contains(expected), "{problem}");
        }
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(problem(empty.path()).contains("empty"));
    }
}
