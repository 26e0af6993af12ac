//! Initramfs images: cpio archives in the "newc" format, as the kernel unpacks them (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;

use crate::provision::{Error, KernelFiles, Result, modules_closure};

/// An initramfs image in the making. Everything in it belongs to root and is dated at the epoch, so that the same
/// content gives the same bytes.
#[derive(Debug, Default)]
pub struct Initramfs {
    image: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

/// File type bits of a mode (inode(7)).
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMBOLIC_LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

impl Initramfs {
    /// An image that holds `/dev/console` alone, which the kernel opens for the first process before that can mount
    /// anything.
    pub fn new() -> Self {
        let mut image = Self::default();
        image.device("dev/console", 0o600, 5, 1);
        image
    }

    /// Adds a directory, and those above it.
    pub fn directory(&mut self, path: &str) {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.parent(path);
        self.entry(path, DIRECTORY | 0o755, 2, (0, 0), &[]);
    }

    /// Adds a file with the permission bits `mode`. The format holds files of less than 4 GiB.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parent(path);
        self.entry(path, REGULAR | mode, 1, (0, 0), content);
    }

    /// Adds these modules of `kernel` to `/modules`, and all that they need. `/modules/load` names them, one a line, in
    /// the order in which to load them.
    ///
    /// # Errors
    /// The kernel has no such module, or a module cannot be read.
    pub fn modules(&mut self, kernel: &KernelFiles, names: &[&str]) -> Result<()> {
        let mut order = String::new();
        for path in modules_closure(kernel, names)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let content = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
            self.file(&format!("modules/{name}"), 0o644, &content);
            order += &name;
            order.push('\n');
        }
        self.file("modules/load", 0o644, order.as_bytes());
        Ok(())
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.entry(path, SYMBOLIC_LINK | 0o777, 1, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parent(path);
        self.entry(path, CHARACTER_DEVICE | mode, 1, (major, minor), &[]);
    }

    /// The finished image.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header(TRAILER, 0, 1, (0, 0), 0);
        self.image
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        self.header(path, mode, links, device, content.len());
        self.image.extend_from_slice(content);
        self.pad();
    }

    fn header(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), size: usize) {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.image.extend_from_slice(b"070701");
        for field in fields {
            self.image
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.image.extend_from_slice(path.as_bytes());
        self.image.push(0);
        self.pad();
    }

    /// Names and contents are padded to multiples of four bytes.
    fn pad(&mut self) {
        self.image.resize(self.image.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_format_says() {
        let mut image = Initramfs::default();
        image.file("init", 0o755, b"hello");
        let expected = concat!(
            "070701",
            "00000001",
            "000081ed",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000005",
            "00000000",
            "init\0\0",
            "hello\0\0\0",
            "070701",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000b",
            "00000000",
            "TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8_lossy(&image.finish()), expected);
    }

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        for length in 0..8 {
            let mut image = Initramfs::default();
            image.file(&"n".repeat(length + 1), 0o644, &vec![b'x'; length]);
            let image = image.finish();
            let trailer = image
                .windows(6)
                .rposition(|window| window == b"070701")
                .expect("there is one");
            assert_eq!((trailer % 4, image.len() % 4), (0, 0));
        }
    }

    #[test]
    fn directories_come_once_and_before_what_they_hold() {
        let mut image = Initramfs::new();
        image.symlink("usr/bin/sh", "busybox");
        image.directory("usr/bin");
        image.device("dev/null", 0o666, 1, 3);
        let image = String::from_utf8_lossy(&image.finish()).into_owned();
        let positions: Vec<_> = [
            "dev\0",
            "dev/console\0",
            "usr\0",
            "usr/bin\0",
            "usr/bin/sh\0",
            "dev/null\0",
        ]
        .iter()
        .map(|name| {
            let found: Vec<_> = image
                .match_indices(name)
                .map(|(position, _)| position)
                .collect();
            assert_eq!(found.len(), 1, "{name}");
            found[0]
        })
        .collect();
        assert!(positions.is_sorted());
    }
}
