//! The files that a guest boots from, as hvrun opens them: compressed kernels and initrds, and device trees.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use hv_core::kernel::place;
use hv_core::layout::RAM_BASE;
use hv_vmm::{BootFiles, Config, Payload};

use super::kernel;
use crate::files;
use crate::input::{Input, Script};

/// Bytes of RAM.
const MEMORY: u64 = 8 << 20;

/// A file without a name, whose path is that of its descriptor.
struct Unnamed(File);

impl Unnamed {
    fn new(bytes: &[u8]) -> Self {
        let mut file = tempfile::tempfile_in("/dev/shm")
            .or_else(|_| tempfile::tempfile())
            .expect("a temporary file can be made");
        file.write_all(bytes)
            .expect("a temporary file can be written");
        file.seek(SeekFrom::Start(0))
            .expect("a temporary file can be rewound");
        Self(file)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Makes a file of bytes.
type Wrap = fn(&[u8]) -> Vec<u8>;

/// How the input becomes a file. A fuzzer guesses no checksum, so what is inside of a compressed file is compressed here.
const WRAPPINGS: [Wrap; 6] = [
    |bytes| bytes.to_vec(),
    files::gzip,
    files::zstd,
    |bytes| files::zboot(b"gzip", &files::gzip(bytes)),
    |bytes| files::zboot(b"zstd", &files::zstd(bytes)),
    |bytes| [files::gzip(bytes), files::gzip(bytes)].concat(),
];

/// Opens a file as kernel, as initrd or as device tree.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.below(3);
    let wrap = input.choose(&WRAPPINGS);
    let file = Unnamed::new(&wrap(input.rest()));
    let flat = Unnamed::new(&files::flat());
    let payload = if kind == 0 { &file } else { &flat };
    let mut config = Config::new(Payload::Kernel(payload.path())).memory(MEMORY);
    match kind {
        1 => config = config.initrd(file.path()),
        2 => config = config.dtb(file.path()),
        _ => {}
    }
    let Ok(found) = BootFiles::open(&config) else {
        return;
    };
    if let Some(bytes) = &found.payload.unpacked {
        let ram = RAM_BASE.0..RAM_BASE.0 + MEMORY;
        let placement = place(bytes.as_slice(), &ram).expect("it was found to be in order");
        kernel::check(&placement, bytes.len() as u64, &ram);
    }
    if let Some(bytes) = found.initrd.and_then(|initrd| initrd.unpacked) {
        assert!(!bytes.is_empty());
        assert!(
            bytes.len() as u64 <= MEMORY / 3,
            "an initrd that fills the memory"
        );
    }
}

/// Every kind of file in every wrapping.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for wrapping in 0..WRAPPINGS.len() as u8 {
        for (kind, file) in [
            (0, files::image(true)),
            (0, files::elf(0x8020_0000, 0x8020_0000)),
            (1, b"070701".repeat(20)),
        ] {
            seeds.push(Script::new().byte(kind).byte(wrapping).bytes(&file).done());
        }
    }
    // Compressed already, so that the streams themselves change.
    for kind in 0..2 {
        for wrap in &WRAPPINGS[1..] {
            seeds.push(
                Script::new()
                    .byte(kind)
                    .byte(0)
                    .bytes(&wrap(&files::flat()))
                    .done(),
            );
        }
    }
    for tree in files::device_trees() {
        seeds.push(Script::new().byte(2).byte(0).bytes(&tree).done());
    }
    seeds
}
