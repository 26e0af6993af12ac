//! What to do about an error or a warning of the library's, by hvrun's options. The library does not know them.

use hv_vmm::{Error, InitrdProblem, KernelFileProblem, KernelProblem, NoProgram, warnings};

/// What to do when the sandbox has ended hvrun.
pub const ON_VIOLATION: &str =
    "please report it; with --sandbox log the guest runs, and such calls are only logged";

/// An error in one line for the user: what is wrong, and what to do if there is an option for it.
#[must_use]
pub fn message(error: &Error) -> String {
    match advice(error) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}

fn advice(error: &Error) -> Option<String> {
    Some(match error {
        Error::DoesNotFit { .. } => "give it more with --memory".into(),
        Error::NoCpus => "use --cpus 1 or more".into(),
        Error::TooManyCpus { max, .. } => format!("use --cpus {max} or fewer"),
        Error::MemorySize(_) => "use a size such as --memory 512M".into(),
        Error::MemorySizeOfHugePages(_) => "with --hugepages, --memory is a multiple of 2M".into(),
        Error::TooFewHugePages { enough, .. } => format!(
            "reserve more with 'sudo sysctl vm.nr_hugepages={enough}', or do without --hugepages"
        ),
        Error::NoHugePages => "do without --hugepages".into(),
        Error::MemoryBeyondGuestPhysical { .. } | Error::NoHostMemory { .. } => {
            "use a smaller --memory".into()
        }
        Error::NoAia => "use --irqchip plic, or --irqchip auto to take what the host has".into(),
        Error::Aia(_) => "use --irqchip plic".into(),
        Error::NoSeccomp => "use --sandbox off to run without one".into(),
        Error::Payload {
            problem: KernelProblem::File(problem),
            ..
        } => on_kernel_file(problem)?.into(),
        Error::Initrd { problem, .. } => match problem {
            InitrdProblem::DiskImage(_) => {
                "convert it (qemu-img convert -O raw) and give it with --disk".into()
            }
            InitrdProblem::Partitions | InitrdProblem::Encrypted => "give it with --disk".into(),
            _ => return None,
        },
        _ => return None,
    })
}

fn on_kernel_file(problem: &KernelFileProblem) -> Option<&'static str> {
    Some(match problem {
        KernelFileProblem::TooLarge { .. } => "give it more with --memory",
        KernelFileProblem::NoProgram(NoProgram::Cpio) => "give it with --initrd",
        KernelFileProblem::NoProgram(NoProgram::DiskImage(_)) => {
            "make it raw (qemu-img convert -O raw) and give it with --disk"
        }
        KernelFileProblem::NoProgram(NoProgram::Disk) => "give it with --disk",
        KernelFileProblem::NoProgram(NoProgram::DeviceTree) => {
            "--dtb takes a device tree, and U-Boot boots a FIT image from a disk"
        }
        KernelFileProblem::NoProgram(NoProgram::EfiProgram) => {
            "a firmware such as U-Boot starts it from a disk (--firmware, --disk)"
        }
        _ => return None,
    })
}

/// What to do about a warning, by the target of its record, if there is an option for it.
pub fn on_warning(target: &str) -> Option<&'static str> {
    Some(match target {
        warnings::MANY_RESETS => "--no-reboot ends hvrun at a guest's reset",
        warnings::INITRD_IS_FILE_SYSTEM => "give it with --disk",
        warnings::INITRD_IS_DEVICE_TREE => "give it with --dtb",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Args;

    fn kernel(problem: KernelFileProblem) -> Error {
        Error::Payload {
            what: "kernel",
            path: "Image".into(),
            problem: problem.into(),
        }
    }

    fn initrd(problem: InitrdProblem) -> Error {
        Error::Initrd {
            path: "initrd".into(),
            problem,
        }
    }

    /// The options in a text, all of which hvrun has.
    fn options(text: &str) -> usize {
        let command = <Args as clap::CommandFactory>::command();
        let words = text.split([' ', ',', ';', '(', ')']);
        let mut count = 0;
        for option in words.filter_map(|word| word.strip_prefix("--")) {
            let mut known = command.get_arguments().filter_map(|it| it.get_long());
            assert!(known.any(|long| long == option), "{text}");
            count += 1;
        }
        count
    }

    #[test]
    fn a_warning_names_the_option_that_helps() {
        for target in [
            warnings::MANY_RESETS,
            warnings::INITRD_IS_FILE_SYSTEM,
            warnings::INITRD_IS_DEVICE_TREE,
        ] {
            assert_eq!(options(on_warning(target).unwrap()), 1, "{target}");
        }
        assert_eq!(on_warning("hv_vmm::vm"), None);
    }

    #[test]
    fn a_message_is_one_line_of_what_is_wrong_and_what_to_do() {
        let message = message(&Error::TooManyCpus { asked: 9, max: 4 });
        assert_eq!(
            message,
            "9 CPUs are more than the 4 that KVM allows a guest on this host; use --cpus 4 or fewer"
        );
        let too_large = KernelFileProblem::TooLarge {
            needed: 65,
            available: 64,
        };
        assert_eq!(
            super::message(&kernel(too_large)),
            "cannot boot the kernel Image: it takes 65 MiB of memory and the guest has 64; give it more with --memory"
        );
        let plain = super::message(&Error::SlotTaken(3));
        assert_eq!(plain, Error::SlotTaken(3).to_string());
    }

    #[test]
    fn the_options_that_it_names_exist() {
        let errors = [
            Error::DoesNotFit {
                what: "initrd",
                memory: 64,
            },
            Error::NoCpus,
            Error::NoSeccomp,
            Error::TooManyCpus { asked: 9, max: 4 },
            Error::MemorySize(1),
            Error::MemorySizeOfHugePages(4096),
            Error::TooFewHugePages {
                wanted: 256,
                free: 1,
                enough: 255,
            },
            Error::NoHugePages,
            Error::MemoryBeyondGuestPhysical {
                size: 1 << 45,
                max: 1 << 41,
                bits: 41,
            },
            Error::NoHostMemory { size: 1 << 45 },
            Error::NoAia,
            kernel(NoProgram::Cpio.into()),
            kernel(NoProgram::Disk.into()),
            kernel(NoProgram::DeviceTree.into()),
            kernel(NoProgram::EfiProgram.into()),
            initrd(InitrdProblem::DiskImage("qcow2")),
            initrd(InitrdProblem::Partitions),
            initrd(InitrdProblem::Encrypted),
        ];
        for error in errors {
            let message = message(&error);
            assert!(options(&message) > 0, "{message}");
            assert_eq!(message.lines().count(), 1);
            // The library's part is for any program.
            assert!(!error.to_string().contains("--"), "{error}");
        }
    }
}
