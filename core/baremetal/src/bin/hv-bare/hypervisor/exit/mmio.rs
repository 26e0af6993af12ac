//! Loads and stores of a guest at addresses where it has no memory: its devices, or nothing.

use hv_bare::exit::Access;
use hv_core::ending::End;
use hv_core::instruction::{self, Htinst, Kind, MmioAccess};
use hv_core::test_device;
use hv_core::virtio_mmio;

use super::reflect;
use crate::hypervisor::guest::board::{Device, device_at};
use crate::hypervisor::hart::{Next, Vhart};
use crate::hypervisor::statistics::Cause;
use crate::hypervisor::vector;

/// The version of the slots without a device: that of the devices that QEMU has in the others when it is asked for them.
const VIRTIO_VERSION: u32 = 2;

/// Handles a load or a store.
pub fn handle(hart: &mut Vhart, exit: Access) -> Next {
    let access = match Htinst::parse(exit.instruction) {
        Htinst::Access(access) => Some(access),
        Htinst::Partial(_) | Htinst::PageTableWalk { .. } => None,
        Htinst::Unknown => match read_instruction(hart.vcpu.context.pc) {
            Some(instruction) => instruction::decode(instruction),
            // Another hart of the guest has taken the instruction away. This one meets with that when it is there again.
            None => {
                hart.link.counts.count(Cause::Other);
                return Next::Run;
            }
        },
    };
    let found = access.and_then(|access| Some((access, device_at(exit.address, access.width)?)));
    let Some((access, (device, offset))) = found else {
        hart.link.counts.count(Cause::Nothing);
        reflect::exception(hart, exit.fault());
        return Next::Run;
    };
    hart.link.counts.count(match device {
        Device::Plic => Cause::Plic,
        Device::Serial => Cause::Serial,
        Device::Rtc | Device::Test | Device::EmptySlot => Cause::OtherDevice,
    });
    // Before the device acts: it may end the guest, or begin it anew.
    hart.vcpu.context.pc = hart.vcpu.context.pc.wrapping_add(access.length.into());
    match access.kind {
        Kind::Load { register, .. } => {
            load(hart, access, register, device, offset);
            Next::Run
        }
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
        && let Some(register) = hart.vcpu.context.registers.get_mut(usize::from(register))
    {
        *register = value;
    }
}

fn store(hart: &Vhart, access: MmioAccess, register: u8, device: Device, offset: u64) -> Next {
    let value = match register {
        0 => 0,
        register => *hart
            .vcpu
            .context
            .registers
            .get(usize::from(register))
            .unwrap_or(&0),
    };
    let end = match value.to_le_bytes().get(..access.width.into()) {
        Some(data) => write(hart, device, offset, data),
        None => None,
    };
    end.map_or(Next::Run, Next::End)
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
        Device::Rtc => guest.read_rtc(offset, data),
        Device::Test => data.fill(0),
        Device::EmptySlot => {
            let offset = offset % hv_core::layout::VIRTIO_STRIDE;
            virtio_mmio::read_empty_slot(VIRTIO_VERSION, offset, data);
        }
    }
}

/// Answers the end that the guest asks for, if it does.
fn write(hart: &Vhart, device: Device, offset: u64, data: &[u8]) -> Option<End> {
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
        Device::Rtc => guest.write_rtc(hart.id, offset, data),
        Device::Test => return test_device::write(offset, data),
        Device::EmptySlot => {}
    }
    None
}
