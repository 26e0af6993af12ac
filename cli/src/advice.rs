//! What to do about an error of the library's, by hvrun's options. The library does not know them.

use hv_vmm::Error;

/// What to do when the sandbox has ended hvrun.
pub const ON_VIOLATION: &str =
    "please report it; with --sandbox log the guest runs, and such calls are only logged";

/// An error in one line for the user: what is wrong, and what to do if there is an option for it.
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
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Args;

    #[test]
    fn a_message_is_one_line_of_what_is_wrong_and_what_to_do() {
        let message = message(&Error::TooManyCpus { asked: 9, max: 4 });
        assert_eq!(
            message,
            "9 CPUs are more than the 4 that KVM allows a guest on this host; use --cpus 4 or fewer"
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
        ];
        let command = <Args as clap::CommandFactory>::command();
        for error in errors {
            let message = message(&error);
            let options: Vec<&str> = message
                .split([' ', ',', ';'])
                .filter_map(|word| word.strip_prefix("--"))
                .collect();
            assert!(!options.is_empty(), "{message}");
            for option in options {
                let mut known = command.get_arguments().filter_map(|it| it.get_long());
                assert!(known.any(|long| long == option), "{message}");
            }
            assert_eq!(message.lines().count(), 1);
            // The library's part is for any program.
            assert!(!error.to_string().contains("--"), "{error}");
        }
    }
}
