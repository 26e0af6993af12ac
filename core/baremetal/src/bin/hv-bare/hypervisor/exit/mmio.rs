//! Loads and stores of a guest at addresses where it has no memory: its devices, or nothing.

use hv_bare::exit::Access;
use hv_core::bus::MmioDevice;
use hv_core::instruction::{self, Htinst, Kind, MmioAccess};

use super::reflect;
use crate::hypervisor::hart::{Next, Vhart};
use crate::hypervisor::statistics::Cause;
use crate::hypervisor::vector;

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
    let Vhart {
        vcpu, bus, link, ..
    } = hart;
    let found = access.and_then(|access| Some((access, bus.find(exit.address, access.width)?)));
    let Some((access, (device, offset, cause))) = found else {
        link.counts.count(Cause::Nothing);
        reflect::exception(hart, exit.fault());
        return Next::Run;
    };
    link.counts.count(cause);
    vcpu.context.pc = vcpu.context.pc.wrapping_add(access.length.into());
    let registers = &mut vcpu.context.registers;
    match access.kind {
        Kind::Load { register, .. } => {
            let value = load(device, offset, access);
            if register != 0
                && let Some(register) = registers.get_mut(usize::from(register))
            {
                *register = value;
            }
            Next::Run
        }
        Kind::Store { register } => {
            let value = match register {
                0 => 0,
                register => *registers.get(usize::from(register)).unwrap_or(&0),
            };
            if let Some(data) = value.to_le_bytes().get(..access.width.into()) {
                device.write(offset, data);
            }
            bus.take_end().map_or(Next::Run, Next::End)
        }
    }
}

/// What a load puts into its register.
fn load(device: &dyn MmioDevice, offset: u64, access: MmioAccess) -> u64 {
    let mut bytes = [0; 8];
    if let Some(data) = bytes.get_mut(..access.width.into()) {
        device.read(offset, data);
    }
    instruction::extend(access, u64::from_le_bytes(bytes))
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
