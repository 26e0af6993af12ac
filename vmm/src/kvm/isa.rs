//! The ISA of a vCPU, read from KVM register by register.

use hv_core::isa::{InvalidExtension, Isa};
use hv_core::machine::{Hart, MmuType};

use super::register::{Config, Register};

/// The extensions' names in the order of `enum KVM_RISCV_ISA_EXT_ID` (uapi `asm/kvm.h`, Linux 7.2): the position is
/// the number. The list only ever grows at its end, and an older kernel answers for the part that it knows.
///
/// An empty name stands for an extension that a guest's device tree never names: H, since KVM offers a guest no
/// further virtual machines.
const EXTENSIONS: &[&str] = &[
    "a",
    "c",
    "d",
    "f",
    "",
    "i",
    "m",
    "svpbmt",
    "sstc",
    "svinval",
    "zihintpause",
    "zicbom",
    "zicboz",
    "zbb",
    "ssaia",
    "v",
    "svnapot",
    "zba",
    "zbs",
    "zicntr",
    "zicsr",
    "zifencei",
    "zihpm",
    "smstateen",
    "zicond",
    "zbc",
    "zbkb",
    "zbkc",
    "zbkx",
    "zknd",
    "zkne",
    "zknh",
    "zkr",
    "zksed",
    "zksh",
    "zkt",
    "zvbb",
    "zvbc",
    "zvkb",
    "zvkg",
    "zvkned",
    "zvknha",
    "zvknhb",
    "zvksed",
    "zvksh",
    "zvkt",
    "zfh",
    "zfhmin",
    "zihintntl",
    "zvfh",
    "zvfhmin",
    "zfa",
    "ztso",
    "zacas",
    "sscofpmf",
    "zimop",
    "zca",
    "zcb",
    "zcd",
    "zcf",
    "zcmop",
    "zawrs",
    "smnpm",
    "ssnpm",
    "svade",
    "svadu",
    "svvptc",
    "zabha",
    "ziccrse",
    "zaamo",
    "zalrsc",
    "zicbop",
    "zfbfmin",
    "zvfbfmin",
    "zvfbfwma",
    "zclsd",
    "zilsd",
    "zalasr",
];

/// Parts of the base ISA's first version that became extensions of their own later. Every hart that can run Linux has
/// them, but KVM reports them only since it has numbers for them; a guest kernel that reads `riscv,isa-extensions`
/// wants to see them.
const ALWAYS: [&str; 3] = ["zicntr", "zicsr", "zifencei"];

/// Reads of one vCPU's registers: `None` where the host's KVM does not know the register.
pub trait ReadRegister {
    /// The register's value.
    fn read(&self, register: Register) -> Option<u64>;
}

/// The extensions that `senvcfg` controls (RISC-V Privileged Architecture, "Supervisor Environment Configuration
/// Register"). Linux writes the register on a hart that has one of them.
pub const NEED_SENVCFG: [&str; 4] = ["zicbom", "zicboz", "smnpm", "ssnpm"];

/// Whether this host's KVM may keep guests from `senvcfg`, and a guest would use it. KVM that knows Smstateen (Linux 6.7)
/// lets them: `hstateen0` is set for it. An older one leaves `hstateen0` as it is, and on harts with Smstateen that is zero.
pub fn may_lack_senvcfg(vcpu: &impl ReadRegister) -> bool {
    let number = |name| EXTENSIONS.iter().position(|known| *known == name);
    let read =
        |name| number(name).and_then(|number| vcpu.read(Register::IsaExtension(low16(number))));
    read("smstateen").is_none()
        && NEED_SENVCFG
            .iter()
            .any(|name| read(name).is_some_and(|enabled| enabled != 0))
}

/// What the device tree says of a hart, as KVM reports it for this vCPU, without the extensions in `hidden`. `host_mmu` is
/// the host's own paging mode, for kernels before 6.5 that do not report the guest's.
///
/// # Errors
/// If core does not know a name of the table below; a test checks that it knows all.
pub fn hart(
    vcpu: &impl ReadRegister,
    host_mmu: MmuType,
    hidden: &[&str],
) -> Result<Hart, InvalidExtension> {
    let mut extensions = enabled_extensions(vcpu);
    extensions.retain(|name| !hidden.contains(name));
    let isa = Isa::from_names(extensions.iter().copied())?;
    let block_size = |extension, config| {
        if !extensions.contains(&extension) {
            return None;
        }
        vcpu.read(Register::Config(config))
            .and_then(|size| u32::try_from(size).ok())
            .filter(|size| size.is_power_of_two())
    };
    let cbom_block_size = block_size("zicbom", Config::ZicbomBlockSize);
    let cboz_block_size = block_size("zicboz", Config::ZicbozBlockSize);
    let cbop_block_size = block_size("zicbop", Config::ZicbopBlockSize);
    let mmu = match vcpu.read(Register::Config(Config::SatpMode)) {
        Some(mode) => mmu_of_satp_mode(mode),
        None => host_mmu,
    };
    Ok(Hart {
        isa,
        mmu,
        cbom_block_size,
        cboz_block_size,
        cbop_block_size,
    })
}

/// The encoding of `satp.MODE` (RISC-V Privileged Architecture, "Supervisor Address Translation and Protection").
fn mmu_of_satp_mode(mode: u64) -> MmuType {
    match mode {
        8 => MmuType::Sv39,
        9 => MmuType::Sv48,
        10 => MmuType::Sv57,
        _ => MmuType::Bare,
    }
}

/// The paging mode of this host's harts.
pub fn mmu() -> MmuType {
    mmu_of_cpuinfo(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// The paging mode that Linux's `/proc/cpuinfo` names in its `mmu` line. Sv39 where it names none that is known:
/// every RISC-V machine with KVM has it.
fn mmu_of_cpuinfo(cpuinfo: &str) -> MmuType {
    let mode = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "mmu")
        .map(|(_, value)| value.trim());
    match mode {
        Some("sv57") => MmuType::Sv57,
        Some("sv48") => MmuType::Sv48,
        _ => MmuType::Sv39,
    }
}

/// Whether the first `isa` line of Linux's `/proc/cpuinfo` has the single-letter extension H. `None` where there is no such
/// line: it says nothing then.
pub fn hypervisor_extension_of_cpuinfo(cpuinfo: &str) -> Option<bool> {
    let (_, isa) = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "isa")?;
    let letters = isa.trim().trim_start_matches("rv64").split('_').next();
    Some(letters.is_some_and(|letters| letters.contains('h')))
}

fn enabled_extensions(vcpu: &impl ReadRegister) -> Vec<&'static str> {
    let words: Vec<Option<u64>> = (0..EXTENSIONS.len().div_ceil(64))
        .map(|word| vcpu.read(Register::IsaExtensions(low16(word))))
        .collect();
    let enabled = |number: usize| match words.get(number / 64) {
        Some(Some(word)) => word >> (number % 64) & 1 == 1,
        // Before 6.4 there is no register for many at once.
        _ => vcpu
            .read(Register::IsaExtension(low16(number)))
            .is_some_and(|value| value != 0),
    };
    let mut found: Vec<&'static str> = EXTENSIONS
        .iter()
        .enumerate()
        .filter(|(number, name)| !name.is_empty() && enabled(*number))
        .map(|(_, name)| *name)
        .collect();
    for name in ALWAYS {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The table's indexes fit: it is far shorter than 65,536 entries.
#[allow(clippy::cast_possible_truncation)]
const fn low16(index: usize) -> u16 {
    index as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    struct Registers(HashMap<u64, u64>);

    impl ReadRegister for Registers {
        fn read(&self, register: Register) -> Option<u64> {
            self.0.get(&register.id()).copied()
        }
    }

    fn registers(pairs: &[(Register, u64)]) -> Registers {
        Registers(
            pairs
                .iter()
                .map(|(register, value)| (register.id(), *value))
                .collect(),
        )
    }

    #[test]
    fn the_names_stand_at_the_header_s_numbers() {
        for (number, name) in [
            (0, "a"),
            (8, "sstc"),
            (14, "ssaia"),
            (32, "zkr"),
            (46, "zfh"),
            (63, "ssnpm"),
            (70, "zalrsc"),
            (77, "zalasr"),
        ] {
            assert_eq!(EXTENSIONS[number], name);
        }
        let named = EXTENSIONS.iter().copied().filter(|name| !name.is_empty());
        assert!(Isa::from_names(named).is_ok());
    }

    #[test]
    fn a_new_kernel_is_asked_by_words() {
        // I, M, A, F, D, C, H and Zicbom; Zicbop lies in the second word.
        let vcpu = registers(&[
            (Register::IsaExtensions(0), 0b1111111 | 1 << 11),
            (Register::IsaExtensions(1), 1 << (71 - 64)),
            (Register::Config(Config::ZicbomBlockSize), 64),
            (Register::Config(Config::ZicbozBlockSize), 64),
            (Register::Config(Config::ZicbopBlockSize), 128),
            (Register::Config(Config::SatpMode), 9),
        ]);
        let hart = hart(&vcpu, MmuType::Sv39, &[]).unwrap();
        assert_eq!(hart.mmu, MmuType::Sv48);
        assert_eq!(hart.cbom_block_size, Some(64));
        assert_eq!(
            hart.cboz_block_size, None,
            "a block size without its extension means nothing"
        );
        assert_eq!(hart.cbop_block_size, Some(128));
        for name in ["i", "m", "a", "f", "d", "c", "zicbom", "zicbop", "zicsr"] {
            assert!(hart.isa.contains(name), "{name}");
        }
        assert!(!hart.isa.contains("h"));
    }

    #[test]
    fn an_old_kernel_is_asked_one_by_one() {
        let vcpu = registers(&[
            (Register::IsaExtension(0), 1),
            (Register::IsaExtension(5), 1),
            (Register::IsaExtension(6), 1),
            (Register::IsaExtension(8), 0),
        ]);
        let hart = hart(&vcpu, MmuType::Sv57, &[]).unwrap();
        assert_eq!(
            hart.mmu,
            MmuType::Sv57,
            "the host's own mode, where KVM does not tell the guest's"
        );
        assert!(hart.isa.contains("a") && hart.isa.contains("zifencei"));
        assert!(!hart.isa.contains("sstc"));
    }

    #[test]
    fn hidden_extensions_are_not_named_and_have_no_block_size() {
        let vcpu = registers(&[
            (Register::IsaExtension(5), 1),
            (Register::IsaExtension(11), 1),
            (Register::Config(Config::ZicbomBlockSize), 64),
        ]);
        let hart = hart(&vcpu, MmuType::Sv39, &NEED_SENVCFG).unwrap();
        assert!(hart.isa.contains("i") && !hart.isa.contains("zicbom"));
        assert_eq!(hart.cbom_block_size, None);
    }

    #[test]
    fn paging_modes_are_those_of_satp_and_of_cpuinfo() {
        for (mode, cpuinfo, mmu) in [
            (8, "mmu\t\t: sv39", MmuType::Sv39),
            (9, "mmu\t\t: sv48", MmuType::Sv48),
            (10, "mmu\t\t: sv57", MmuType::Sv57),
        ] {
            assert_eq!(mmu_of_satp_mode(mode), mmu);
            assert_eq!(mmu_of_cpuinfo(cpuinfo), mmu);
        }
        for mode in [0, 1, 7, 11, 15] {
            assert_eq!(mmu_of_satp_mode(mode), MmuType::Bare);
        }
    }

    #[test]
    fn an_old_kernel_may_keep_guests_from_senvcfg() {
        let zicbom = (Register::IsaExtension(11), 1);
        assert!(may_lack_senvcfg(&registers(&[zicbom])));
        let off = (Register::IsaExtension(11), 0);
        assert!(!may_lack_senvcfg(&registers(&[off])), "no guest writes it");
        assert!(!may_lack_senvcfg(&registers(&[])));
        for smstateen in [0, 1] {
            let known = (Register::IsaExtension(23), smstateen);
            assert!(!may_lack_senvcfg(&registers(&[zicbom, known])));
        }
    }

    #[test]
    fn cpuinfo_tells_whether_there_is_a_hypervisor_extension() {
        let with = "hart\t: 0\nisa\t\t: rv64imafdch_zicbom_zba\n";
        assert_eq!(hypervisor_extension_of_cpuinfo(with), Some(true));
        let without = "isa\t\t: rv64imafdc_zicbom_sha\n";
        assert_eq!(hypervisor_extension_of_cpuinfo(without), Some(false));
        assert_eq!(hypervisor_extension_of_cpuinfo("model name : x\n"), None);
    }

    #[test]
    fn cpuinfo_tells_the_paging_mode() {
        assert_eq!(
            mmu_of_cpuinfo("processor\t: 0\nhart\t\t: 0\nmmu\t\t: sv48\n"),
            MmuType::Sv48
        );
        assert_eq!(mmu_of_cpuinfo("mmu : sv57\n"), MmuType::Sv57);
        assert_eq!(mmu_of_cpuinfo(""), MmuType::Sv39);
    }
}
