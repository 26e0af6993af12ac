//! A back end for tests, in memory: it keeps account of what is asked of it, and fails on demand.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use super::{Backend, Info, SECTOR_SIZE};
use crate::memory::GuestSlice;

/// What was asked of a back end: offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read(u64, u64),
    Write(u64, u64),
    ReadNow(u64, u64),
    WriteNow(u64, u64),
    Flush,
    Discard(u64, u64),
    WriteZeroes(u64, u64, bool),
}

pub struct TestBackend {
    info: Info,
    bytes: Mutex<Vec<u8>>,
    calls: Mutex<Vec<Call>>,
    /// The error of everything from now on (errno), or 0.
    pub error: AtomicI32,
    /// Where reads and writes begin to have it, in bytes.
    pub fail_from: AtomicU64,
    /// The error of flushes alone.
    pub sync_error: AtomicI32,
    /// The quick path is taken.
    pub quick: bool,
    /// Is set by the first read or write.
    pub stop: AtomicBool,
}

impl TestBackend {
    pub fn new(sectors: u64, read_only: bool) -> Self {
        let length = usize::try_from(sectors * SECTOR_SIZE).unwrap();
        Self {
            info: Info {
                name: "test.img".into(),
                sectors,
                read_only,
            },
            bytes: Mutex::new((0..length).map(|n| (n % 251) as u8).collect()),
            calls: Mutex::default(),
            error: AtomicI32::new(0),
            fail_from: AtomicU64::new(0),
            sync_error: AtomicI32::new(0),
            quick: true,
            stop: AtomicBool::new(false),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// What was asked since the last time.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn note(&self, call: Call) -> io::Result<()> {
        self.calls.lock().unwrap().push(call);
        let offset = match call {
            Call::Read(offset, _)
            | Call::Write(offset, _)
            | Call::ReadNow(offset, _)
            | Call::WriteNow(offset, _) => offset,
            Call::Flush | Call::Discard(..) | Call::WriteZeroes(..) => u64::MAX,
        };
        if offset < self.fail_from.load(Ordering::Relaxed) {
            return Ok(());
        }
        failing(&self.error)
    }
}

fn failing(error: &AtomicI32) -> io::Result<()> {
    match error.load(Ordering::Relaxed) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn length(buffers: &[GuestSlice<'_>]) -> u64 {
    buffers.iter().map(|slice| slice.len() as u64).sum()
}

impl TestBackend {
    fn fetch(&self, buffers: &[GuestSlice<'_>], offset: u64) {
        self.stop.store(true, Ordering::Release);
        let bytes = self.bytes.lock().unwrap();
        let mut rest = &bytes[usize::try_from(offset).unwrap()..];
        for slice in buffers {
            slice.copy_from(&rest[..slice.len()]);
            rest = &rest[slice.len()..];
        }
    }

    fn store(&self, buffers: &[GuestSlice<'_>], offset: u64) {
        self.stop.store(true, Ordering::Release);
        let mut bytes = self.bytes.lock().unwrap();
        let mut rest = &mut bytes[usize::try_from(offset).unwrap()..];
        for slice in buffers {
            let (here, behind) = rest.split_at_mut(slice.len());
            slice.copy_to(here);
            rest = behind;
        }
    }
}

impl Backend for TestBackend {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read(&self, buffers: &[GuestSlice<'_>], offset: u64) -> io::Result<()> {
        self.note(Call::Read(offset, length(buffers)))?;
        self.fetch(buffers, offset);
        Ok(())
    }

    fn write(&self, buffers: &[GuestSlice<'_>], offset: u64) -> io::Result<()> {
        self.note(Call::Write(offset, length(buffers)))?;
        self.store(buffers, offset);
        Ok(())
    }

    fn read_now(&self, buffers: &[GuestSlice<'_>], offset: u64) -> bool {
        let done = self.note(Call::ReadNow(offset, length(buffers))).is_ok() && self.quick;
        if done {
            self.fetch(buffers, offset);
        }
        done
    }

    fn write_now(&self, buffers: &[GuestSlice<'_>], offset: u64) -> bool {
        let done = self.note(Call::WriteNow(offset, length(buffers))).is_ok() && self.quick;
        if done {
            self.store(buffers, offset);
        }
        done
    }

    fn flush(&self) -> io::Result<()> {
        self.note(Call::Flush)?;
        failing(&self.sync_error)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.note(Call::Discard(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        assert!(length > 0, "nothing is not asked for");
        self.note(Call::WriteZeroes(offset, length, unmap))?;
        let from = usize::try_from(offset).unwrap();
        let to = usize::try_from(offset + length).unwrap();
        self.bytes.lock().unwrap()[from..to].fill(0);
        Ok(())
    }
}
