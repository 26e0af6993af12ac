use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use hv_core::format::HEAD;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use tempfile::{NamedTempFile, TempDir};

use super::*;

fn image(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Cuts `memory` into slices of these lengths.
fn slices<'a>(memory: &'a mut [u8], lengths: &[usize]) -> Vec<GuestSlice<'a>> {
    let whole = GuestSlice::from(memory);
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
    let message = Raw::open(path, read_only, ImageFormat::Auto)
        .unwrap_err()
        .to_string();
    assert_eq!(message.lines().count(), 1);
    assert!(message.contains(": "), "says what to do: {message}");
    message
}

#[test]
fn capacity_rounds_up_to_whole_sectors() {
    for (size, sectors) in [(1, 1), (511, 1), (512, 1), (513, 2), (1024, 2)] {
        let file = image(&vec![1; size]);
        assert_eq!(
            Raw::open(file.path(), false, ImageFormat::Auto)
                .unwrap()
                .info()
                .sectors,
            sectors,
            "{size} bytes"
        );
    }
}

#[test]
fn reads_and_writes_any_cut_of_memory() {
    let content: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
    let file = image(&content);
    let disk = Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
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
    let disk = Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
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
        let disk = Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
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
    let disk = Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
    disk.fill_with_zeros(1000, 200_000).unwrap();
    let after = std::fs::read(file.path()).unwrap();
    assert!(after[..1000].iter().all(|byte| *byte == 7));
    assert!(after[1000..201_000].iter().all(|byte| *byte == 0));
    assert!(after[201_000..].iter().all(|byte| *byte == 7));
}

#[test]
fn a_read_only_disk_cannot_be_written() {
    let file = image(&[7; 512]);
    let disk = Raw::open(file.path(), true, ImageFormat::Auto).unwrap();
    assert!(disk.info().read_only);
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
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(open_error(&socket, false).contains("is a socket"));
}

#[test]
fn missing_permission_says_which() {
    let file = image(&[7; 512]);
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o444)).unwrap();
    // The superuser may write to it all the same.
    match Raw::open(file.path(), false, ImageFormat::Auto) {
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
    let writer = Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
    assert!(open_error(file.path(), false).contains("is in use"));
    assert!(open_error(file.path(), true).contains("is in use"));
    drop(writer);
    let reader = Raw::open(file.path(), true, ImageFormat::Auto).unwrap();
    let second = Raw::open(file.path(), true, ImageFormat::Auto).unwrap();
    assert!(open_error(file.path(), false).contains("is in use"));
    drop((reader, second));
    Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
}

/// A file in memory, of `size` bytes that are 7.
fn in_memory(size: usize, flags: MFdFlags) -> File {
    let file = File::from(memfd_create(c"image", flags).unwrap());
    file.write_all_at(&vec![7; size], 0).unwrap();
    file
}

fn raw(file: File) -> Raw {
    Raw::new(file, "test.img".into(), false).unwrap()
}

/// In memory nothing has to be waited for: all is done at once that fits into one call.
#[test]
fn the_quick_path_does_all_or_says_that_it_did_not() {
    let disk = raw(in_memory(8192, MFdFlags::empty()));
    let mut memory = vec![1; 8192];
    assert!(disk.read_now(&slices(&mut memory, &[100, 0, 412]), 512));
    assert_eq!(memory[..512], [7; 512]);
    assert_eq!(memory[512..], [1; 8192 - 512]);
    assert!(disk.write_now(&slices(&mut memory, &[512, 512]), 1024));
    let mut content = vec![0; 8192];
    disk.file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content[1024..1536], [7; 512]);
    assert_eq!(content[1536..2048], [1; 512]);
    assert_eq!(content[2048..], [7; 8192 - 2048]);
    // The end of the file.
    assert!(!disk.read_now(&slices(&mut memory, &[512, 512]), 8192 - 512));
    assert!(!disk.read_now(&slices(&mut memory, &[512]), 8192));
    for (count, expected) in [(VECTOR_SIZE, true), (VECTOR_SIZE + 1, false)] {
        let lengths = vec![1; count];
        assert_eq!(disk.read_now(&slices(&mut memory, &lengths), 0), expected);
        assert_eq!(disk.write_now(&slices(&mut memory, &lengths), 0), expected);
    }
    // What the host refuses once is not tried again.
    let [reads, writes] = &disk.now;
    reads.store(false, Ordering::Relaxed);
    assert!(!disk.read_now(&slices(&mut memory, &[512]), 0));
    assert!(disk.write_now(&slices(&mut memory, &[512]), 0));
    writes.store(false, Ordering::Relaxed);
    assert!(!disk.write_now(&slices(&mut memory, &[512]), 0));
}

#[test]
fn a_read_only_image_is_never_written_quickly() {
    let file = in_memory(512, MFdFlags::empty());
    let disk = Raw::new(file, "test.img".into(), true).unwrap();
    let mut memory = vec![1; 512];
    assert!(disk.read_now(&slices(&mut memory, &[512]), 0));
    // Although this descriptor could write.
    memory.fill(1);
    assert!(!disk.write_now(&slices(&mut memory, &[512]), 0));
    assert!(disk.read_now(&slices(&mut memory, &[512]), 0));
    assert_eq!(memory, [7; 512]);
}

/// What is at the end of a file cannot be written as a part of a buffer is left.
#[test]
fn a_write_that_stops_early_is_an_error() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let disk = Raw {
        file: File::from(OwnedFd::from(ours)),
        ..raw(in_memory(512, MFdFlags::empty()))
    };
    let mut sector = vec![9; 512];
    let sector = slices(&mut sector, &[512]);
    assert!(disk.write(&sector, 0).is_err());
    assert!(disk.read(&sector, 0).is_err());
}

#[test]
fn each_error_of_opening_has_its_words() {
    for (errno, read_only, part) in [
        (libc::ENOENT, false, "does not exist"),
        (libc::EACCES, false, "is not writable"),
        (libc::EPERM, true, "is not readable"),
        (libc::EROFS, false, "read-only"),
        (libc::EBUSY, false, "mounted or otherwise in use"),
        (libc::EIO, false, "Input/output error"),
    ] {
        let error = io::Error::from_raw_os_error(errno);
        let text = OpenError::new(Path::new("x"), read_only, error).to_string();
        assert!(text.contains(part) && text.contains("'x'"), "{text}");
    }
}

/// Where a sync cannot work, that shows: it is made.
#[test]
fn a_flush_syncs_the_file() {
    let disk = raw(in_memory(4096, MFdFlags::empty()));
    disk.flush().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let disk = Raw {
        file: File::from(OwnedFd::from(ours)),
        ..disk
    };
    let error = disk.flush().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

/// The host forgets what it could not write, and its next sync succeeds. The guest's does not.
#[test]
fn after_a_flush_has_failed_none_succeeds() {
    let disk = raw(in_memory(4096, MFdFlags::empty()));
    let good = disk.file.try_clone().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut disk = Raw {
        file: File::from(OwnedFd::from(ours)),
        ..disk
    };
    let first = disk.flush().unwrap_err();
    disk.file = good;
    disk.file.sync_data().unwrap();
    for _ in 0..2 {
        let error = disk.flush().unwrap_err();
        assert_eq!(error.raw_os_error(), first.raw_os_error());
    }
    // The rest of the disk is as it was.
    let mut sector = vec![3; 512];
    let sector = slices(&mut sector, &[512]);
    disk.write(&sector, 0).unwrap();
    disk.read(&sector, 0).unwrap();
}

/// What somebody has cut off is an error and not zeros; the rest is there, and what is written there again.
#[test]
fn an_image_that_becomes_shorter_has_lost_something() {
    let file = in_memory(2048 + 100, MFdFlags::empty());
    let disk = raw(file);
    assert_eq!(disk.info.sectors, 5);
    let mut memory = vec![0xff; 1024];
    let sectors = slices(&mut memory, &[512, 512]);
    // The tail is behind the end, as it always was.
    disk.read(&sectors, 1536).unwrap();
    disk.file.set_len(1024).unwrap();
    disk.read(&sectors, 0).unwrap();
    for offset in [512, 1024, 1536] {
        let error = disk.read(&sectors, offset).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
        assert!(!disk.read_now(&sectors, offset), "{offset}");
    }
    disk.write(&sectors, 1024).unwrap();
    disk.read(&sectors, 1024).unwrap();
    assert!(disk.read(&sectors, 1536).is_err(), "the tail is still gone");
    disk.file.set_len(2048 + 100).unwrap();
    disk.read(&sectors, 1536).unwrap();
}

/// The guest's disk is the file that was opened, whatever its path names later.
#[test]
fn an_image_that_is_removed_or_replaced_is_still_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    std::fs::write(&path, [7; 1024]).unwrap();
    let disk = Raw::open(&path, false, ImageFormat::Raw).unwrap();
    let mut memory = vec![9; 512];
    let sector = slices(&mut memory, &[512]);
    std::fs::remove_file(&path).unwrap();
    disk.write(&sector, 0).unwrap();
    disk.flush().unwrap();
    std::fs::write(&path, [1; 512]).unwrap();
    disk.write(&sector, 512).unwrap();
    disk.read(&sector, 0).unwrap();
    assert_eq!(memory, [9; 512]);
    assert_eq!(std::fs::read(&path).unwrap(), [1; 512]);
    // The new file is another disk, which nobody has locked.
    drop(Raw::open(&path, false, ImageFormat::Raw).unwrap());
}

#[test]
fn a_discard_gives_storage_back() {
    let disk = raw(in_memory(1 << 20, MFdFlags::empty()));
    let blocks = || disk.file.metadata().unwrap().blocks();
    let before = blocks();
    disk.discard(0, 1 << 19).unwrap();
    assert_eq!(blocks(), before / 2);
    disk.write_zeroes(1 << 19, 1 << 18, true).unwrap();
    assert_eq!(blocks(), before / 4);
    assert_eq!(disk.file.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn errors_of_the_host_are_passed_on() {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let file = in_memory(1 << 20, MFdFlags::MFD_ALLOW_SEALING);
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
    let disk = raw(file);
    let mut sector = vec![9; 512];
    let sector = slices(&mut sector, &[512]);
    let refused = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
    };
    refused(disk.write(&sector, 0));
    refused(disk.discard(0, 4096));
    refused(disk.write_zeroes(0, 4096, true));
    refused(disk.fill_with_zeros(0, 512));
    assert!(!disk.write_now(&sector, 0));
    disk.read(&sector, 0).unwrap();

    // Beyond what a file can hold.
    let disk = raw(in_memory(512, MFdFlags::empty()));
    assert!(disk.write(&sector, i64::MAX.unsigned_abs() - 255).is_err());
    assert!(disk.write(&sector, u64::MAX - 4095).is_err());
    assert!(!disk.write_now(&sector, u64::MAX - 4095));
    assert!(disk.discard(u64::MAX - 4095, 4096).is_err());
}

/// A file that takes or gives as many bytes as the next number says, or fails with the error that a negative one says.
fn piecemeal(answers: &[libc::ssize_t], lengths: &[usize]) -> (io::Result<()>, Vec<u8>) {
    let content: Vec<u8> = (0..lengths.iter().sum()).map(|n: usize| n as u8).collect();
    let mut memory = vec![0xff; content.len()];
    let buffers = slices(&mut memory, lengths);
    let answers = std::cell::RefCell::new(answers.iter());
    let start = 1 << 40;
    let mut position = Position::default();
    let result = transfer(&buffers, &mut position, start, |vector, count, offset| {
        let answer = *answers.borrow_mut().next().expect("nothing more is wanted");
        if answer < 0 {
            Errno::set_raw(-answer as i32);
            return -1;
        }
        // SAFETY: `transfer` passes `count` valid vectors over `memory`, which nothing else refers to meanwhile.
        let vectors = unsafe { std::slice::from_raw_parts(vector, count as usize) };
        let mut left = answer as usize;
        let mut from = offset as usize - start as usize;
        for vector in vectors {
            let length = left.min(vector.iov_len);
            let bytes = &content[from..from + length];
            // SAFETY: as above; `length` is no more than the vector's.
            unsafe {
                vector
                    .iov_base
                    .cast::<u8>()
                    .copy_from(bytes.as_ptr(), length)
            };
            (left, from) = (left - length, from + length);
        }
        assert_eq!(left, 0, "more than was asked for");
        answer
    });
    assert!(answers.borrow().as_slice().is_empty(), "more was expected");
    let missing: usize = position.rest(&buffers).map(|slice| slice.len()).sum();
    assert!(memory[..memory.len() - missing] == content[..memory.len() - missing]);
    assert!(
        memory[memory.len() - missing..]
            .iter()
            .all(|byte| *byte == 0xff)
    );
    (result.map(drop), memory)
}

#[test]
fn a_short_transfer_goes_on_where_it_stopped() {
    let lengths = [3, 0, 5, 1, 7];
    for answers in [
        &[16][..],
        &[1; 16],
        &[2, 2, 2, 2, 2, 2, 2, 2],
        &[3, 5, 1, 7],
        &[4, 4, 4, 4],
        &[7, 9],
        &[15, 1],
        &[1, 1, 14],
        &[5, -(libc::EINTR as isize), 1, -(libc::EINTR as isize), 10],
    ] {
        let (result, memory) = piecemeal(answers, &lengths);
        result.unwrap();
        assert_eq!(memory, (0..16).collect::<Vec<u8>>(), "{answers:?}");
    }
    // The end of the file, in the middle of a buffer.
    let (result, memory) = piecemeal(&[4, 2, 0], &lengths);
    result.unwrap();
    assert_eq!(memory[..6], [0, 1, 2, 3, 4, 5]);
    // An error after some of it.
    let (result, _) = piecemeal(&[4, -(libc::EIO as isize)], &lengths);
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
    // More buffers than go into one call.
    let (result, memory) = piecemeal(&[VECTOR_SIZE as isize * 3 - 1, 1, 3 * 36], &[3; 100]);
    result.unwrap();
    assert_eq!(memory, (0..300).map(|n: usize| n as u8).collect::<Vec<_>>());
}

#[test]
fn a_container_is_no_raw_disk() {
    let padded = |magic: &[u8]| [magic, &[0x13; 600]].concat();
    for (magic, expected) in [
        (
            &b"QFI\xfb\0\0\0\x03"[..],
            "is in qcow2 format: convert it with 'qemu-img convert -O raw",
        ),
        (
            b"KDMV\x01\0\0\0",
            "is in vmdk format: convert it with 'qemu-img convert -O raw",
        ),
        (b"vhdxfile", "is in vhdx format"),
        (b"conectix", "is in vhd format"),
        (b"QED\0", "is in qed format"),
        (
            b"\x1f\x8b\x08\0",
            "is compressed by gzip: unpack it with 'gzip -dc <",
        ),
        (b"\xfd7zXZ\0", "is compressed by xz"),
        (b"\x28\xb5\x2f\xfd", "is compressed by zstd"),
        (b"BZh91AY&SY", "is compressed by bzip2"),
        (b"\x04\x22\x4d\x18", "is compressed by lz4"),
        (b"PK\x03\x04", "is a zip archive"),
    ] {
        for file in [image(magic), image(&padded(magic))] {
            for read_only in [false, true] {
                let message = open_error(file.path(), read_only);
                assert!(message.contains(expected), "{message}");
                assert!(message.contains("format=raw"), "{message}");
                Raw::open(file.path(), read_only, ImageFormat::Raw).unwrap();
            }
        }
    }
    // What guests have on a bare disk.
    for magic in [
        &b"hsqs"[..],
        b"XFSB",
        b"070701",
        b"LUKS\xba\xbe\0\x02",
        b"a text",
        &[0; 512],
    ] {
        let file = image(&padded(magic));
        Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
    }
}

#[test]
fn the_convert_command_does_not_overwrite_its_source() {
    let directory = TempDir::new().unwrap();
    for (name, command) in [
        ("a.qcow2", "convert -O raw {}/a.qcow2 {}/a.img'"),
        ("a.img", "convert -O raw {}/a.img {}/a.raw'"),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, b"QFI\xfb\0\0\0\x03").unwrap();
        let command = command.replace("{}", &directory.path().display().to_string());
        let message = open_error(&path, false);
        assert!(message.contains(&command), "{message}");
    }
}

#[test]
fn an_opened_image_blocks_as_files_do() {
    use nix::fcntl::{FcntlArg, fcntl};
    let file = image(&[7; 512]);
    let disk = Raw::open(file.path(), false, ImageFormat::Auto).unwrap();
    let flags = OFlag::from_bits_truncate(fcntl(&disk.file, FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_NONBLOCK));
    assert_eq!(disk.info().name, file.path().display().to_string());
}

/// An exclusive open is what keeps a mounted disk from being written.
#[test]
fn a_block_device_that_is_written_is_nobody_elses() {
    for (is_block_device, read_only, exclusive) in [
        (true, false, true),
        (true, true, false),
        (false, false, false),
        (false, true, false),
    ] {
        let flags = open::flags(is_block_device, read_only);
        assert_eq!(flags.contains(OFlag::O_EXCL), exclusive);
        assert!(flags.contains(OFlag::O_NONBLOCK | OFlag::O_NOCTTY));
    }
}

#[test]
fn the_first_bytes_of_an_image_are_read_to_the_end() {
    let image: Vec<u8> = (0..2 * HEAD).map(|n| (n % 251) as u8).collect();
    // In any pieces, with signals between them.
    for size in [HEAD - 1, HEAD, 2 * HEAD] {
        let mut calls = 0;
        let head = open::first_bytes(|rest, at| {
            calls += 1;
            if calls % 2 == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let left = &image[usize::try_from(at).unwrap()..size];
            let count = left.len().min(rest.len()).min(HEAD / 3);
            rest[..count].copy_from_slice(&left[..count]);
            Ok(count)
        });
        assert!(head.unwrap() == image[..size.min(HEAD)]);
    }
    let mut errors = [libc::EIO].into_iter();
    let failed =
        open::first_bytes(|_, _| Err(io::Error::from_raw_os_error(errors.next().unwrap())));
    assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EIO));
}
