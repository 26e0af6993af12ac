//! The guest's SBI calls: the platform for core's dispatcher and extensions.

use hv_bare::lifecycle::Start;
use hv_core::addr::GuestPhysAddr;
use hv_core::ending::End;
use hv_core::sbi::{
    self, Access, BadMemory, Call, ConsoleError, Error, FenceRange, HartSet, Identity, Platform,
    dbcn, hsm, ipi, legacy, pmu, rfence, time,
};

use hv_core::trap::{Exception, cause};

use super::reflect;
use crate::hypervisor::csr::{self, interrupt, word};
use crate::hypervisor::firmware;
use crate::hypervisor::guest::mail;
use crate::hypervisor::hart::{Next, Vhart};
use crate::hypervisor::statistics::Cause;
use crate::hypervisor::vector;

/// The most bytes that one Console Write takes. A line of a guest's log is shorter.
const MAX_WRITE: u64 = 4096;

/// Bytes of the `ecall` instruction.
const ECALL: u64 = 4;

/// Answers the call of a guest.
pub fn handle(hart: &mut Vhart) -> Next {
    let [
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        a0,
        a1,
        a2,
        a3,
        a4,
        a5,
        a6,
        a7,
        ..,
    ] = hart.vcpu.context.registers;
    let call = Call {
        extension: a7,
        function: a6,
        args: [a0, a1, a2, a3, a4, a5],
    };
    hart.link.counts.count(counted_as(call.extension));
    let mut platform = Hypervisor {
        hart,
        diverted: None,
    };
    let answer = sbi::handle(&call, &mut platform);
    if let Some(next) = platform.diverted {
        return next;
    }
    let [error, value] = answer.registers(&call);
    let context = &mut hart.vcpu.context;
    context.pc = context.pc.wrapping_add(ECALL);
    let [_, _, _, _, _, _, _, _, _, _, a0, a1, ..] = &mut context.registers;
    *a0 = error;
    *a1 = value;
    Next::Run
}

/// As what a call of an extension counts.
const fn counted_as(extension: u64) -> Cause {
    match extension {
        time::EID | legacy::SET_TIMER => Cause::SbiTimer,
        ipi::EID | legacy::SEND_IPI => Cause::SbiIpi,
        rfence::EID | legacy::REMOTE_FENCE_I..=legacy::REMOTE_SFENCE_VMA_ASID => Cause::SbiFence,
        dbcn::EID | legacy::CONSOLE_PUTCHAR | legacy::CONSOLE_GETCHAR => Cause::SbiConsole,
        _ => Cause::SbiOther,
    }
}

/// The hypervisor as the SBI implementation of the hart that calls.
struct Hypervisor<'a> {
    hart: &'a mut Vhart,
    /// What the hart does if it does not go on behind its call.
    diverted: Option<Next>,
}

impl Hypervisor<'_> {
    /// The host's harts that these of the guest's are, other than the calling one, in the firmware's form; and whether the
    /// calling one is among them.
    fn host_harts(&self, harts: &HartSet) -> (usize, usize, bool) {
        let links = &self.hart.guest.harts;
        let ids = || {
            let others = harts.iter().filter(|id| *id != self.hart.id);
            others.filter_map(|id| Some(links.get(id as usize)?.host_hart))
        };
        // A machine of this size has its harts numbered in one word of bits from the lowest on.
        let base = ids().min().unwrap_or(0);
        let mask = ids().try_fold(0_usize, |mask, id| {
            let bit = u32::try_from(id.wrapping_sub(base)).ok()?;
            Some(mask | 1_usize.checked_shl(bit)?)
        });
        let own = harts.contains(self.hart.id);
        // If they are further apart, all of the host's: more fences than asked for do no harm.
        match mask {
            Some(mask) => (mask, word(base), own),
            None => (0, usize::MAX, own),
        }
    }
}

impl Platform for Hypervisor<'_> {
    fn implements(&self, _: u64) -> bool {
        true
    }

    fn identity(&self) -> Identity {
        let [mvendorid, marchid, mimpid] = firmware::identity();
        Identity {
            mvendorid,
            marchid,
            mimpid,
        }
    }

    fn harts(&self) -> u32 {
        u32::try_from(self.hart.guest.harts.len()).unwrap_or(u32::MAX)
    }

    fn current_hart(&self) -> u32 {
        self.hart.id
    }

    /// No more at a time than a few lines: the port is slow, and what else the hart has to do for the host waits.
    fn console_write_memory(&mut self, address: GuestPhysAddr, size: u64) -> Result<u64, Error> {
        dbcn::write_pieces(self, address, size.min(MAX_WRITE))
    }

    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, ConsoleError> {
        self.hart.guest.print(bytes);
        Ok(bytes.len())
    }

    fn console_write_byte(&mut self, byte: u8) -> Result<(), ConsoleError> {
        self.hart.guest.print(&[byte]);
        Ok(())
    }

    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, ConsoleError> {
        Ok(self.hart.guest.board.take_input(buffer))
    }

    fn is_memory(&self, address: GuestPhysAddr, size: u64, _: Access) -> bool {
        self.hart.guest.memory.contains(address, size)
    }

    fn read_memory(&mut self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), BadMemory> {
        self.hart.guest.memory.read(address, buffer)
    }

    fn write_memory(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), BadMemory> {
        self.hart.guest.memory.write(address, bytes)
    }

    fn read_virtual(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BadMemory> {
        for (at, byte) in (address..=u64::MAX).zip(buffer) {
            match vector::load_byte(at) {
                Ok(value) => *byte = value,
                Err(fault) => {
                    let cause = match fault.cause {
                        cause::LOAD_GUEST_PAGE_FAULT => cause::LOAD_ACCESS_FAULT,
                        cause => cause,
                    };
                    reflect::exception(self.hart, Exception { cause, value: at });
                    self.diverted = Some(Next::Run);
                    return Err(BadMemory);
                }
            }
        }
        Ok(())
    }

    fn set_timer(&mut self, deadline: u64) {
        self.hart.set_timer(deadline);
    }

    fn send_ipi(&mut self, hart: u32) {
        if hart == self.hart.id {
            self.hart.vcpu.set_pending(interrupt::VS_SOFTWARE, true);
        } else if let Some(link) = self.hart.guest.harts.get(hart as usize) {
            link.post(mail::SOFTWARE_INTERRUPT);
        }
    }

    fn clear_ipi(&mut self) -> bool {
        let pending = self.hart.vcpu.is_pending(interrupt::VS_SOFTWARE);
        self.hart.vcpu.set_pending(interrupt::VS_SOFTWARE, false);
        pending
    }

    fn remote_fence_i(&mut self, harts: &HartSet) {
        let (mask, base, own) = self.host_harts(harts);
        if own {
            csr::fence_i();
        }
        if mask != 0 || base == usize::MAX {
            firmware::remote_fence_i(mask, base);
        }
    }

    fn remote_sfence_vma(&mut self, harts: &HartSet, range: FenceRange, asid: Option<u64>) {
        let (mask, base, own) = self.host_harts(harts);
        if own {
            csr::forget_guest_translations();
        }
        if mask != 0 || base == usize::MAX {
            let (start, size) = match range {
                FenceRange::All => (0, u64::MAX),
                FenceRange::Part { start, size } => (start, size),
            };
            firmware::remote_hfence_vvma(mask, base, start, size, asid);
        }
    }

    fn hart_start(&mut self, hart: u32, address: GuestPhysAddr, opaque: u64) -> Result<(), Error> {
        let link = self
            .hart
            .guest
            .harts
            .get(hart as usize)
            .ok_or(Error::Failed)?;
        let start = Start {
            pc: address.0,
            opaque,
        };
        self.hart.guest.lifecycle.lock().start(hart, start)?;
        link.post(mail::ATTEND);
        Ok(())
    }

    fn hart_stop(&mut self) -> Result<(), Error> {
        // Nothing of the guest's is touched after that: another hart may start this one at once, or end the guest.
        let order = self.hart.guest.lifecycle.lock().stop(self.hart.id)?;
        self.diverted = Some(self.hart.obey(order));
        Ok(())
    }

    fn hart_state(&self, hart: u32) -> Option<hsm::State> {
        self.hart.guest.lifecycle.lock().hart(hart)
    }

    fn hart_suspend(&mut self, resume: Option<(GuestPhysAddr, u64)>) -> Result<(), Error> {
        let id = self.hart.id;
        self.hart.guest.lifecycle.lock().suspend(id)?;
        let start = |(address, opaque): (GuestPhysAddr, u64)| Start {
            pc: address.0,
            opaque,
        };
        let goes_on = self.hart.sleep(resume.map(start));
        if goes_on {
            // It is suspended, and nobody but itself changes that while it runs.
            let _ = self.hart.guest.lifecycle.lock().resume(id);
        }
        // Only what kept its registers goes on behind the call.
        if !goes_on || resume.is_some() {
            self.diverted = Some(self.hart.next());
        }
        Ok(())
    }

    fn system_reset(&mut self, end: End) -> Result<(), Error> {
        self.diverted = Some(Next::End(end));
        Ok(())
    }

    fn system_suspend(&mut self, resume_address: GuestPhysAddr, opaque: u64) -> Result<(), Error> {
        if !self.hart.guest.lifecycle.lock().is_alone(self.hart.id) {
            return Err(Error::Denied);
        }
        self.hart.sleep(Some(Start {
            pc: resume_address.0,
            opaque,
        }));
        self.diverted = Some(self.hart.next());
        Ok(())
    }

    fn pmu(&mut self) -> Option<&mut pmu::Counters> {
        Some(&mut self.hart.counters)
    }

    fn legacy_getchar_empty(&self) -> i64 {
        self.hart.guest.getchar_empty
    }
}
