//! Loads and stores of a guest at addresses where it has no memory: its devices, or nothing.

use hv_bare::exit::Access;
use hv_core::instruction::{self, Htinst, Kind, MmioAccess};
use hv_core::test_device;
use hv_core::virtio_mmio;

use super::reflect;
use crate::hypervisor::boot::hypervisor;
use crate::hypervisor::ending;
use crate::hypervisor::guest::{Guest, board::Device, board::device_at, mail};
use crate::hypervisor::hart::Vhart;
use crate::hypervisor::statistics::Cause;
use crate::hypervisor::vector;

/// The version of the slots without a device: that of the devices that QEMU has in the others when it is asked for them.
const VIRTIO_VERSION: u32 = 2;

/// Handles a load or a store.
pub fn handle(hart: &mut Vhart, exit: Access) {
    let access = match Htinst::parse(exit.instruction) {
        Htinst::Access(access) => Some(access),
        Htinst::Partial(_) | Htinst::PageTableWalk { .. } => None,
        Htinst::Unknown => match read_instruction(hart.context.pc) {
            Some(instruction) => instruction::decode(instruction),
            // Another hart of the guest has taken the instruction away. This one meets with that when it is there again.
            None => return hart.link.counts.count(Cause::Other),
        },
    };
    let found = access.and_then(|access| Some((access, device_at(exit.address, access.width)?)));
    let Some((access, (device, offset))) = found else {
        hart.link.counts.count(Cause::Nothing);
        reflect::exception(hart, exit.fault());
        return;
    };
    hart.link.counts.count(match device {
        Device::Plic => Cause::Plic,
        Device::Serial => Cause::Serial,
        Device::Rtc | Device::Test | Device::EmptySlot => Cause::OtherDevice,
    });
    // Before the device acts: it may end the guest, or begin it anew.
    hart.context.pc = hart.context.pc.wrapping_add(access.length.into());
    match access.kind {
        Kind::Load { register, .. } => load(hart, access, register, device, offset),
        Kind::Store { register } => store(hart, access, register, device, offset),
    }
}

/// The instruction at the guest's `pc`, of two bytes or of four.
fn read_instruction(pc: u64) -> Option<u32> {
    const LONG: u16 = 0b11;
    let low = vector::fetch_halfword(pc).ok()?;
    if low & LONG != LONG {
        return Some(low.into());
    }
    let high = vector::fetch_halfword(pc.wrapping_add(2)).ok()?;
    Some(u32::from(high) << 16 | u32::from(low))
}

fn load(hart: &mut Vhart, access: MmioAccess, register: u8, device: Device, offset: u64) {
    let mut bytes = [0; 8];
    if let Some(data) = bytes.get_mut(..access.width.into()) {
        read(hart, device, offset, data);
    }
    let value = instruction::extend(access, u64::from_le_bytes(bytes));
    if register != 0
        && let Some(register) = hart.context.registers.get_mut(usize::from(register))
    {
        *register = value;
    }
}

fn store(hart: &mut Vhart, access: MmioAccess, register: u8, device: Device, offset: u64) {
    let value = match register {
        0 => 0,
        register => *hart
            .context
            .registers
            .get(usize::from(register))
            .unwrap_or(&0),
    };
    if let Some(data) = value.to_le_bytes().get(..access.width.into()) {
        write(hart, device, offset, data);
    }
}

fn read(hart: &Vhart, device: Device, offset: u64, data: &mut [u8]) {
    let guest = hart.guest;
    let id = Some(hart.id);
    match device {
        Device::Plic => guest.with_plic(id, |plic, lines| plic.read(offset, data, lines)),
        Device::Serial => guest.board.with_serial(
            |serial| serial.read(offset, data),
            |level| guest.set_serial_line(level, id),
        ),
        Device::Rtc => {
            let mut rtc = guest.board.rtc.lock();
            let now = now(rtc.1);
            rtc.0.read(offset, data, now);
        }
        Device::Test => data.fill(0),
        Device::EmptySlot => {
            let offset = offset % hv_core::layout::VIRTIO_STRIDE;
            virtio_mmio::read_empty_slot(VIRTIO_VERSION, offset, data);
        }
    }
}

fn write(hart: &mut Vhart, device: Device, offset: u64, data: &[u8]) {
    let guest = hart.guest;
    let id = Some(hart.id);
    match device {
        Device::Plic => guest.with_plic(id, |plic, lines| plic.write(offset, data, lines)),
        Device::Serial => {
            let sent = guest.board.with_serial(
                |serial| serial.write(offset, data),
                |level| guest.set_serial_line(level, id),
            );
            if let Some(byte) = sent {
                guest.print(&[byte]);
            }
        }
        Device::Rtc => write_rtc(hart, offset, data),
        Device::Test => {
            if let Some(end) = test_device::write(offset, data) {
                ending::end(hart, end);
            }
        }
        Device::EmptySlot => {}
    }
}

/// The time of a guest's clock, nanoseconds.
fn now(ahead: u64) -> u64 {
    hypervisor().clock.now().wrapping_add(ahead)
}

fn write_rtc(hart: &Vhart, offset: u64, data: &[u8]) {
    let guest = hart.guest;
    let alarm_changed = {
        let mut rtc = guest.board.rtc.lock();
        let before = rtc.0.line();
        let before_write = now(rtc.1);
        let effects = rtc.0.write(offset, data, before_write);
        if let Some(time) = effects.time {
            rtc.1 = time.wrapping_sub(hypervisor().clock.now());
        }
        let now = now(rtc.1);
        rtc.0.poll(now);
        let after = rtc.0.line();
        if before != after {
            guest.set_rtc_line(after, Some(hart.id));
        }
        effects.alarm
    };
    if alarm_changed && let Some(first) = guest.harts.first() {
        first.post(mail::ALARM);
    }
}

/// The alarm of the guest's clock may be due.
pub fn poll_alarm(hart: &Vhart) {
    let mut rtc = hart.guest.board.rtc.lock();
    let before = rtc.0.line();
    let now = now(rtc.1);
    rtc.0.poll(now);
    let after = rtc.0.line();
    if before != after {
        hart.guest.set_rtc_line(after, Some(hart.id));
    }
}

/// When the alarm of the guest's clock is due, in ticks; the largest number for never.
pub fn alarm_ticks(guest: &Guest) -> u64 {
    let rtc = guest.board.rtc.lock();
    rtc.0.alarm().map_or(u64::MAX, |at| {
        hypervisor().clock.ticks_at(at.wrapping_sub(rtc.1))
    })
}
