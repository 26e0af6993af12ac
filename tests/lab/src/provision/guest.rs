//! What the default guest boots from: an initrd, and a disk image, with the same small userland.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::busybox::applets;
use super::run::run;
use super::tools::tool;
use super::{Error, KernelFiles, Result, busybox, modules};
use crate::cache::{self, create_dir, fingerprint};
use crate::initramfs::Initramfs;

/// The size of a guest disk unless a test needs another: 512 MiB, of which the image occupies a few.
pub const GUEST_DISK_SIZE: u64 = 512 << 20;

/// What the shell on the guest's console prints when it is ready for a command.
pub const GUEST_PROMPT: &str = "guest# ";

/// What the guests' start script (`resources/guest/rcS`) prints once in each boot, before the first prompt.
pub const GUEST_GREETING: &str = "hvrun guest: Linux ";

/// Drivers that the guest may need and Debian's kernels have as modules: its disks, console, network, entropy and vsock.
const GUEST_MODULES: [&str; 7] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "ext4",
];

const INITRD_INIT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../resources/guest/initrd-init"
));

/// The files of the guest's userland apart from busybox: path, mode, content.
const FILES: [(&str, u32, &str); 7] = [
    (
        "etc/inittab",
        0o644,
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../resources/guest/inittab"
        )),
    ),
    (
        "etc/init.d/rcS",
        0o755,
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../resources/guest/rcS"
        )),
    ),
    (
        "etc/init.d/rcK",
        0o755,
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../resources/guest/rcK"
        )),
    ),
    (
        "etc/profile",
        0o644,
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../resources/guest/profile"
        )),
    ),
    ("etc/hostname", 0o644, "guest\n"),
    ("etc/passwd", 0o644, "root::0:0:root:/root:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\n"),
];

/// Its directories.
const DIRECTORIES: [&str; 11] = [
    "dev",
    "etc",
    "etc/init.d",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
];

/// Its symbolic links besides busybox's names: path and target.
const LINKS: [(&str, &str); 3] = [("bin", "usr/bin"), ("sbin", "usr/bin"), ("usr/sbin", "bin")];

/// A file of the userland.
enum Node<'a> {
    Directory,
    File { mode: u32, content: &'a [u8] },
    Link { target: &'a str },
}

/// The userland around the busybox binary `program`: paths without the leading slash, parents first.
fn userland(program: &[u8]) -> Result<Vec<(String, Node<'_>)>> {
    let directories = DIRECTORIES
        .iter()
        .map(|path| ((*path).to_owned(), Node::Directory));
    let links = LINKS
        .iter()
        .map(|(path, target)| ((*path).to_owned(), Node::Link { target }));
    let files = FILES.iter().map(|(path, mode, content)| {
        (
            (*path).to_owned(),
            Node::File {
                mode: *mode,
                content: content.as_bytes(),
            },
        )
    });
    let names = applets(program)?
        .into_iter()
        .filter(|name| *name != "busybox");
    let names = names.map(|name| (format!("usr/bin/{name}"), Node::Link { target: "busybox" }));
    let busybox = (
        "usr/bin/busybox".to_owned(),
        Node::File {
            mode: 0o755,
            content: program,
        },
    );
    Ok(directories
        .chain(links)
        .chain(files)
        .chain([busybox])
        .chain(names)
        .collect())
}

/// An initrd for `kernel`: busybox, and the kernel's modules for virtio and ext4, which it loads. It goes on from the
/// root file system that `root=` on the kernel command line names; without `root=` it is itself the guest's system,
/// with the same shell on the console as a [`guest_disk`].
///
/// # Errors
/// When busybox or the kernel's modules cannot be had.
pub fn guest_initrd(kernel: &KernelFiles) -> Result<PathBuf> {
    let busybox = busybox()?;
    let files = FILES.iter().map(|(_, _, content)| *content);
    let inputs = [
        kernel.modules.to_string_lossy(),
        busybox.to_string_lossy(),
        INITRD_INIT.into(),
        modules::FORM.into(),
    ];
    let inputs = inputs
        .into_iter()
        .chain(files.map(Into::into))
        .chain(GUEST_MODULES.map(Into::into));
    let entry = cache::obtain(
        "guest-initrd",
        &fingerprint(inputs.map(|text| text.into_owned())),
        |staging| {
            let mut image = Initramfs::new();
            for (path, node) in userland(&read(&busybox)?)? {
                match node {
                    Node::Directory => image.directory(&path),
                    Node::File { mode, content } => image.file(&path, mode, content),
                    Node::Link { target } => image.symlink(&path, target),
                }
            }
            image.modules(kernel, &GUEST_MODULES)?;
            image.file("init", 0o755, INITRD_INIT.as_bytes());
            write(&staging.content.join("initrd"), &image.finish())?;
            Ok(kernel.release.clone())
        },
    )?;
    Ok(entry.join("initrd"))
}

/// Makes a disk image of `size` bytes at `destination`, replacing what is there: an ext4 root file system with busybox
/// init, which gives a root shell on the console. Its prompt is [`GUEST_PROMPT`]. The file is sparse.
///
/// # Errors
/// When busybox or e2fsprogs cannot be had, `size` is too small (16 MiB suffice), or the file cannot be written.
pub fn guest_disk(destination: &Path, size: u64) -> Result<()> {
    let directory = destination
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let failed = |error| Error::io("write to", directory, error);
    let tree = tempfile::tempdir()
        .map_err(|error| Error::io("create", Path::new("a directory"), error))?;
    let program = read(&busybox()?)?;
    let userland = userland(&program)?;
    populate(tree.path(), &userland)?;

    let image = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    image.as_file().set_len(size).map_err(failed)?;
    let mut format = Command::new(tool("mke2fs", E2FSPROGS)?);
    format.args([
        "-q", "-F", "-O", FEATURES, "-I", "256", "-L", "guest", "-m", "0",
    ]);
    format.args(["-N", "4096", "-J", "size=4", "-U", DISK_ID, "-E"]);
    // Nothing is left for the guest to initialize in the background while a test measures it.
    format.arg(format!(
        "hash_seed={DISK_ID},lazy_itable_init=0,lazy_journal_init=0"
    ));
    run(format
        .env("MKE2FS_CONFIG", "/dev/null")
        .arg("-d")
        .arg(tree.path())
        .arg(image.path()))?;
    if !nix::unistd::geteuid().is_root() {
        give_to_root(image.path(), &userland)?;
    }
    // Readable as any file that the user makes.
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o644)).map_err(failed)?;
    image
        .persist(destination)
        .map_err(|error| Error::io("create", destination, error.error))?;
    Ok(())
}

/// The package of mke2fs, e2fsck and debugfs.
const E2FSPROGS: &str = "e2fsprogs";

/// What makes the disk's file system ext4, given here in full because the defaults are the machine's.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The identity of the disk's file system, arbitrary and fixed.
const DISK_ID: &str = "6776756e-6775-6573-7464-69736b000001";

/// A command that runs e2fsck.
///
/// # Errors
/// When it is neither installed nor to be had from Debian's packages.
pub fn e2fsck() -> Result<Command> {
    tool("e2fsck", E2FSPROGS).map(Command::new)
}

/// A command that runs debugfs, which reads and writes files of an ext4 image that is not mounted.
///
/// # Errors
/// When it is neither installed nor to be had from Debian's packages.
pub fn debugfs() -> Result<Command> {
    tool("debugfs", E2FSPROGS).map(Command::new)
}

/// A command that runs dtc, the device-tree compiler.
///
/// # Errors
/// When it is neither installed nor to be had from Debian's packages.
pub fn dtc() -> Result<Command> {
    tool("dtc", "device-tree-compiler").map(Command::new)
}

/// Writes the userland below `root`.
fn populate(root: &Path, userland: &[(String, Node)]) -> Result<()> {
    for (path, node) in userland {
        let path = root.join(path);
        match node {
            Node::Directory => create_dir(&path)?,
            Node::File { mode, content } => {
                write(&path, content)?;
                let mode = fs::Permissions::from_mode(*mode);
                fs::set_permissions(&path, mode)
                    .map_err(|error| Error::io("change", &path, error))?;
            }
            Node::Link { target } => {
                symlink(target, &path).map_err(|error| Error::io("create", &path, error))?;
            }
        }
    }
    Ok(())
}

/// Makes root the owner of the files in `image`, which mke2fs gave to the user whose files it copied.
fn give_to_root(image: &Path, userland: &[(String, Node)]) -> Result<()> {
    let mut script = String::new();
    for (path, _) in userland {
        for field in ["uid", "gid"] {
            let _ = writeln!(script, "set_inode_field \"/{path}\" {field} 0");
        }
    }
    let commands = tempfile::NamedTempFile::new()
        .map_err(|error| Error::io("create", Path::new("a file"), error))?;
    write(commands.path(), script.as_bytes())?;
    run(debugfs()?
        .arg("-w")
        .arg("-f")
        .arg(commands.path())
        .arg(image))
    .map(drop)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io("read", path, error))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).map_err(|error| Error::io("write", path, error))
}
