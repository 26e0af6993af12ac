//! What this host's KVM can give a guest, for callers that want to know before they boot one.

use std::sync::Arc;

use hv_core::layout;
use hv_core::machine::MmuType;
use hv_core::sbi::{self, dbcn, hsm, ipi, legacy, pmu, rfence, srst, susp, time};

use crate::Error;
use crate::kvm::aia::AiaError;
use crate::kvm::isa::{self, ReadRegister};
use crate::kvm::register::Register;
use crate::kvm::{AiaFeatures, Kvm, Vcpu};
use crate::machine::irqchip::{Aia, Irqchip, Trigger};
use crate::probe::{Probe, hidden_extensions};

/// What KVM on this host can give a guest. All of it is read from KVM; nothing is derived from the kernel's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The most harts that a guest can have here.
    pub max_cpus: u32,
    /// Bits of a guest-physical address that the harts translate.
    pub guest_physical_bits: u32,
    /// The largest paging mode of a guest, as in `/proc/cpuinfo`: `sv39`, `sv48`, `sv57`, or `none`.
    pub paging_mode: &'static str,
    /// Ticks a second of the `time` CSR.
    pub timebase_frequency: u64,
    /// A guest's ISA as one string, in the form of the device tree's `riscv,isa`.
    pub isa: String,
    /// The same as a list of extensions' names, in that order.
    pub isa_extensions: Vec<String>,
    /// KVM's in-kernel interrupt chip, or why a guest cannot have it. A PLIC, which hvrun emulates, is available on every host.
    pub aia: Result<AiaFeatures, AiaAbsence>,
    /// The SBI extensions that a guest finds.
    pub sbi: Vec<SbiExtension>,
}

/// Why a guest cannot have an AIA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AiaAbsence {
    /// The host has none, or its kernel does not support it.
    #[error("this host's KVM has no in-kernel AIA")]
    NotThere,
    /// The host has one, and KVM refuses to create it.
    #[error(transparent)]
    Refused(AiaError),
}

/// An SBI extension that a guest finds on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SbiExtension {
    /// Its name in the SBI specification; `legacy console` for the two legacy console extensions.
    pub name: &'static str,
    /// Its extension id; that of Console Putchar for the legacy console.
    pub id: u64,
    /// Which component handles its calls.
    pub answered_by: AnsweredBy,
}

/// The component that handles a guest's SBI calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredBy {
    /// KVM, in the kernel.
    Kernel,
    /// The virtual machine monitor, to which KVM forwards the calls.
    Userspace,
}

/// The extensions that Linux's KVM has in some version and configuration (arch/riscv/kvm/vcpu_sbi.c), by the ids of the SBI
/// specification. BASE is not among them: it is always there, and a guest probes for the others by it.
const SBI_EXTENSIONS: [SbiExtension; 11] = {
    use AnsweredBy::{Kernel, Userspace};
    const fn extension(name: &'static str, id: u64, answered_by: AnsweredBy) -> SbiExtension {
        SbiExtension {
            name,
            id,
            answered_by,
        }
    }
    [
        extension("TIME", time::EID, Kernel),
        extension("IPI", ipi::EID, Kernel),
        extension("RFENCE", rfence::EID, Kernel),
        extension("HSM", hsm::EID, Kernel),
        extension("SRST", srst::EID, Kernel),
        extension("PMU", pmu::EID, Kernel),
        extension("STA", sbi::STA_EID, Kernel),
        extension("FWFT", sbi::FWFT_EID, Kernel),
        extension("DBCN", dbcn::EID, Userspace),
        extension("SUSP", susp::EID, Userspace),
        LEGACY_CONSOLE,
    ]
};

/// KVM forwards these calls only if the host's kernel has CONFIG_RISCV_SBI_V01. KVM's own register for them
/// (KVM_RISCV_SBI_EXT_V01) says that they are enabled in either case.
const LEGACY_CONSOLE: SbiExtension = SbiExtension {
    name: "legacy console",
    id: legacy::CONSOLE_PUTCHAR,
    answered_by: AnsweredBy::Userspace,
};

impl Capabilities {
    /// Queries KVM, by a probe VM with one page of memory that runs a few instructions.
    ///
    /// # Errors
    /// If no guest can run here; the error says why.
    pub fn query() -> Result<Capabilities, Error> {
        let kvm = Kvm::open()?;
        let mut probe = Probe::new(&kvm)?;
        let max_cpus = kvm.max_vcpus().min(layout::MAX_HARTS);
        let guest_physical_bits = probe.vm().guest_physical_bits();
        let vcpu = probe.vcpu();
        let hidden = hidden_extensions(&kvm, vcpu)?;
        let hart = isa::hart(vcpu, isa::mmu(), hidden)
            .map_err(|error| Error::host("name the harts' ISA")(std::io::Error::other(error)))?;
        let timebase_frequency = vcpu.read(Register::TimerFrequency).unwrap_or(0);
        let mut sbi = Vec::new();
        for extension in SBI_EXTENSIONS {
            if probe.has(extension.id)? {
                sbi.push(extension);
            }
        }
        Ok(Capabilities {
            max_cpus,
            guest_physical_bits,
            paging_mode: match hart.mmu {
                MmuType::Bare => "none",
                MmuType::Sv39 => "sv39",
                MmuType::Sv48 => "sv48",
                MmuType::Sv57 => "sv57",
            },
            timebase_frequency,
            isa: hart.isa.isa_string(),
            isa_extensions: hart.isa.names().map(str::to_owned).collect(),
            aia: aia(&kvm, max_cpus)?,
            sbi,
        })
    }

    /// Whether a guest finds this extension, named as in [`Capabilities::sbi`].
    pub fn has_sbi(&self, name: &str) -> bool {
        self.sbi.iter().any(|extension| extension.name == name)
    }
}

/// Creates a complete AIA in a VM of its own, because some hosts refuse only some of the steps.
fn aia(kvm: &Kvm, max_cpus: u32) -> Result<Result<AiaFeatures, AiaAbsence>, Error> {
    let vm = kvm.create_vm();
    let vm = Arc::new(vm.map_err(Error::kvm("make a virtual machine"))?);
    if !vm.has_aia() {
        return Ok(Err(AiaAbsence::NotThere));
    }
    let harts = max_cpus.clamp(1, 2);
    let vcpus: Result<Vec<Vcpu>, _> = (0..harts).map(|hart| vm.create_vcpu(hart)).collect();
    let _vcpus = vcpus.map_err(Error::kvm("make a vCPU"))?;
    let made = Aia::new(vm, harts).map_err(Error::from).and_then(|aia| {
        aia.line(layout::VIRTIO_FIRST_IRQ, Trigger::Edge)?;
        Ok(aia.features()?)
    });
    match made {
        Ok(features) => Ok(Ok(features)),
        Err(Error::Aia(error)) => Ok(Err(AiaAbsence::Refused(error))),
        Err(error) => Err(error),
    }
}

/// Logs (info) which SBI calls this host's kernel does not forward: hvrun cannot notice that a guest makes them in vain.
pub fn log_what_is_not_handed_on(kvm: &Kvm) {
    if !log::log_enabled!(log::Level::Info) {
        return;
    }
    match Probe::new(kvm).and_then(|mut probe| probe.has(LEGACY_CONSOLE.id)) {
        Ok(true) => {}
        Ok(false) => log::info!(
            "this host's kernel, built without CONFIG_RISCV_SBI_V01, refuses legacy SBI console calls by itself: a guest that \
             prints only by them stays silent"
        ),
        Err(error) => log::debug!("cannot tell whether legacy SBI console calls work: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An extension's id is its name in ASCII; IPI's and RFENCE's have another one in the specification, sPI and RFNC.
    #[test]
    fn ids_are_the_names_in_ascii() {
        for extension in &SBI_EXTENSIONS {
            let expected = match extension.name {
                "legacy console" => continue,
                "IPI" => "sPI",
                "RFENCE" => "RFNC",
                name => name,
            };
            let ascii = expected
                .bytes()
                .fold(0, |id, byte| id << 8 | u64::from(byte));
            assert_eq!(extension.id, ascii, "{}", extension.name);
        }
        assert_eq!(LEGACY_CONSOLE.id, 1);
    }

    #[test]
    fn an_extension_is_found_by_its_name() {
        let capabilities = Capabilities {
            max_cpus: 1,
            guest_physical_bits: 41,
            paging_mode: "sv39",
            timebase_frequency: 10_000_000,
            isa: "rv64ima".into(),
            isa_extensions: Vec::new(),
            aia: Err(AiaAbsence::NotThere),
            sbi: SBI_EXTENSIONS.iter().take(2).copied().collect(),
        };
        let found = SBI_EXTENSIONS.map(|extension| capabilities.has_sbi(extension.name));
        assert_eq!(found.iter().filter(|found| **found).count(), 2);
        assert!(found[0] && found[1] && !capabilities.has_sbi(""));
    }

    #[cfg(not(target_arch = "riscv64"))]
    #[test]
    fn another_architecture_has_none() {
        let error = Capabilities::query().unwrap_err();
        assert!(matches!(error, Error::Kvm(crate::OpenError::NotRiscv)));
    }
}
