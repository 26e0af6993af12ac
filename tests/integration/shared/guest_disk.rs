//! Disks of guests: with a root file system, and looked into from outside.

// Not every binary needs all of it.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use hv_lab::provision;
use tempfile::TempDir;

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A directory with a guest's root disk in it.
pub struct Disk {
    pub directory: TempDir,
    pub image: PathBuf,
}

impl Disk {
    pub fn new() -> Disk {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("root.img");
        provision::guest_disk(&image, 64 << 20).unwrap();
        Disk { directory, image }
    }

    /// A file beside the disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn argument(&self) -> [String; 2] {
        ["--disk".into(), text(&self.image)]
    }

    /// The same as an image that firmware boots from, see [`bootable_disk`].
    pub fn bootable(&self) -> PathBuf {
        bootable_disk(self)
    }

    /// e2fsck finds nothing to mend.
    pub fn assert_clean(&self) {
        let checked = provision::e2fsck()
            .unwrap()
            .arg("-fn")
            .arg(&self.image)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stdout)
        );
    }

    /// What a file of the guest's holds, read from the image.
    pub fn read_file(&self, path: &str) -> String {
        let read = provision::debugfs()
            .unwrap()
            .arg("-R")
            .arg(format!("cat {path}"))
            .arg(&self.image)
            .output()
            .unwrap();
        String::from_utf8(read.stdout).unwrap()
    }
}

/// Has debugfs do this to an ext4 image.
fn change(image: &Path, script: &str) {
    let mut commands = tempfile::NamedTempFile::new().unwrap();
    commands.write_all(script.as_bytes()).unwrap();
    let changed = provision::debugfs()
        .unwrap()
        .arg("-w")
        .arg("-f")
        .arg(commands.path())
        .arg(image)
        .output()
        .unwrap();
    assert!(changed.status.success(), "{changed:?}");
}

/// A disk as systems are installed on: a bootable partition with a root file system, which has the small kernel and a
/// configuration in its /boot.
fn bootable_disk(disk: &Disk) -> PathBuf {
    const SECTOR: usize = 512;
    const START: usize = 2048;
    let configuration = disk.beside("extlinux.conf");
    fs::write(
        &configuration,
        "default linux\nlabel linux\n  kernel /boot/Image\n  append console=ttyS0 root=/dev/vda1 rw from=extlinux\n",
    )
    .unwrap();
    change(
        &disk.image,
        &format!(
            "mkdir /boot\ncd /boot\nwrite {} Image\nmkdir extlinux\ncd extlinux\nwrite {} extlinux.conf\n",
            text(&provision::small_kernel().unwrap().image),
            text(&configuration)
        ),
    );
    assert!(
        disk.read_file("/boot/extlinux/extlinux.conf")
            .contains("from=extlinux")
    );

    let file_system = fs::read(&disk.image).unwrap();
    let mut sectors = vec![0; START * SECTOR];
    // UEFI specification, section 5.2.1: bootable, type 0x83, where it begins and how many sectors it has.
    sectors[446] = 0x80;
    sectors[450] = 0x83;
    sectors[454..458].copy_from_slice(&u32::try_from(START).unwrap().to_le_bytes());
    let count = u32::try_from(file_system.len() / SECTOR).unwrap();
    sectors[458..462].copy_from_slice(&count.to_le_bytes());
    sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
    sectors.extend(file_system);
    let image = disk.beside("bootable.img");
    fs::write(&image, sectors).unwrap();
    image
}
