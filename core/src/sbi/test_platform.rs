//! A platform for tests: a little memory, a console with so much room and so much input.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Access, BadMemory, ConsoleError, Platform};
use crate::addr::GuestPhysAddr;

/// Where the memory begins.
pub(super) const MEMORY: u64 = 0x8000_0000;

#[derive(Clone, Debug)]
pub(super) struct TestPlatform {
    pub(super) memory: Vec<u8>,
    pub(super) read_only: bool,
    pub(super) written: Vec<u8>,
    /// How many bytes the console still takes without waiting.
    pub(super) room: usize,
    pub(super) input: VecDeque<u8>,
    pub(super) broken: bool,
    pub(super) getchar_empty: i64,
    /// Where to resume, and the opaque value.
    pub(super) suspended: Option<(GuestPhysAddr, u64)>,
    pub(super) suspend_error: Option<i64>,
}

impl Default for TestPlatform {
    fn default() -> Self {
        Self::with_memory(&[])
    }
}

impl TestPlatform {
    pub(super) fn with_memory(memory: &[u8]) -> Self {
        Self {
            memory: memory.to_vec(),
            read_only: false,
            written: Vec::new(),
            room: usize::MAX,
            input: VecDeque::new(),
            broken: false,
            getchar_empty: -1,
            suspended: None,
            suspend_error: None,
        }
    }

    fn range(&self, address: GuestPhysAddr, size: u64) -> Result<Range<usize>, BadMemory> {
        let start = address.0.checked_sub(MEMORY).ok_or(BadMemory)?;
        let end = start.checked_add(size).ok_or(BadMemory)?;
        if end > self.memory.len() as u64 {
            return Err(BadMemory);
        }
        Ok(usize::try_from(start).unwrap()..usize::try_from(end).unwrap())
    }

    fn working(&self) -> Result<(), ConsoleError> {
        if self.broken {
            Err(ConsoleError)
        } else {
            Ok(())
        }
    }
}

impl Platform for TestPlatform {
    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, ConsoleError> {
        self.working()?;
        let count = bytes.len().min(self.room);
        self.room -= count;
        self.written.extend(&bytes[..count]);
        Ok(count)
    }

    fn console_write_byte(&mut self, byte: u8) -> Result<(), ConsoleError> {
        self.working()?;
        self.written.push(byte);
        Ok(())
    }

    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, ConsoleError> {
        self.working()?;
        let count = buffer.len().min(self.input.len());
        for (to, from) in buffer.iter_mut().zip(self.input.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    fn is_memory(&self, address: GuestPhysAddr, size: u64, access: Access) -> bool {
        self.range(address, size).is_ok() && !(self.read_only && access == Access::Write)
    }

    fn read_memory(&mut self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), BadMemory> {
        let range = self.range(address, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.memory[range]);
        Ok(())
    }

    fn write_memory(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), BadMemory> {
        let range = self.range(address, bytes.len() as u64)?;
        self.memory[range].copy_from_slice(bytes);
        Ok(())
    }

    fn system_suspend(&mut self, resume_address: GuestPhysAddr, opaque: u64) -> Result<(), i64> {
        if let Some(error) = self.suspend_error {
            return Err(error);
        }
        self.suspended = Some((resume_address, opaque));
        Ok(())
    }

    fn legacy_getchar_empty(&self) -> i64 {
        self.getchar_empty
    }
}
