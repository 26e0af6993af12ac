use super::*;

/// Another open file of the same image.
struct Image(tempfile::NamedTempFile);

impl Image {
    fn new() -> Self {
        Self(tempfile::NamedTempFile::new().unwrap())
    }

    fn open(&self) -> File {
        self.0.reopen().unwrap()
    }

    /// Whether hvrun gets the image beside those who have it.
    fn is_free(&self, read_only: bool) -> bool {
        match acquire(&self.open(), read_only) {
            Ok(locked) => {
                assert!(locked);
                true
            }
            Err(LockError::Held) => false,
            Err(LockError::Io(error)) => panic!("{error}"),
        }
    }

    /// Does as QEMU: a read lock on a byte for each permission that it uses, and on one for each that others must not.
    fn held_like_qemu(&self, bytes: &[i64]) -> File {
        let file = self.open();
        for byte in bytes {
            set(&file, libc::F_RDLCK, *byte, 1).unwrap();
        }
        file
    }

    /// What QEMU finds on this byte when it tests it: the kind of a lock of somebody else's.
    fn kind(&self, byte: i64) -> i32 {
        let mut probe = flock(libc::F_WRLCK, byte, 1);
        fcntl(self.open(), FcntlArg::F_OFD_GETLK(&mut probe)).unwrap();
        probe.l_type.into()
    }
}

/// One byte of QEMU's at a time, of both halves: which of them keep a reader out. Any keeps a writer out.
#[test]
fn each_lock_of_qemu_keeps_out_whom_it_should() {
    for (byte, reader) in [
        (100, true),  // it reads
        (101, false), // it writes
        (102, true),  // it writes what is there already
        (103, false), // it resizes
        (200, false), // nobody else may read
        (201, true),
        (202, true),
        (203, true),
    ] {
        let image = Image::new();
        let other = image.held_like_qemu(&[byte]);
        assert_eq!(image.is_free(true), reader, "{byte}");
        assert!(!image.is_free(false), "{byte}");
        drop(other);
        assert!(image.is_free(false), "{byte}");
    }
}

/// What QEMU has locked with a guest that writes, one that reads, and `share-rw=on`.
#[test]
fn virtual_machines_of_qemu_keep_out_whom_they_should() {
    for (bytes, reader) in [
        (&[100, 101, 103, 201, 203][..], false),
        (&[100, 101, 103, 203], false),
        (&[100, 201, 203], true),
        (&[100], true),
        (&[], true),
    ] {
        let image = Image::new();
        let _other = image.held_like_qemu(bytes);
        assert_eq!(image.is_free(true), reader, "{bytes:?}");
        assert_eq!(image.is_free(false), bytes.is_empty(), "{bytes:?}");
    }
}

#[test]
fn a_reader_shows_qemu_what_it_uses_and_what_nobody_may() {
    let image = Image::new();
    let readers = [image.open(), image.open()];
    for reader in &readers {
        assert!(matches!(acquire(reader, true), Ok(true)));
    }
    let locked: Vec<i64> = (0..400)
        .filter(|byte| image.kind(*byte) != libc::F_UNLCK)
        .collect();
    assert_eq!(locked, [100, 201, 203]);
    // Beside which QEMU can take the same ones, and no guest of it can write.
    let _qemu = image.held_like_qemu(&[100, 201, 203]);
    assert_eq!(image.kind(201), libc::F_RDLCK);
}

#[test]
fn a_writer_collides_with_whatever_lock() {
    let image = Image::new();
    let writer = image.open();
    assert!(matches!(acquire(&writer, false), Ok(true)));
    for byte in (0..400).chain([1 << 40, i64::MAX]) {
        assert_eq!(image.kind(byte), libc::F_WRLCK, "{byte}");
    }
    assert!(!image.is_free(true) && !image.is_free(false));
    drop(writer);
    assert!(image.is_free(false));
}

#[test]
fn what_cannot_be_locked_for_another_reason_is_an_error() {
    // A write lock takes a file that can be written.
    let image = Image::new();
    let file = File::open(image.0.path()).unwrap();
    assert!(matches!(acquire(&file, false), Err(LockError::Io(_))));
}
