//! What the test kernel (`tests/kernel/`) has to find on each kind of machine.
//!
//! What it finds wrong and hvrun cannot help is listed in `known.rs`, with the reason. Everything else has to be right.

mod known;
mod report;

use crate::host::{HostChip, HostKernel};
use known::{
    DEBUG_CONSOLE, HART_SUSPEND, ILLEGAL_AIA, ILLEGAL_INSTRUCTION, KVM, KVM_6_1, KVM_AIA,
    LEGACY_CONSOLE, NO_HYPERVISOR, NO_LEGACY_CONSOLE, OPENSBI, OPENSBI_HANGS, QEMU_APLIC,
    QEMU_CONSOLE, QEMU_KVM, QEMU_KVM_LACKS, QEMU_KVM_STOPS, QEMU_KVM_WAITS, QEMU_PLIC, SUSPEND,
    SUSPEND_STOPS,
};
pub use report::Report;

/// A machine that the kernel is run on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Of the guest.
    pub chip: HostChip,
    /// How many harts it has.
    pub harts: u32,
    /// Of its devices.
    pub virtio: Virtio,
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
    /// Version 1.
    Legacy,
    /// Version 2.
    Modern,
}

impl Machine {
    /// hvrun's on this kind of host.
    #[must_use]
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

    /// hvrun's where the host has this kernel.
    #[must_use]
    pub fn on_host_kernel(self, kernel: HostKernel) -> Self {
        match kernel {
            HostKernel::Oldest => self.on_the_oldest_host(),
            HostKernel::Stable => self,
            HostKernel::Newest => self.with_suspend(),
        }
    }

    /// The same on a host that does forward the legacy console's calls.
    #[must_use]
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

    /// QEMU's emulation of the board.
    #[must_use]
    pub fn qemu(chip: HostChip, harts: u32, virtio: Virtio) -> Self {
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
    #[must_use]
    pub fn qemu_by_kvm(chip: HostChip, harts: u32, virtio: Virtio) -> Self {
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
    #[must_use]
    pub fn command_line(&self) -> String {
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

    /// hvrun's arguments for this machine, all but the interrupt chip. `kernel` is the test kernel, `disk` an image of 1 MiB that it
    /// may write to, `console` the file for what it prints on the virtio console.
    #[must_use]
    pub fn hvrun_arguments(&self, kernel: &str, disk: &str, console: &str) -> Vec<String> {
        let virtio = match self.virtio {
            Virtio::Legacy => "legacy",
            Virtio::Modern => "modern",
        };
        let console = format!("virtio,to=file:{console}");
        let harts = self.harts.to_string();
        let line = self.command_line();
        let options = [
            ["--kernel", kernel],
            ["--disk", disk],
            ["--console", "serial"],
            ["--console", &console],
            ["--cpus", &harts],
            ["--cmdline", &line],
            ["--virtio", virtio],
        ];
        options.concat().into_iter().map(str::to_owned).collect()
    }

    /// Judges what the kernel printed, and the code with which the machine ended.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn judge<'a>(
        &self,
        printed: &'a str,
        code: Option<i32>,
    ) -> std::result::Result<Report<'a>, String> {
        let report = Report::parse(printed);
        let wrong = self.wrong.concat();
        if let Some((test, why)) = report
            .failed
            .iter()
            .find(|(test, _)| !wrong.contains(*test))
        {
            return Err(format!("{test}: {why}"));
        }
        let skipped = report.skipped.iter();
        for (test, why) in skipped {
            if !self.may_skip(test, why) {
                return Err(format!("{test} is skipped: {why}"));
            }
        }
        let counts = format!(
            "{} ok, {} not ok, {} skipped,",
            report.passed,
            report.failed.len(),
            report.skipped.len()
        );
        if !report.done.starts_with(&counts) {
            return Err(format!(
                "its last line is {:?}, not {counts:?}",
                report.done
            ));
        }
        if report.passed <= 100 {
            return Err(format!("only {} tests ran", report.passed));
        }
        match code == i32::try_from(report.failed.len()).ok() {
            true => Ok(report),
            false => Err(format!("the machine ended with {code:?} after {counts}")),
        }
    }
}

/// Judges what the kernel printed on the virtio console.
///
/// # Errors
/// One line that says what is absent.
pub fn judge_console(printed: &str) -> std::result::Result<(), String> {
    let texts = ["# by the virtio console\r\n", "# in an emergency\r\n"];
    match texts.into_iter().find(|text| !printed.contains(text)) {
        Some(text) => Err(format!("the virtio console did not print {text:?}")),
        None => Ok(()),
    }
}
