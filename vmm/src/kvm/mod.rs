//! The KVM interface that hvrun uses: every ioctl, and every `unsafe` that goes with one, is in this folder.
//!
//! `host.rs` is the implementation, and is compiled on RISC-V only. On another architecture, `absent.rs` has the same types,
//! of which no value can exist, so that everything above this folder builds and tests anywhere.

// Without the real thing nobody makes an exit or asks for an identifier; the tests still do.
#![cfg_attr(not(target_arch = "riscv64"), allow(dead_code))]

pub mod aia;
pub mod isa;
pub mod register;

#[cfg_attr(target_arch = "riscv64", path = "host.rs")]
#[cfg_attr(not(target_arch = "riscv64"), path = "absent.rs")]
mod backend;

use hv_devices::device_file::DeviceFile;

pub use backend::{InterruptPin, Kvm, Vcpu, Vm};

/// The error number that a KVM ioctl gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", nix::errno::Errno::from_raw(*.0).desc())]
pub struct Errno(pub i32);

/// Why `/dev/kvm` cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The processor is not RISC-V.
    #[error(
        "this machine is {}, and hvrun runs guests on a RISC-V host; from a checkout of hvrun, 'cargo hvrun' runs it in \
         a nested RISC-V machine",
        std::env::consts::ARCH
    )]
    NotRiscv,
    /// The harts cannot run virtual machines.
    #[error(
        "this machine's harts have no hypervisor extension (no 'h' in the isa line of /proc/cpuinfo), so KVM cannot run \
         here; use a machine that has it"
    )]
    NoHypervisorExtension,
    /// It is missing, has no driver, or the user may not open it.
    #[error(transparent)]
    Device(#[from] DeviceFile),
    /// `KVM_GET_API_VERSION` answered something else than the 12 that has been stable since 2007.
    #[error(
        "/dev/kvm speaks version {0} of KVM's interface, hvrun only version 12: is it a real KVM?"
    )]
    ApiVersion(i32),
}

/// What a guest may do with a piece of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Load and execute. A store causes an exit, as a store to a device does.
    ReadOnly,
}

/// What KVM's AIA can do on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AiaFeatures {
    /// Whether the harts have guest interrupt files, by which a guest gets its interrupts without KVM's help (the modes
    /// HWACCEL and AUTO). Without them KVM emulates the IMSICs.
    pub guest_interrupt_files: bool,
    /// The most interrupt identities that a guest's IMSIC can have.
    pub identities: u32,
}

/// What made a vCPU leave the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// A load from an address that is no memory; the answer goes into the slice before the next run.
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// 1, 2, 4 or 8 bytes.
        data: &'a mut [u8],
    },
    /// A store to an address that is no memory.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// 1, 2, 4 or 8 bytes.
        data: &'a [u8],
    },
    /// An SBI call that KVM forwards.
    Sbi {
        /// The call's registers.
        call: hv_core::sbi::Call,
        /// a0 and a1 of the answer.
        answer: &'a mut [u64; 2],
    },
    /// An access to a CSR that KVM does not have itself.
    Csr {
        /// The CSR's number.
        number: u16,
        /// What the instruction reads.
        value: &'a mut u64,
    },
    /// The guest asked for a power-off through SBI SRST; with the reset reason of that extension.
    Shutdown {
        /// SRST's `reset_reason`.
        reason: u64,
    },
    /// The guest asked for a reboot through SBI SRST.
    Reset,
    /// A signal arrived, or `immediate_exit` was set; nothing happened in the guest.
    Interrupted,
    /// KVM could not go on: in words.
    Failed(String),
}
