//! The project's own test kernel, which asserts what the specifications say: on every machine that hvrun makes, and on
//! QEMU's emulation of the same board, so that the kernel is not made to hvrun's measure.
//!
//! What it finds wrong and hvrun cannot help is listed here, with the reason. Everything else has to be right.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hv_lab::host::{Exec, Host, HostChip};
use hv_lab::provision;
use tempfile::TempDir;

use crate::fixture::{CHIPS, STEP, command, host, newest_host, oldest_host, text};
use crate::report::Report;

/// A machine that the kernel is run on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Of the guest.
    chip: HostChip,
    harts: u32,
    virtio: Virtio,
    /// Tests that may fail.
    wrong: &'static [&'static [&'static str]],
    /// Tests that would end everything, or wait in vain for long.
    fatal: &'static [&'static [&'static str]],
    /// Tests of what this machine does not have, apart from other chips and other harts.
    absent: &'static [&'static [&'static str]],
}

/// The version of its virtio devices' registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtio {
    Legacy,
    Modern,
}

/// Linux's KVM, as of 6.12 and 7.2.
const KVM: &[&str] = &[
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
const KVM_6_1: &[&str] = &[
    // vcpu_sbi_replace.c: the hart mask is not checked, and an unknown function is an "invalid parameter".
    "ipi-to-no-hart",
    "ipi-unknown-function",
    "time-unknown-function",
];

/// Its AIA.
const KVM_AIA: &[&str] = &[
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
const ILLEGAL_INSTRUCTION: &[&str] = &[
    "csr-of-m-mode-is-illegal",
    "csr-that-is-none-is-illegal",
    "csr-seed",
    "csr-seed-read-only-is-illegal",
];

/// Where the host has no AIA, its registers are such an instruction.
const ILLEGAL_AIA: &[&str] = &["csr-of-aia-is-illegal-without"];

/// OpenSBI 1.6, which is QEMU's firmware.
const OPENSBI: &[&str] = &[
    // The hart mask is not checked to its end.
    "ipi-to-no-hart",
    "rfence-of-no-hart",
    // "Failed" in place of "invalid parameter".
    "dbcn-high-address-word",
];

/// It never returns from a debug console call that is to read or write addresses without memory.
const OPENSBI_HANGS: &[&str] = &[
    "dbcn-write-of-no-memory",
    "dbcn-write-beyond-memory",
    "dbcn-read-to-no-memory",
];

/// QEMU 10.0's PLIC (hw/intc/sifive_plic.c).
const QEMU_PLIC: &[&str] = &[
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
const QEMU_APLIC: &[&str] = &["aplic-source-modes", "aplic-level-gone-is-not-pending"];

/// QEMU 10.0 by KVM (target/riscv/kvm/kvm-cpu.c).
const QEMU_KVM: &[&str] = &[
    // A reset writes scounteren with 0.
    "counters-time-in-user-mode",
    // The debug console reads and writes without a look at where, the upper half of the address included.
    "dbcn-write-of-no-memory",
    "dbcn-write-beyond-memory",
    "dbcn-high-address-word",
    "dbcn-read-to-no-memory",
];

/// A hart of it never returns from a call of a vendor or experimental extension, including a probe of the former.
const QEMU_KVM_STOPS: &[&str] = &[
    "base-probe-of-vendor-is-zero",
    "sbi-vendor-extension",
    "sbi-experimental-extension",
    "sbi-preserves-registers",
];

/// What is wrong with its PLIC and with KVM's timer, and takes long to find out.
const QEMU_KVM_WAITS: &[&str] = &["plic-enable-while-pending", "timer-ticks-by-sbi"];

/// Of the legacy console, which Debian's kernels do not hand on, and of what stands in its place.
const LEGACY_CONSOLE: &[&str] = &[
    "legacy-putchar",
    "legacy-getchar",
    "legacy-getchar-of-what-is-typed",
];
const NO_LEGACY_CONSOLE: &[&str] = &["legacy-absent-is-not-supported"];

/// Of the debug console, which KVM has since Linux 6.7.
const DEBUG_CONSOLE: &[&str] = &[
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
const HART_SUSPEND: &[&str] = &["hsm-suspend-without-state-loses-no-interrupt"];

/// Of system suspend, which KVM has since Linux 6.14, and QEMU's firmware has not.
const SUSPEND: &[&str] = &[
    "susp-wakes-by-the-timer",
    "susp-wakes-by-a-device",
    "susp-of-a-reserved-type",
    "susp-beside-another-hart",
    "susp-resume-at-no-memory",
    "susp-unknown-function",
];

/// With it, KVM (vcpu_sbi_system.c) has the hart go on where it asked to, whatever userspace says of the address.
const SUSPEND_STOPS: &[&str] = &["susp-resume-at-no-memory"];

/// Of harts that have the H extension.
const NO_HYPERVISOR: &[&str] = &[
    "csr-of-the-hypervisor-is-illegal",
    "rfence-hfence-without-hypervisor",
];

/// QEMU 10.0's virtio console.
const QEMU_CONSOLE: &[&str] = &["console-size"];

/// What QEMU does not say or give by KVM: the paging mode in its tree, and a PLIC's contexts of M-mode.
const QEMU_KVM_LACKS: &[&str] = &[
    "mmu-modes-are-as-the-tree-says",
    "plic-m-contexts-are-apart",
];

impl Machine {
    /// hvrun's on this kind of host.
    pub fn hvrun(host: HostChip, chip: HostChip, harts: u32, virtio: Virtio) -> Self {
        Self {
            chip,
            harts,
            virtio,
            wrong: match chip {
                HostChip::Plic => &[KVM],
                HostChip::Aia | HostChip::AiaFiles => &[KVM, KVM_AIA],
            },
            fatal: match host {
                HostChip::Plic => &[ILLEGAL_INSTRUCTION, ILLEGAL_AIA],
                HostChip::Aia | HostChip::AiaFiles => &[ILLEGAL_INSTRUCTION],
            },
            absent: &[LEGACY_CONSOLE, HART_SUSPEND, SUSPEND],
        }
    }

    /// The same on a host that does forward the legacy console's calls.
    pub fn with_legacy_console(self) -> Self {
        Self {
            absent: &[NO_LEGACY_CONSOLE, HART_SUSPEND, SUSPEND],
            ..self
        }
    }

    /// The same on the oldest host. The small kernel, which that is, hands legacy calls on.
    fn on_the_oldest_host(self) -> Self {
        Self {
            wrong: &[KVM, KVM_6_1],
            absent: &[NO_LEGACY_CONSOLE, DEBUG_CONSOLE, HART_SUSPEND, SUSPEND],
            ..self
        }
    }

    /// The same on a host with system suspend.
    fn with_suspend(self) -> Self {
        Self {
            fatal: match self.chip {
                HostChip::Plic => &[ILLEGAL_INSTRUCTION, ILLEGAL_AIA, SUSPEND_STOPS],
                HostChip::Aia | HostChip::AiaFiles => &[ILLEGAL_INSTRUCTION, SUSPEND_STOPS],
            },
            absent: &[LEGACY_CONSOLE, HART_SUSPEND],
            ..self
        }
    }

    fn qemu(chip: HostChip, harts: u32, virtio: Virtio) -> Self {
        Self {
            chip,
            harts,
            virtio,
            wrong: match chip {
                HostChip::Plic => &[OPENSBI, QEMU_PLIC],
                HostChip::Aia | HostChip::AiaFiles => &[OPENSBI, QEMU_APLIC],
            },
            fatal: &[OPENSBI_HANGS],
            absent: &[NO_HYPERVISOR, NO_LEGACY_CONSOLE, SUSPEND, QEMU_CONSOLE],
        }
    }

    /// QEMU's by KVM, on this kind of host: what is KVM's differs as for hvrun, and the devices as in QEMU's emulation.
    fn qemu_by_kvm(chip: HostChip, harts: u32, virtio: Virtio) -> Self {
        Self {
            chip,
            harts,
            virtio,
            wrong: match chip {
                HostChip::Plic => &[KVM, QEMU_KVM, QEMU_PLIC],
                HostChip::Aia | HostChip::AiaFiles => &[KVM, QEMU_KVM, KVM_AIA],
            },
            fatal: match chip {
                HostChip::Plic => &[
                    ILLEGAL_INSTRUCTION,
                    ILLEGAL_AIA,
                    QEMU_KVM_STOPS,
                    QEMU_KVM_WAITS,
                ],
                HostChip::Aia | HostChip::AiaFiles => {
                    &[ILLEGAL_INSTRUCTION, QEMU_KVM_STOPS, QEMU_KVM_WAITS]
                }
            },
            absent: &[
                LEGACY_CONSOLE,
                HART_SUSPEND,
                SUSPEND,
                QEMU_CONSOLE,
                QEMU_KVM_LACKS,
            ],
        }
    }

    /// The kernel's command line.
    fn command_line(&self) -> String {
        format!("without={}", self.fatal.concat().join(","))
    }

    /// Whether the kernel may skip a test for this reason.
    fn may_skip(&self, test: &str, why: &str) -> bool {
        match why {
            "there is one hart" => self.harts == 1,
            "the interrupt chip is a PLIC" => self.chip == HostChip::Plic,
            "the interrupt chip is an AIA" | "the harts have Ssaia" => self.chip.has_aia(),
            "the disk is not a legacy one" => self.virtio == Virtio::Modern,
            "the command line leaves it out" => self.fatal.concat().contains(&test),
            "nobody types" => true,
            _ => self.absent.concat().contains(&test),
        }
    }

    /// Judges what the kernel printed, and the code with which the machine ended.
    fn judge(&self, printed: &str, code: Option<i32>) {
        let report = Report::parse(printed);
        let wrong = self.wrong.concat();
        for (test, why) in &report.failed {
            assert!(wrong.contains(test), "{self:?}: {test}: {why}\n{printed}");
        }
        for (test, why) in &report.skipped {
            assert!(
                self.may_skip(test, why),
                "{self:?}: {test} is skipped: {why}\n{printed}"
            );
        }
        let counts = format!(
            "{} ok, {} not ok, {} skipped,",
            report.passed,
            report.failed.len(),
            report.skipped.len()
        );
        assert!(
            report.done.starts_with(&counts),
            "{self:?}: {}, not {counts}\n{printed}",
            report.done
        );
        assert!(report.passed > 100, "{self:?}: {printed}");
        assert_eq!(code, i32::try_from(report.failed.len()).ok(), "{printed}");
    }
}

/// A disk for the kernel to read and write, and a file for what it prints on the virtio console.
struct Files {
    directory: TempDir,
    disk: String,
    console: String,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [disk, console] = ["disk.img", "console"].map(|name| directory.path().join(name));
        File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        Self {
            disk: text(&disk),
            console: text(&console),
            directory,
        }
    }

    fn assert_console(&self) {
        let printed = std::fs::read_to_string(&self.console).unwrap();
        for text in ["# by the virtio console\r\n", "# in an emergency\r\n"] {
            assert!(printed.contains(text), "{printed}");
        }
    }
}

/// The kernel's path.
pub fn kernel() -> String {
    text(&provision::test_kernel().unwrap())
}

/// Every number of harts with every version of virtio.
const VARIANTS: [(u32, Virtio); 4] = [
    (1, Virtio::Modern),
    (1, Virtio::Legacy),
    (4, Virtio::Modern),
    (4, Virtio::Legacy),
];

/// On a guest of hvrun's, on this host.
fn on_hvrun(host: &Host, chip: HostChip, harts: u32, virtio: Virtio) {
    judge_on_hvrun(host, Machine::hvrun(host.chip(), chip, harts, virtio));
}

/// On this machine of hvrun's.
pub fn judge_on_hvrun(host: &Host, machine: Machine) {
    judge_on_hvrun_with(host, machine, |exec| {
        let chip = if machine.chip.has_aia() {
            "aia"
        } else {
            "plic"
        };
        exec.args(["--irqchip", chip])
    });
}

/// The same, started as `how` says, which is to give the machine its chip.
pub fn judge_on_hvrun_with(host: &Host, machine: Machine, how: impl FnOnce(Exec) -> Exec) {
    let files = Files::new();
    let exec = command(host, ["--kernel", &kernel(), "--disk", &files.disk])
        .args(["--console", "serial"])
        .args(["--console", &format!("virtio,to=file:{}", files.console)])
        .args(["--cpus", &machine.harts.to_string()])
        .args(["--cmdline", &machine.command_line()])
        .args([
            "--virtio",
            match machine.virtio {
                Virtio::Legacy => "legacy",
                Virtio::Modern => "modern",
            },
        ]);
    let finished = how(exec).output(STEP).unwrap();
    machine.judge(&finished.stdout_text(), finished.status.code());
    files.assert_console();
}

#[test]
fn on_a_plic() {
    for (harts, virtio) in VARIANTS {
        on_hvrun(host(HostChip::Plic), HostChip::Plic, harts, virtio);
    }
}

#[test]
fn on_an_aia() {
    for (harts, virtio) in VARIANTS {
        on_hvrun(host(HostChip::Aia), HostChip::Aia, harts, virtio);
    }
}

/// The guest's IMSICs are the hardware's files, as far as there are any.
#[test]
fn on_an_aia_with_guest_interrupt_files() {
    let chip = HostChip::AiaFiles;
    for (harts, virtio) in [(2, Virtio::Modern), (4, Virtio::Legacy)] {
        on_hvrun(host(chip), chip, harts, virtio);
    }
}

#[test]
fn on_a_plic_where_the_host_has_an_aia() {
    on_hvrun(host(HostChip::Aia), HostChip::Plic, 2, Virtio::Modern);
}

/// The same on the newest kernel that there is for a host.
#[test]
fn on_hosts_with_the_newest_kernel() {
    for chip in CHIPS {
        let machine = Machine::hvrun(chip, chip, 4, Virtio::Modern);
        judge_on_hvrun(newest_host(chip), machine.with_suspend());
    }
}

/// And on the oldest.
#[test]
fn on_a_host_with_the_oldest_kernel() {
    for (harts, virtio) in [(1, Virtio::Legacy), (4, Virtio::Modern)] {
        let machine = Machine::hvrun(HostChip::Plic, HostChip::Plic, harts, virtio);
        judge_on_hvrun(oldest_host(), machine.on_the_oldest_host());
    }
}

/// What is typed at a virtio console arrives in the kernel, which reports on the serial port meanwhile.
#[test]
fn what_is_typed_at_a_virtio_console() {
    const TYPED: &str = "a.line";
    for (chip, version) in [(HostChip::Plic, "legacy"), (HostChip::Aia, "modern")] {
        let report = Files::new();
        let serial = format!("serial,to=file:{}", report.console);
        let line = format!("test=console-receives typed={TYPED}");
        let mut guest = command(host(chip), ["--kernel", &kernel(), "--cmdline", &line])
            .args(["--console", "virtio", "--console", &serial])
            .args(["--virtio", version])
            .console()
            .unwrap();
        guest.wait_for(&format!("# type: {TYPED}\n"), STEP).unwrap();
        guest.send(TYPED).unwrap();
        let (status, _) = guest.wait_for_end(STEP).unwrap();
        let report = std::fs::read_to_string(&report.console).unwrap();
        assert_eq!(status.code(), Some(0), "{report}");
        assert!(
            report.contains("ok console-receives-what-is-typed"),
            "{report}"
        );
    }
}

/// What the kernel fails with is what hvrun ends with.
#[test]
fn a_failure_is_the_exit_code() {
    let kernel = kernel();
    for chip in CHIPS {
        let finished = command(host(chip), ["--kernel", &kernel, "--cmdline", "fail=42"])
            .output(STEP)
            .unwrap();
        assert_eq!(finished.status.code(), Some(42), "{finished}");
        assert_eq!(finished.stdout_text(), "");
    }
}

/// Harts that start each other while one of them resets the machine, or switches it off in the end.
#[test]
fn a_race_between_harts_delays_no_end() {
    for chip in CHIPS {
        let kernel = kernel();
        let finished = command(host(chip), ["--kernel", &kernel, "--cmdline", "race=10"])
            .args(["--cpus", "4"])
            .output(STEP)
            .unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished}");
        let printed = finished.stdout_text();
        assert!(printed.ends_with("race 10"), "{printed}");
    }
}

/// On QEMU's own emulation, without hvrun.
fn on_qemu(chip: HostChip) {
    let kernel = kernel();
    for (harts, virtio) in VARIANTS {
        let machine = Machine::qemu(chip, harts, virtio);
        let files = Files::new();
        let output = files.directory.path().join("output");
        let mut qemu = provision::qemu().unwrap().command();
        qemu.args([
            "-M",
            match chip {
                HostChip::Plic => "virt",
                HostChip::Aia | HostChip::AiaFiles => "virt,aia=aplic-imsic",
            },
        ]);
        qemu.args(["-m", "256M", "-smp", &harts.to_string()])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            .args(["-kernel", &kernel, "-append", &machine.command_line()])
            .args(devices(&files, virtio))
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            // What it says of the device that the kernel abuses.
            .stderr(Stdio::null());
        let code = run(&mut qemu);
        let printed = String::from_utf8_lossy(&std::fs::read(&output).unwrap()).into_owned();
        machine.judge(&printed, code);
        files.assert_console();
    }
}

/// QEMU's arguments for the disk and the virtio console.
fn devices(files: &Files, virtio: Virtio) -> Vec<String> {
    let Files { disk, console, .. } = files;
    [
        "-drive",
        &format!("file={disk},format=raw,if=none,id=disk"),
        "-device",
        "virtio-blk-device,drive=disk",
        "-chardev",
        &format!("file,id=console,path={console}"),
        "-device",
        "virtio-serial-device",
        "-device",
        "virtconsole,chardev=console",
        "-global",
        &format!("virtio-mmio.force-legacy={}", virtio == Virtio::Legacy),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A QEMU that ends with the test that started it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs QEMU to its end, and gives its exit code; `None` if it did not come in time.
fn run(qemu: &mut Command) -> Option<i32> {
    let mut running = Running(qemu.spawn().unwrap());
    let started = Instant::now();
    while started.elapsed() < STEP {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status.code();
        }
        sleep(Duration::from_millis(20));
    }
    None
}

/// On QEMU by the KVM of this host, as hvrun is. Once, because it is slow: to print a line takes it up to 100 ms there.
fn on_qemu_by_kvm(chip: HostChip, virtio: Virtio) {
    const HARTS: u32 = 2;
    let host = host(chip);
    let machine = Machine::qemu_by_kvm(chip, HARTS, virtio);
    let files = Files::new();
    let finished = host
        .qemu()
        .unwrap()
        .args([
            "-M",
            match chip {
                HostChip::Plic => "virt",
                HostChip::Aia | HostChip::AiaFiles => "virt,aia=aplic-imsic",
            },
        ])
        .args(["-accel", "kvm", "-cpu", "host", "-m", "256M"])
        .args(["-smp", &HARTS.to_string()])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .args(["-kernel", &kernel(), "-append", &machine.command_line()])
        .args(devices(&files, virtio))
        .output(STEP)
        .unwrap();
    machine.judge(&finished.stdout_text(), finished.status.code());
    files.assert_console();
}

#[test]
fn on_qemu_by_kvm_with_a_plic() {
    on_qemu_by_kvm(HostChip::Plic, Virtio::Legacy);
}

#[test]
fn on_qemu_by_kvm_with_an_aia() {
    on_qemu_by_kvm(HostChip::Aia, Virtio::Modern);
}

#[test]
fn on_qemu_with_a_plic() {
    on_qemu(HostChip::Plic);
}

#[test]
fn on_qemu_with_an_aia() {
    on_qemu(HostChip::Aia);
}
