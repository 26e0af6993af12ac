//! A probe VM: a guest of a few instructions, which shows how KVM handles SBI calls and an access to a register, and what a
//! guest must not be told of for that reason.

use hv_core::layout;
use hv_core::sbi::base;
use vm_memory::{Bytes, GuestAddress};

use crate::Error;
use crate::kvm::isa::{self, ReadRegister};
use crate::kvm::register::{Core, Csr, Register, SbiExtension};
use crate::kvm::{Access, Exit, Kvm, Vcpu, Vm};
use crate::memory::GuestRam;

/// One page.
const RAM_SIZE: u64 = 4096;

/// The guest: the instructions that are tried, each with a store behind it to where no memory is, by which it comes back,
/// and a handler of exceptions that does the same at another address.
const CODE: [u32; 5] = [
    0x0000_0073, // ecall
    0x0000_2023, // sw zero, 0(zero)
    0x10a0_2573, // csrr a0, senvcfg
    0x0000_2023, // sw zero, 0(zero)
    0x0000_2423, // sw zero, 8(zero)
];

/// Where in the code the register is read.
const SENVCFG: u64 = layout::RAM_BASE.0 + 8;

/// Where exceptions go.
const HANDLER: u64 = layout::RAM_BASE.0 + 16;

const A0: Register = Register::Core(Core::X(10));
const A1: Register = Register::Core(Core::X(11));
const A6: Register = Register::Core(Core::X(16));
const A7: Register = Register::Core(Core::X(17));
const PC: Register = Register::Core(Core::Pc);

/// How KVM handled a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// KVM answered it itself, with these in a0 and a1.
    Kernel {
        /// The error code.
        error: i64,
        /// The value.
        value: u64,
    },
    /// KVM forwarded it to userspace.
    HandedOn,
}

/// The guest, with every extension that has to be asked for. The order of the fields is that of their end: the memory goes
/// last.
#[derive(Debug)]
pub struct Probe {
    vcpu: Vcpu,
    vm: Vm,
    _ram: GuestRam,
}

impl Probe {
    /// Makes it.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(kvm: &Kvm) -> Result<Probe, Error> {
        let vm = kvm
            .create_vm()
            .map_err(Error::kvm("make a virtual machine"))?;
        let ram = GuestRam::new(RAM_SIZE)?;
        for (address, instruction) in (layout::RAM_BASE.0..).step_by(4).zip(CODE) {
            ram.memory()
                .write_obj(instruction.to_le(), GuestAddress(address))
                .map_err(|error| {
                    Error::host("write a guest's code")(std::io::Error::other(error))
                })?;
        }
        let (host, _) = ram.host_range();
        // SAFETY: the mapping lives in `ram`, which is dropped after the vCPU and the machine.
        unsafe { vm.add_memory(0, Access::ReadWrite, layout::RAM_BASE.0, host, RAM_SIZE) }
            .map_err(Error::kvm("give the guest its memory"))?;
        let vcpu = vm.create_vcpu(0).map_err(Error::kvm("make a vCPU"))?;
        for extension in [SbiExtension::Dbcn, SbiExtension::Susp] {
            // A kernel that does not have it refuses, and so tells the guest when it asks.
            let _ = vcpu.write(Register::SbiExtension(extension), 1);
        }
        Ok(Probe {
            vcpu,
            vm,
            _ram: ram,
        })
    }

    /// The machine.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Its hart.
    pub fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }

    /// Has the guest make the call with this in a0, and 0 in a1.
    ///
    /// # Errors
    /// KVM cannot run it.
    pub fn call(&mut self, extension: u64, function: u64, a0: u64) -> Result<Answer, Error> {
        for (register, value) in [
            (PC, layout::RAM_BASE.0),
            (A7, extension),
            (A6, function),
            (A0, a0),
            (A1, 0),
        ] {
            self.vcpu
                .write(register, value)
                .map_err(Error::kvm("set a vCPU's registers"))?;
        }
        loop {
            let handed_on = match self.vcpu.run() {
                Exit::Interrupted => continue,
                Exit::Sbi { .. } => true,
                Exit::MmioWrite { .. } => false,
                Exit::Failed(why) => return Err(self.failed(why)),
                other => {
                    let why = format!("a probe of its SBI ended with {other:?}");
                    return Err(self.failed(why));
                }
            };
            self.vcpu.finish_exit();
            if handed_on {
                return Ok(Answer::HandedOn);
            }
            let read = |register| self.vcpu.read(register).unwrap_or(0);
            return Ok(Answer::Kernel {
                error: read(A0).cast_signed(),
                value: read(A1),
            });
        }
    }

    /// Whether the guest may read `senvcfg`, which it may write then as well.
    ///
    /// # Errors
    /// KVM cannot run it.
    pub fn reads_senvcfg(&mut self) -> Result<bool, Error> {
        for (register, value) in [(PC, SENVCFG), (Register::Csr(Csr::Stvec), HANDLER)] {
            self.vcpu
                .write(register, value)
                .map_err(Error::kvm("set a vCPU's registers"))?;
        }
        loop {
            let trapped = match self.vcpu.run() {
                Exit::Interrupted => continue,
                Exit::MmioWrite { address, .. } => address != 0,
                // It jumped elsewhere, because the firmware below KVM made a mess of the exception.
                Exit::Failed(why) => {
                    log::debug!("a probe of senvcfg ended: {why}");
                    return Ok(false);
                }
                other => {
                    let why = format!("a probe of senvcfg ended with {other:?}");
                    return Err(self.failed(why));
                }
            };
            self.vcpu.finish_exit();
            return Ok(!trapped);
        }
    }

    fn failed(&self, why: String) -> Error {
        Error::Vcpu {
            hart: 0,
            pc: self.vcpu.pc(),
            why,
        }
    }
}

impl Probe {
    /// Whether a guest finds the SBI extension with this id, which it probes for by BASE (SBI 3.0, section 4.4, "Probe SBI extension").
    ///
    /// # Errors
    /// If KVM cannot run the probe VM.
    pub fn has(&mut self, extension: u64) -> Result<bool, Error> {
        let answer = self.call(base::EID, base::PROBE_EXTENSION, extension)?;
        Ok(matches!(answer, Answer::Kernel { error: 0, value } if value != 0))
    }
}

/// The extensions of `vcpu`, a guest's, that its device tree must not name, because the guest would fail using them.
///
/// # Errors
/// If KVM cannot run the probe VM.
pub fn hidden_extensions(kvm: &Kvm, vcpu: &Vcpu) -> Result<&'static [&'static str], Error> {
    if !isa::may_lack_senvcfg(vcpu) || Probe::new(kvm)?.reads_senvcfg()? {
        return Ok(&[]);
    }
    log::info!(
        "this host's KVM keeps guests from senvcfg, so the guest is not told of {}; Linux 6.7 and later can",
        isa::NEED_SENVCFG.join(", ")
    );
    Ok(&isa::NEED_SENVCFG)
}
