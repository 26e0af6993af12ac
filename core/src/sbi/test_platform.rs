//! A platform for tests: a little memory, a console with so much room and so much input, four harts. It takes note of what
//! it was asked for.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;

use super::hsm::Harts;
use super::pmu::Counters;
use super::{Access, BadMemory, ConsoleError, Error, FenceRange, HartSet, Identity, Platform, hsm};
use crate::addr::GuestPhysAddr;
use crate::ending::End;

/// Where the memory begins.
pub(super) const MEMORY: u64 = 0x8000_0000;

/// How far the guest's virtual addresses lie above its physical ones.
pub(super) const VIRTUAL: u64 = 0xffff_ffc0_0000_0000;

/// A fence that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    Instructions(HartSet),
    Memory(HartSet, FenceRange, Option<u64>),
}

#[derive(Clone, Debug)]
pub(super) struct TestPlatform {
    /// What there is; `None` for everything.
    pub(super) extensions: Option<&'static [u64]>,
    pub(super) identity: Identity,
    pub(super) harts: Harts,
    /// How many of them there are.
    pub(super) count: u32,
    /// Which of them calls.
    pub(super) hart: u32,
    pub(super) timer: Option<u64>,
    /// The harts interrupted, in that order.
    pub(super) interrupted: Vec<u32>,
    pub(super) ipi_pending: bool,
    pub(super) fenced: Vec<Fence>,
    /// The hart started last, where, and its opaque value.
    pub(super) started: Option<(u32, GuestPhysAddr, u64)>,
    /// What the calling hart suspended itself with.
    pub(super) hart_suspended: Option<Option<(GuestPhysAddr, u64)>>,
    pub(super) end: Option<End>,
    /// What to answer a hart that stops or suspends, and a reset.
    pub(super) refusal: Option<Error>,
    pub(super) counters: Option<Counters>,
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
    pub(super) suspend_error: Option<Error>,
}

impl Default for TestPlatform {
    fn default() -> Self {
        Self::with_memory(&[])
    }
}

impl TestPlatform {
    pub(super) fn with_memory(memory: &[u8]) -> Self {
        Self {
            extensions: None,
            identity: Identity::default(),
            harts: Harts::new(4, 0),
            count: 4,
            hart: 0,
            timer: None,
            interrupted: Vec::new(),
            ipi_pending: false,
            fenced: Vec::new(),
            started: None,
            hart_suspended: None,
            end: None,
            refusal: None,
            counters: Some(Counters::new()),
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

    pub(super) fn with_harts(count: u32) -> Self {
        Self {
            harts: Harts::new(count, 0),
            count,
            ..Self::default()
        }
    }

    fn refusal(&self) -> Result<(), Error> {
        self.refusal.map_or(Ok(()), Err)
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
    fn implements(&self, extension: u64) -> bool {
        self.extensions
            .is_none_or(|extensions| extensions.contains(&extension))
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    fn harts(&self) -> u32 {
        self.count
    }

    fn current_hart(&self) -> u32 {
        self.hart
    }

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

    fn system_suspend(&mut self, resume_address: GuestPhysAddr, opaque: u64) -> Result<(), Error> {
        if let Some(error) = self.suspend_error {
            return Err(error);
        }
        self.suspended = Some((resume_address, opaque));
        Ok(())
    }

    fn read_virtual(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BadMemory> {
        let address = address.checked_sub(VIRTUAL).ok_or(BadMemory)?;
        self.read_memory(GuestPhysAddr(address), buffer)
    }

    fn set_timer(&mut self, deadline: u64) {
        self.timer = Some(deadline);
    }

    fn send_ipi(&mut self, hart: u32) {
        self.interrupted.push(hart);
    }

    fn clear_ipi(&mut self) -> bool {
        mem::take(&mut self.ipi_pending)
    }

    fn remote_fence_i(&mut self, harts: &HartSet) {
        self.fenced.push(Fence::Instructions(*harts));
    }

    fn remote_sfence_vma(&mut self, harts: &HartSet, range: FenceRange, asid: Option<u64>) {
        self.fenced.push(Fence::Memory(*harts, range, asid));
    }

    fn hart_start(&mut self, hart: u32, address: GuestPhysAddr, opaque: u64) -> Result<(), Error> {
        self.harts.start(hart)?;
        self.started = Some((hart, address, opaque));
        Ok(())
    }

    fn hart_stop(&mut self) -> Result<(), Error> {
        self.refusal()?;
        self.harts.stop(self.hart)
    }

    fn hart_state(&self, hart: u32) -> Option<hsm::State> {
        self.harts.state(hart)
    }

    fn hart_suspend(&mut self, resume: Option<(GuestPhysAddr, u64)>) -> Result<(), Error> {
        self.refusal()?;
        self.hart_suspended = Some(resume);
        Ok(())
    }

    fn system_reset(&mut self, end: End) -> Result<(), Error> {
        self.refusal()?;
        self.end = Some(end);
        Ok(())
    }

    fn pmu(&mut self) -> Option<&mut Counters> {
        self.counters.as_mut()
    }

    fn legacy_getchar_empty(&self) -> i64 {
        self.getchar_empty
    }
}
