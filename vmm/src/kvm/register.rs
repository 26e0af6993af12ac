//! KVM's one-register identifiers for RISC-V (`arch/riscv/include/uapi/asm/kvm.h`).
//!
//! A register is named by a typed value, and one function turns it into the 64-bit identifier that
//! `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG` take. No other code in hvrun depends on their encoding.

/// A vCPU register that hvrun reads or writes through KVM's one-register interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// `struct kvm_riscv_config`.
    Config(Config),
    /// `struct kvm_riscv_core`: the program counter (index 0), x1 to x31 (their own number) and the privilege mode.
    Core(Core),
    /// `struct kvm_riscv_csr`: a supervisor CSR.
    Csr(Csr),
    /// `struct kvm_riscv_timer.frequency`: ticks a second of the `time` CSR, the device tree's timebase.
    TimerFrequency,
    /// `struct kvm_riscv_timer.time`: the guest's `time` CSR, in ticks.
    TimerTime,
    /// `struct kvm_riscv_timer.compare`: when the guest's timer is due, in ticks.
    TimerCompare,
    /// Whether the ISA extension of this number (`enum KVM_RISCV_ISA_EXT_ID`) is enabled for the vCPU.
    IsaExtension(u16),
    /// 64 ISA extensions at once, as a bit mask: extensions `64 * n` to `64 * n + 63`. Kernel 6.4 and later.
    IsaExtensions(u16),
    /// Whether the SBI extension is offered to the guest. Kernel 6.4 and later.
    SbiExtension(SbiExtension),
}

/// The members of `struct kvm_riscv_config` that hvrun asks for, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)] // named as the header names them
pub enum Config {
    ZicbomBlockSize = 1,
    ZicbozBlockSize = 5,
    SatpMode = 6,
    ZicbopBlockSize = 7,
}

/// The members of `struct kvm_riscv_core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// The program counter.
    Pc,
    /// General-purpose register x1 to x31.
    X(u8),
    /// The privilege mode: 1 for S, 0 for U.
    Mode,
}

/// The members of `struct kvm_riscv_csr` that hvrun uses, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)] // the CSRs' own names
pub enum Csr {
    Sstatus = 0,
    Sie = 1,
    Stvec = 2,
    Sepc = 4,
    Scause = 5,
    Stval = 6,
    Scounteren = 9,
}

/// `enum KVM_RISCV_SBI_EXT_ID`: those that hvrun switches on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum SbiExtension {
    /// Debug console. Kernel 6.7 and later; off unless asked for.
    Dbcn = 9,
    /// System suspend. Kernel 6.14 and later; off unless asked for.
    Susp = 11,
}

const KVM_REG_RISCV: u64 = 0x8000_0000_0000_0000;
const SIZE_U64: u64 = 0x0030_0000_0000_0000;

const TYPE_CONFIG: u64 = 0x01;
const TYPE_CORE: u64 = 0x02;
const TYPE_CSR: u64 = 0x03;
const TYPE_TIMER: u64 = 0x04;
const TYPE_ISA_EXT: u64 = 0x07;
const TYPE_SBI_EXT: u64 = 0x08;

const SUBTYPE_SINGLE: u64 = 0;
const SUBTYPE_MULTI_EN: u64 = 1;

impl Register {
    /// The identifier that KVM knows this register by. Every register named here is 64 bits wide on a 64-bit host.
    pub fn id(self) -> u64 {
        let (kind, subtype, index) = match self {
            Register::Config(config) => (TYPE_CONFIG, SUBTYPE_SINGLE, config as u64),
            Register::Core(Core::Pc) => (TYPE_CORE, SUBTYPE_SINGLE, 0),
            Register::Core(Core::X(number)) => (TYPE_CORE, SUBTYPE_SINGLE, u64::from(number)),
            Register::Core(Core::Mode) => (TYPE_CORE, SUBTYPE_SINGLE, 32),
            Register::Csr(csr) => (TYPE_CSR, SUBTYPE_SINGLE, csr as u64),
            Register::TimerFrequency => (TYPE_TIMER, SUBTYPE_SINGLE, 0),
            Register::TimerTime => (TYPE_TIMER, SUBTYPE_SINGLE, 1),
            Register::TimerCompare => (TYPE_TIMER, SUBTYPE_SINGLE, 2),
            Register::IsaExtension(number) => (TYPE_ISA_EXT, SUBTYPE_SINGLE, u64::from(number)),
            Register::IsaExtensions(word) => (TYPE_ISA_EXT, SUBTYPE_MULTI_EN, u64::from(word)),
            Register::SbiExtension(extension) => (TYPE_SBI_EXT, SUBTYPE_SINGLE, extension as u64),
        };
        KVM_REG_RISCV | SIZE_U64 | kind << 24 | subtype << 16 | index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The identifiers as a C program prints them that includes the kernel's header.
    #[test]
    fn identifiers_are_those_of_the_kernel_header() {
        for (register, id) in [
            (
                Register::Config(Config::ZicbomBlockSize),
                0x8030_0000_0100_0001,
            ),
            (
                Register::Config(Config::ZicbozBlockSize),
                0x8030_0000_0100_0005,
            ),
            (Register::Config(Config::SatpMode), 0x8030_0000_0100_0006),
            (
                Register::Config(Config::ZicbopBlockSize),
                0x8030_0000_0100_0007,
            ),
            (Register::Core(Core::Pc), 0x8030_0000_0200_0000),
            (Register::Core(Core::X(1)), 0x8030_0000_0200_0001),
            (Register::Core(Core::X(10)), 0x8030_0000_0200_000a),
            (Register::Core(Core::X(11)), 0x8030_0000_0200_000b),
            (Register::Core(Core::X(31)), 0x8030_0000_0200_001f),
            (Register::Core(Core::Mode), 0x8030_0000_0200_0020),
            (Register::Csr(Csr::Sstatus), 0x8030_0000_0300_0000),
            (Register::Csr(Csr::Stvec), 0x8030_0000_0300_0002),
            (Register::Csr(Csr::Sepc), 0x8030_0000_0300_0004),
            (Register::Csr(Csr::Scause), 0x8030_0000_0300_0005),
            (Register::Csr(Csr::Stval), 0x8030_0000_0300_0006),
            (Register::Csr(Csr::Scounteren), 0x8030_0000_0300_0009),
            (Register::TimerFrequency, 0x8030_0000_0400_0000),
            (Register::TimerTime, 0x8030_0000_0400_0001),
            (Register::TimerCompare, 0x8030_0000_0400_0002),
            (Register::IsaExtension(8), 0x8030_0000_0700_0008),
            (Register::IsaExtensions(1), 0x8030_0000_0701_0001),
            (
                Register::SbiExtension(SbiExtension::Dbcn),
                0x8030_0000_0800_0009,
            ),
            (
                Register::SbiExtension(SbiExtension::Susp),
                0x8030_0000_0800_000b,
            ),
        ] {
            assert_eq!(register.id(), id, "{register:?}");
        }
    }
}
