//! What the test kernel finds wrong or absent and hvrun cannot help, with the reason.

/// Linux's KVM, as of 6.12 and 7.2.
pub(super) const KVM: &[&str] = &[
    // arch/riscv/kvm/vcpu_sbi_hsm.c: an error of HART_STATUS is not returned (6.12 alone).
    "hsm-status-of-no-hart",
    // vcpu_sbi_replace.c: the hart mask is not checked, and a reserved type is "not supported".
    "rfence-of-no-hart",
    "srst-reserved-type",
    // vcpu_timer.c: with Sstc, a timer that was set by SBI is lost when the vCPU's thread is preempted before it is back in
    // the guest, because the value of the last exit is restored.
    "timer-ticks-by-sbi",
    "time-set-timer-clears-pending",
    // main.c, vcpu_pmu.c (not 6.1): hcounteren has `time` alone. The other two are emulated, on harts with Sscofpmf only once the
    // guest has configured them by SBI.
    "counters-cycle-in-user-mode",
    "counters-instret-in-user-mode",
];

/// The same as of 6.1, beside that.
pub(super) const KVM_6_1: &[&str] = &[
    // vcpu_sbi_replace.c: the hart mask is not checked, and an unknown function is an "invalid parameter".
    "ipi-to-no-hart",
    "ipi-unknown-function",
    "time-unknown-function",
];

/// Its AIA.
pub(super) const KVM_AIA: &[&str] = &[
    // aia_imsic.c: writes of 64-bit registers are done by 32-bit atomics.
    "imsic-every-identity",
    // aia_aplic.c: reserved modes are held; an inactive source can be enabled; a level-sensitive source stays pending
    // without its level.
    "aplic-source-modes",
    "aplic-inactive-source",
    "aplic-level-gone-is-not-pending",
];

/// The lab's hosts: OpenSBI 1.6 under QEMU 10.0 returns from an illegal instruction of a guest's to the host's trap vector,
/// and stays in the guest's mode, where nothing is.
pub(super) const ILLEGAL_INSTRUCTION: &[&str] = &[
    "csr-of-m-mode-is-illegal",
    "csr-that-is-none-is-illegal",
    "csr-seed",
    "csr-seed-read-only-is-illegal",
];

/// Where the host has no AIA, its registers are such an instruction.
pub(super) const ILLEGAL_AIA: &[&str] = &["csr-of-aia-is-illegal-without"];

/// OpenSBI 1.6, which is QEMU's firmware.
pub(super) const OPENSBI: &[&str] = &[
    // The hart mask is not checked to its end.
    "ipi-to-no-hart",
    "rfence-of-no-hart",
    // "Failed" in place of "invalid parameter".
    "dbcn-high-address-word",
];

/// It never returns from a debug console call that is to read or write addresses without memory.
pub(super) const OPENSBI_HANGS: &[&str] = &[
    "dbcn-write-of-no-memory",
    "dbcn-write-beyond-memory",
    "dbcn-read-to-no-memory",
];

/// QEMU 10.0's PLIC (hw/intc/sifive_plic.c).
pub(super) const QEMU_PLIC: &[&str] = &[
    "plic-source-0-is-none",
    // A level is looked at only when it changes.
    "plic-level-high-at-complete",
    // Claims of a source that was disabled meanwhile are completed.
    "plic-complete-of-disabled",
    "plic-threshold-is-none-for-claims",
    // Enabling a source that is pending has no effect on the hart.
    "plic-enable-while-pending",
];

/// QEMU 10.0's APLIC (hw/intc/riscv_aplic.c).
pub(super) const QEMU_APLIC: &[&str] = &["aplic-source-modes", "aplic-level-gone-is-not-pending"];

/// QEMU 10.0 by KVM (target/riscv/kvm/kvm-cpu.c).
pub(super) const QEMU_KVM: &[&str] = &[
    // A reset writes scounteren with 0.
    "counters-time-in-user-mode",
    // The debug console reads and writes without a look at where, the upper half of the address included.
    "dbcn-write-of-no-memory",
    "dbcn-write-beyond-memory",
    "dbcn-high-address-word",
    "dbcn-read-to-no-memory",
];

/// A hart of it never returns from a call of a vendor or experimental extension, including a probe of the former.
pub(super) const QEMU_KVM_STOPS: &[&str] = &[
    "base-probe-of-vendor-is-zero",
    "sbi-vendor-extension",
    "sbi-experimental-extension",
    "sbi-preserves-registers",
];

/// What is wrong with its PLIC and with KVM's timer, and takes long to find out.
pub(super) const QEMU_KVM_WAITS: &[&str] = &["plic-enable-while-pending", "timer-ticks-by-sbi"];

/// Of the legacy console, which Debian's kernels do not hand on, and of what stands in its place.
pub(super) const LEGACY_CONSOLE: &[&str] = &[
    "legacy-putchar",
    "legacy-getchar",
    "legacy-getchar-of-what-is-typed",
];
pub(super) const NO_LEGACY_CONSOLE: &[&str] = &["legacy-absent-is-not-supported"];

/// Of the debug console, which KVM has since Linux 6.7.
pub(super) const DEBUG_CONSOLE: &[&str] = &[
    "dbcn-write",
    "dbcn-write-byte",
    "dbcn-write-of-nothing",
    "dbcn-write-of-no-memory",
    "dbcn-write-beyond-memory",
    "dbcn-high-address-word",
    "dbcn-read",
    "dbcn-read-to-no-memory",
    "dbcn-unknown-function",
];

/// Of harts that suspend without their state, which KVM has not.
pub(super) const HART_SUSPEND: &[&str] = &["hsm-suspend-without-state-loses-no-interrupt"];

/// Of system suspend, which KVM has since Linux 6.14, and QEMU's firmware has not.
pub(super) const SUSPEND: &[&str] = &[
    "susp-wakes-by-the-timer",
    "susp-wakes-by-a-device",
    "susp-of-a-reserved-type",
    "susp-beside-another-hart",
    "susp-resume-at-no-memory",
    "susp-unknown-function",
];

/// With it, KVM (vcpu_sbi_system.c) has the hart go on where it asked to, whatever userspace says of the address.
pub(super) const SUSPEND_STOPS: &[&str] = &["susp-resume-at-no-memory"];

/// Of harts that have the H extension.
pub(super) const NO_HYPERVISOR: &[&str] = &[
    "csr-of-the-hypervisor-is-illegal",
    "rfence-hfence-without-hypervisor",
];

/// QEMU 10.0's virtio console.
pub(super) const QEMU_CONSOLE: &[&str] = &["console-size"];

/// What QEMU does not say or give by KVM: the paging mode in its tree, and a PLIC's contexts of M-mode.
pub(super) const QEMU_KVM_LACKS: &[&str] = &[
    "mmu-modes-are-as-the-tree-says",
    "plic-m-contexts-are-apart",
];
