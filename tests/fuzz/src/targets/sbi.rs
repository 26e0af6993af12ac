//! The SBI dispatcher (SBI 3.0): any call with any arguments, one after the other on the same machine.

use std::collections::VecDeque;

use hv_core::addr::GuestPhysAddr;
use hv_core::ending::End;
use hv_core::sbi::hsm::{Harts, State};
use hv_core::sbi::pmu::Counters;
use hv_core::sbi::{
    Access, BadMemory, Call, ConsoleError, Error, FenceRange, HartSet, Platform, Return, base,
    dbcn, handle, hsm, ipi, legacy, pmu, rfence, srst, susp, time,
};

use crate::input::{Input, Script};

/// Where memory is, of which the second half cannot be written.
const MEMORY: u64 = 0x8000_0000;
const SIZE: usize = 0x4000;

/// Where the guest's own tables have it.
const VIRTUAL: u64 = 0xffff_ffc0_0000_0000;

struct Machine {
    harts: Harts,
    count: u32,
    hart: u32,
    memory: Vec<u8>,
    counters: Counters,
    input: VecDeque<u8>,
    room: usize,
    /// What the call at hand has done.
    effects: u32,
    moved: usize,
}

impl Machine {
    fn range(&self, address: u64, size: u64, access: Access) -> Option<std::ops::Range<usize>> {
        let end = match access {
            Access::Read => SIZE,
            Access::Write => SIZE / 2,
        };
        let start = usize::try_from(address.checked_sub(MEMORY)?).ok()?;
        let last = start.checked_add(usize::try_from(size).ok()?)?;
        (last <= end).then_some(start..last)
    }

    fn check_harts(&self, harts: &HartSet) {
        assert!(!harts.is_empty());
        assert!(harts.iter().all(|hart| hart < self.count), "{harts:?}");
        assert_eq!(harts.iter().count(), harts.len() as usize);
    }

    fn check_entry(&self, address: GuestPhysAddr) {
        assert_eq!(address.0 % 2, 0);
        assert!(self.range(address.0, 2, Access::Read).is_some());
    }
}

impl Platform for Machine {
    fn implements(&self, extension: u64) -> bool {
        extension != 0x0b
    }

    fn harts(&self) -> u32 {
        self.count
    }

    fn current_hart(&self) -> u32 {
        self.hart
    }

    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, ConsoleError> {
        let count = bytes.len().min(self.room);
        self.room -= count;
        self.moved += count;
        Ok(count)
    }

    fn console_write_byte(&mut self, _: u8) -> Result<(), ConsoleError> {
        self.moved += 1;
        Ok(())
    }

    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, ConsoleError> {
        let count = buffer.len().min(self.input.len());
        for (to, from) in buffer.iter_mut().zip(self.input.drain(..count)) {
            *to = from;
        }
        self.moved += count;
        Ok(count)
    }

    fn is_memory(&self, address: GuestPhysAddr, size: u64, access: Access) -> bool {
        self.range(address.0, size, access).is_some()
    }

    fn read_memory(&mut self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), BadMemory> {
        let range = self.range(address.0, buffer.len() as u64, Access::Read);
        buffer.copy_from_slice(&self.memory[range.ok_or(BadMemory)?]);
        Ok(())
    }

    fn write_memory(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), BadMemory> {
        let range = self.range(address.0, bytes.len() as u64, Access::Write);
        // The dispatcher has asked before, so that no call is carried out by half.
        self.memory[range.expect("a write to what is no memory")].copy_from_slice(bytes);
        Ok(())
    }

    fn system_suspend(&mut self, resume_address: GuestPhysAddr, _: u64) -> Result<(), Error> {
        self.check_entry(resume_address);
        self.effects += 1;
        if self.harts.is_alone(self.hart) {
            Ok(())
        } else {
            Err(Error::Denied)
        }
    }

    fn read_virtual(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BadMemory> {
        let address = address.checked_sub(VIRTUAL).ok_or(BadMemory)?;
        self.read_memory(GuestPhysAddr(address), buffer)
    }

    fn set_timer(&mut self, _: u64) {
        self.effects += 1;
    }

    fn send_ipi(&mut self, hart: u32) {
        assert!(hart < self.count);
        self.effects += 1;
    }

    fn clear_ipi(&mut self) -> bool {
        self.effects += 1;
        true
    }

    fn remote_fence_i(&mut self, harts: &HartSet) {
        self.check_harts(harts);
        self.effects += 1;
    }

    fn remote_sfence_vma(&mut self, harts: &HartSet, range: FenceRange, asid: Option<u64>) {
        self.check_harts(harts);
        assert!(asid.is_none_or(|asid| asid <= 0xffff));
        if let FenceRange::Part { start, size } = range {
            assert!(size == 0 || start.checked_add(size - 1).is_some());
        }
        self.effects += 1;
    }

    fn hart_start(&mut self, hart: u32, address: GuestPhysAddr, _: u64) -> Result<(), Error> {
        assert!(hart < self.count);
        self.check_entry(address);
        self.effects += 1;
        self.harts.start(hart)
    }

    fn hart_stop(&mut self) -> Result<(), Error> {
        self.effects += 1;
        self.harts.stop(self.hart)
    }

    fn hart_state(&self, hart: u32) -> Option<State> {
        self.harts.state(hart)
    }

    fn hart_suspend(&mut self, resume: Option<(GuestPhysAddr, u64)>) -> Result<(), Error> {
        if let Some((address, _)) = resume {
            self.check_entry(address);
        }
        self.effects += 1;
        self.harts.suspend(self.hart)
    }

    fn system_reset(&mut self, end: End) -> Result<(), Error> {
        assert!(!matches!(end, End::TestFailed(_)));
        self.effects += 1;
        Ok(())
    }

    fn pmu(&mut self) -> Option<&mut Counters> {
        Some(&mut self.counters)
    }
}

/// The extensions, all legacy ones among them, and ids that are none.
const EXTENSIONS: [u64; 28] = [
    base::EID,
    dbcn::EID,
    hsm::EID,
    ipi::EID,
    pmu::EID,
    rfence::EID,
    srst::EID,
    susp::EID,
    time::EID,
    0x00,
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x07,
    0x08,
    0x09,
    0x0b,
    0x0f,
    hv_core::sbi::STA_EID,
    hv_core::sbi::FWFT_EID,
    0x0900_0000,
    0x0a00_0000,
    1 << 32 | 1,
    0x4442_434f,
    u64::MAX,
];

/// Calls, as the input has them.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let count = input.choose(&[1, 2, 4, 64, 65, 200, 512]);
    let mut machine = Machine {
        harts: Harts::new(count, 0),
        count,
        hart: 0,
        memory: vec![0x55; SIZE],
        counters: Counters::new(),
        input: VecDeque::new(),
        room: usize::MAX,
        effects: 0,
        moved: 0,
    };
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        if input.byte().is_multiple_of(8) {
            between_calls(&mut input, &mut machine);
            continue;
        }
        let extension = input.choose(&EXTENSIONS);
        let function = match input.byte() {
            function @ 0..224 => u64::from(function % 10),
            _ => input.number(),
        };
        let args = std::array::from_fn(|_| match input.byte() {
            0..64 => input.byte().into(),
            64..128 => MEMORY + u64::from(input.u16()),
            128..160 => VIRTUAL + MEMORY + u64::from(input.u16()),
            _ => input.number(),
        });
        check(
            &Call {
                extension,
                function,
                args,
            },
            &mut machine,
        );
    }
}

/// What the hypervisor, the console and other harts do.
fn between_calls(input: &mut Input<'_>, machine: &mut Machine) {
    let hart = u32::from(input.u16()) % machine.count;
    match input.below(8) {
        0 => drop(machine.harts.started(hart)),
        1 => drop(machine.harts.stopped(hart)),
        2 => drop(machine.harts.suspended(hart)),
        3 => drop(machine.harts.resume(hart)),
        4 => drop(machine.harts.resumed(hart)),
        5 => machine.hart = hart,
        6 => {
            machine.room = usize::from(input.u16());
            let count = input.below(64);
            machine.input.extend(input.bytes(count));
        }
        _ => {
            let at = usize::from(input.u16()) % (SIZE - 64);
            let count = input.below(64);
            let bytes = input.bytes(count);
            machine.memory[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn check(call: &Call, machine: &mut Machine) {
    (machine.effects, machine.moved) = (0, 0);
    let before = machine.memory.clone();
    let answer = handle(call, machine);
    let [a0, a1] = answer.registers(call);
    let error = a0.cast_signed();
    if (legacy::FIRST_EID..=legacy::LAST_EID).contains(&call.extension) {
        assert!(matches!(answer, Return::Legacy(_)));
        assert_eq!(a1, call.args[1], "a legacy call keeps a1");
        if call.extension > legacy::SHUTDOWN {
            assert_eq!(error, Error::NotSupported.code());
        }
    } else {
        assert!(matches!(answer, Return::Sbiret(_)));
        assert!((-14..=0).contains(&error), "{error} is no error code");
        assert!(error == 0 || a1 == 0);
    }
    if error == Error::NotSupported.code() {
        assert_eq!(
            (machine.effects, machine.moved),
            (0, 0),
            "what is not supported does nothing"
        );
    }
    assert!(machine.moved as u64 <= dbcn::MAX_BYTES_PER_CALL);
    assert!(machine.effects <= machine.count);
    let is_read = call.extension == dbcn::EID && call.function == dbcn::CONSOLE_READ;
    let is_snapshot = call.extension == pmu::EID;
    if !is_read && !is_snapshot {
        assert_eq!(machine.memory, before, "{call:x?} wrote to memory");
    }
    if call.extension == dbcn::EID && error == 0 && call.function != dbcn::CONSOLE_WRITE_BYTE {
        assert_eq!(a1, machine.moved as u64, "the call says how much it moved");
        assert!(a1 <= call.args[0]);
    }
    if call.extension == hsm::EID && call.function == hsm::HART_GET_STATUS {
        let exists = call.args[0] < machine.count.into();
        assert_eq!(error == 0, exists);
        assert!(!exists || a1 <= 6);
    }
}

/// Calls of every extension that succeed.
pub fn seeds() -> Vec<Vec<u8>> {
    let call = |script: Script, extension: u64, function: u8, args: &[u64]| {
        let index = EXTENSIONS.iter().position(|known| *known == extension);
        let mut script = script.byte(1).byte(index.unwrap() as u8).byte(function);
        for n in 0..6 {
            script = script
                .byte(u8::MAX)
                .number(args.get(n).copied().unwrap_or(0));
        }
        script
    };
    let start = || Script::new().byte(2);
    let mut seeds = Vec::new();
    for (extension, function, args) in [
        (base::EID, 3, &[dbcn::EID][..]),
        (dbcn::EID, 0, &[100, MEMORY, 0]),
        (dbcn::EID, 1, &[100, MEMORY, 0]),
        (dbcn::EID, 2, &[65]),
        (hsm::EID, 0, &[1, MEMORY, 7]),
        (hsm::EID, 2, &[1]),
        (hsm::EID, 3, &[0, 0, 0]),
        (hsm::EID, 3, &[0x8000_0000, MEMORY, 0]),
        (hsm::EID, 1, &[]),
        (ipi::EID, 0, &[0b1111, 0]),
        (rfence::EID, 0, &[0b11, 0]),
        (rfence::EID, 1, &[0b11, 0, 0x1000, 0x1000]),
        (rfence::EID, 2, &[0, u64::MAX, 0, 0, 7]),
        (srst::EID, 0, &[1, 0]),
        (susp::EID, 0, &[0, MEMORY, 0]),
        (time::EID, 0, &[1000]),
        (0x04, 0, &[VIRTUAL + MEMORY]),
        (0x06, 0, &[0, 0, 0]),
        (0x01, 0, &[65]),
        (0x02, 0, &[]),
        (0x08, 0, &[]),
    ] {
        let input = start()
            .byte(0)
            .u16(0)
            .byte(6)
            .u16(200)
            .byte(5)
            .bytes(b"input");
        seeds.push(call(input, extension, function, args).done());
    }
    // A firmware counter: configured for sent IPIs, started, counted, read, stopped.
    let mut counter = start();
    for (extension, function, args) in [
        (pmu::EID, pmu::NUM_COUNTERS, &[][..]),
        (
            pmu::EID,
            pmu::COUNTER_CONFIG_MATCHING,
            &[0, 0xffff, 2, 0xf_0006, 0],
        ),
        (pmu::EID, pmu::COUNTER_START, &[0, 1, 1, 5]),
        (ipi::EID, 0, &[0b1111, 0]),
        (pmu::EID, pmu::COUNTER_FW_READ, &[0]),
        (pmu::EID, pmu::COUNTER_STOP, &[0, 1, 1]),
        (pmu::EID, pmu::COUNTER_GET_INFO, &[0]),
        (pmu::EID, pmu::EVENT_GET_INFO, &[MEMORY, 0, 2, 0]),
    ] {
        counter = call(counter, extension, function as u8, args);
    }
    seeds.push(counter.done());
    seeds
}
