use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use nix::fcntl::{FcntlArg, fcntl};
use tempfile::{NamedTempFile, TempDir};

use super::*;

fn image(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Cuts `memory` into slices of these lengths.
fn slices<'a>(memory: &'a mut [u8], lengths: &[usize]) -> Vec<VolatileSlice<'a>> {
    let whole = VolatileSlice::from(memory);
    let mut start = 0;
    lengths
        .iter()
        .map(|length| {
            // The borrow of the bytes outlives that of `whole`.
            let slice = whole.subslice(start, *length).unwrap();
            start += length;
            slice
        })
        .collect()
}

fn open_error(path: impl AsRef<Path>, read_only: bool) -> String {
    let message = Disk::open(path, read_only).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1);
    assert!(message.contains(": "), "says what to do: {message}");
    message
}

#[test]
fn capacity_rounds_up_to_whole_sectors() {
    for (size, sectors) in [(1, 1), (511, 1), (512, 1), (513, 2), (1024, 2)] {
        let file = image(&vec![1; size]);
        assert_eq!(
            Disk::open(file.path(), false).unwrap().sectors(),
            sectors,
            "{size} bytes"
        );
    }
}

#[test]
fn reads_and_writes_any_cut_of_memory() {
    let content: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
    let file = image(&content);
    let disk = Disk::open(file.path(), false).unwrap();
    // More slices than fit into one call, empty ones among them.
    let lengths: Vec<usize> = (0..200).map(|n| n % 40).collect();
    let total = lengths.iter().sum();
    let mut memory = vec![0; total];
    disk.read(&slices(&mut memory, &lengths), 512).unwrap();
    assert_eq!(memory, content[512..512 + total]);

    memory.reverse();
    disk.write(&slices(&mut memory, &lengths), 1024).unwrap();
    disk.flush().unwrap();
    let after = std::fs::read(file.path()).unwrap();
    assert_eq!(after[1024..1024 + total], memory);
    assert_eq!(after[..1024], content[..1024]);
    assert_eq!(after[1024 + total..], content[1024 + total..]);
}

#[test]
fn the_odd_tail_reads_zeros_and_grows_when_written() {
    let file = image(&[7; 700]);
    let disk = Disk::open(file.path(), false).unwrap();
    let mut memory = vec![0xff; 1024];
    disk.read(&slices(&mut memory, &[1, 600, 423]), 0).unwrap();
    assert_eq!(memory[..700], [7; 700]);
    assert_eq!(memory[700..], [0; 324]);

    let mut sector = vec![9; 512];
    disk.write(&slices(&mut sector, &[512]), 512).unwrap();
    let after = std::fs::read(file.path()).unwrap();
    assert_eq!(after.len(), 1024);
    assert_eq!(after[512..], [9; 512]);
}

#[test]
fn write_zeroes_and_discard() {
    for unmap in [false, true] {
        let file = image(&vec![7; 1 << 20]);
        let disk = Disk::open(file.path(), false).unwrap();
        disk.write_zeroes(512, (1 << 19) + 512, unmap).unwrap();
        disk.write_zeroes(0, 0, unmap).unwrap();
        let after = std::fs::read(file.path()).unwrap();
        assert_eq!(after.len(), 1 << 20, "zeroing keeps the size");
        assert!(after[..512].iter().all(|byte| *byte == 7));
        assert!(after[512..(1 << 19) + 1024].iter().all(|byte| *byte == 0));
        assert!(after[(1 << 19) + 1024..].iter().all(|byte| *byte == 7));
        disk.discard(1 << 19, 1 << 19).unwrap();
        disk.discard(0, 0).unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 1 << 20);
    }
}

#[test]
fn zeros_are_written_where_the_host_cannot_zero() {
    let file = image(&vec![7; 300 << 10]);
    let disk = Disk::open(file.path(), false).unwrap();
    disk.fill_with_zeros(1000, 200_000).unwrap();
    let after = std::fs::read(file.path()).unwrap();
    assert!(after[..1000].iter().all(|byte| *byte == 7));
    assert!(after[1000..201_000].iter().all(|byte| *byte == 0));
    assert!(after[201_000..].iter().all(|byte| *byte == 7));
}

#[test]
fn a_read_only_disk_cannot_be_written() {
    let file = image(&[7; 512]);
    let disk = Disk::open(file.path(), true).unwrap();
    assert!(disk.is_read_only());
    let mut sector = vec![9; 512];
    assert!(disk.write(&slices(&mut sector, &[512]), 0).is_err());
    assert!(disk.write_zeroes(0, 512, false).is_err());
    assert_eq!(std::fs::read(file.path()).unwrap(), [7; 512]);
}

#[test]
fn user_errors_are_one_line_each() {
    let directory = TempDir::new().unwrap();
    assert!(open_error(directory.path().join("none"), false).contains("does not exist"));
    assert!(open_error(directory.path(), false).contains("is a directory"));
    assert!(open_error("/dev/null", true).contains("is a character device"));
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(open_error(&pipe, true).contains("is a pipe"));
    assert!(open_error(image(b"").path(), false).contains("is empty"));
    assert!(open_error(image(b"QFI\xfb\0\0\0\x03").path(), false).contains("qcow2"));
}

#[test]
fn missing_permission_says_which() {
    let file = image(&[7; 512]);
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o444)).unwrap();
    // The superuser may write to it all the same.
    match Disk::open(file.path(), false) {
        Ok(_) => assert!(nix::unistd::geteuid().is_root()),
        Err(error) => assert!(error.to_string().contains("is not writable"), "{error}"),
    }
    let path = PathBuf::from("x");
    let message = OpenError::Permission {
        path,
        read_only: true,
    }
    .to_string();
    assert_eq!(
        message,
        "disk image 'x' is not readable: change its permissions"
    );
}

#[test]
fn one_writer_or_many_readers() {
    let file = image(&[7; 512]);
    let writer = Disk::open(file.path(), false).unwrap();
    assert!(open_error(file.path(), false).contains("is in use"));
    assert!(open_error(file.path(), true).contains("is in use"));
    drop(writer);
    let reader = Disk::open(file.path(), true).unwrap();
    let second = Disk::open(file.path(), true).unwrap();
    assert!(open_error(file.path(), false).contains("is in use"));
    drop((reader, second));
    Disk::open(file.path(), false).unwrap();
}

/// Does as QEMU: read locks on the bytes that stand for what it uses and what it does not share.
fn lock_like_qemu(file: &File, bytes: &[i64]) {
    for byte in bytes {
        let lock = libc::flock {
            l_type: libc::F_RDLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: *byte,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    }
}

#[test]
fn locks_fit_those_of_qemu() {
    let file = image(&[7; 512]);
    let writer = file.reopen().unwrap();
    lock_like_qemu(&writer, &[100, 101, 103, 201, 203]);
    assert!(open_error(file.path(), false).contains("is in use"));
    assert!(open_error(file.path(), true).contains("is in use"));
    drop(writer);
    let reader = file.reopen().unwrap();
    lock_like_qemu(&reader, &[100, 201, 203]);
    assert!(open_error(file.path(), false).contains("is in use"));
    Disk::open(file.path(), true).unwrap();
}
