//! Why a hart left its guest, decoded from the CSRs that a trap to HS-mode writes (RISC-V Privileged Architecture 1.13, sections
//! 12.1.8 and 21.4).

use hv_core::addr::GuestPhysAddr;
use hv_core::trap::{Exception, cause};

/// What a trap left in the CSRs of these names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrapCsrs {
    /// What it was.
    pub scause: u64,
    /// The address, guest-virtual, or the instruction.
    pub stval: u64,
    /// The address, guest-physical, without its last two bits. Of guest-page faults only.
    pub htval: u64,
    /// The instruction that trapped, transformed, or 0. Of guest-page faults only ([`hv_core::instruction::Htinst`]).
    pub htinst: u64,
}

/// Why a hart left its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Another hart has posted something.
    HostSoftware,
    /// The hypervisor's timer is due.
    HostTimer,
    /// A device of the host's has interrupted.
    HostExternal,
    /// The guest calls its SBI implementation.
    SbiCall,
    /// The guest loads or stores where it has no memory.
    Mmio(Access),
    /// The guest is to take this exception itself: it fetches from where it has no memory, or executes what a hart without the H
    /// extension does not have.
    Reflect(Exception),
    /// An exception that is delegated to the guest. Should the hardware not delegate it, it is the guest's all the same.
    NotDelegated(Exception),
    /// An interrupt that the hypervisor has not enabled.
    UnknownInterrupt,
}

/// A load or a store where a guest has no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// The address.
    pub address: GuestPhysAddr,
    /// The same as the guest's own tables have it.
    pub virtual_address: u64,
    /// `htinst`.
    pub instruction: u64,
    /// Whether it is a store, or an AMO.
    pub is_store: bool,
}

impl Access {
    /// What a guest meets with if there is nothing at the address: the fault that a hart has there.
    #[must_use]
    pub const fn fault(&self) -> Exception {
        Exception {
            cause: if self.is_store {
                cause::STORE_ACCESS_FAULT
            } else {
                cause::LOAD_ACCESS_FAULT
            },
            value: self.virtual_address,
        }
    }
}

/// Why a hart left its guest.
#[must_use]
#[inline]
pub const fn decode(csrs: &TrapCsrs) -> Exit {
    match csrs.scause {
        cause::SUPERVISOR_SOFTWARE => Exit::HostSoftware,
        cause::SUPERVISOR_TIMER => Exit::HostTimer,
        cause::SUPERVISOR_EXTERNAL => Exit::HostExternal,
        cause::ECALL_FROM_VS => Exit::SbiCall,
        cause::LOAD_GUEST_PAGE_FAULT => Exit::Mmio(access(csrs, false)),
        cause::STORE_GUEST_PAGE_FAULT => Exit::Mmio(access(csrs, true)),
        cause::INSTRUCTION_GUEST_PAGE_FAULT => Exit::Reflect(Exception {
            cause: cause::INSTRUCTION_ACCESS_FAULT,
            value: csrs.stval,
        }),
        // On a hart without the H extension, what makes this exception is illegal.
        cause::VIRTUAL_INSTRUCTION => Exit::Reflect(Exception {
            cause: cause::ILLEGAL_INSTRUCTION,
            value: csrs.stval,
        }),
        other if other & cause::INTERRUPT != 0 => Exit::UnknownInterrupt,
        other => Exit::NotDelegated(Exception {
            cause: other,
            value: csrs.stval,
        }),
    }
}

const fn access(csrs: &TrapCsrs, is_store: bool) -> Access {
    Access {
        // The address' last two bits are those of the virtual one (section 21.4.6).
        address: GuestPhysAddr(csrs.htval << 2 | csrs.stval & 0b11),
        virtual_address: csrs.stval,
        instruction: csrs.htinst,
        is_store,
    }
}

#[cfg(test)]
mod tests;
