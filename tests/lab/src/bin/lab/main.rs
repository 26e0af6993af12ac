//! `cargo lab` and `cargo hvrun`: the nested host for a person at a terminal.

mod bare;
mod bench;
mod coverage;
mod default_guest;
mod disks;
mod fuzz;
mod hostile;
mod hvrun;
mod matrix;
mod mutants;
mod session;
mod setup;
mod signals;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hv_lab::cache;
use hv_lab::host::{Host, HostChip, HostConfig};
use hv_lab::provision;

/// The lab failed. This code differs from all of hvrun's own exit codes.
const EXIT_LAB: u8 = 125;

/// The nested RISC-V host in which hvrun runs on machines that are not RISC-V.
///
/// The variable HVRUN_LAB_HOST chooses its kind: `aia` (the default), `plic`, or `aia-files`, an AIA with guest interrupt
/// files. For the bare-metal hypervisor it is the kind of the machine, where `plic` is the default. HVRUN_LAB_DISK names another
/// disk for the guest that `cargo hvrun` boots by default; it is made if it does not exist.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run hvrun with its own arguments and this machine's files.
    ///
    /// If they start a guest and name neither a --kernel nor a --firmware, they are for the default guest, a small Linux that
    /// boots from a disk of its own. Disks among the arguments come after that one; an --initrd replaces the guest's.
    ///
    /// With --bare among the arguments, the guest runs on the bare-metal hypervisor instead, in a QEMU of its own.
    #[command(disable_help_flag = true)]
    Hvrun {
        /// hvrun's arguments.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGS"
        )]
        arguments: Vec<String>,
    },
    /// Compile the source of a bundle of guests for the bare-metal hypervisor.
    ///
    /// Files that it includes are searched beside it, then in the current directory. lab/Image and lab/initrd are kernel and
    /// initrd of the guest that `cargo hvrun` boots.
    Bundle {
        /// The source, a device tree (.dts); resources/bare/ has examples.
        source: PathBuf,
        /// The bundle.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Boot a bundle of guests on the bare-metal hypervisor in QEMU.
    Bare {
        /// The bundle, or its source (.dts).
        bundle: PathBuf,
        /// Further arguments for QEMU, such as devices.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "QEMU_ARGS"
        )]
        arguments: Vec<OsString>,
    },
    /// Download and build everything that `cargo hvrun` needs, also with --bare, and run nothing.
    Setup,
    /// Open a shell in the nested host. This machine's files are below /host.
    Shell,
    /// Run a command in the nested host.
    Exec {
        /// The command and its arguments.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            required = true,
            value_name = "COMMAND"
        )]
        command: Vec<String>,
    },
    /// Run clippy on the bare-metal hypervisor and the test kernel, each for its own target.
    Clippy,
    /// Check hvrun on hosts of every interrupt chip and kernel: a Linux guest with disk, network and consoles, a reboot, and the
    /// test kernel.
    ///
    /// Prints a table; the exit code is 1 if anything failed. The first run builds the kernel of the oldest host, which takes minutes.
    Matrix(matrix::Options),
    /// Have a hostile guest attack hvrun on each kind of host, with an honest one beside it, then the bare-metal hypervisor.
    ///
    /// Each attack takes SECONDS, and what the guest does follows from SEED. The exit code is 1 if anything did not survive.
    Hostile(hostile::Options),
    /// Look for changes to the changed code that no unit test would notice (needs cargo-mutants).
    ///
    /// Takes 10 to 30 seconds for each mutant; the exit code is 1 if one was missed. Files that git does not know are left out.
    Mutants(mutants::Options),
    /// Count the lines that the unit tests of core, devices, loaders and the bare-metal hypervisor's library run (needs LLVM's tools).
    ///
    /// With a rustc that has unstable options, branches as well. The exit code is 1 if a test failed.
    Coverage(coverage::Options),
    /// Measure hvrun and other VMMs side by side, in nested hosts whose clock counts instructions.
    Bench(bench::Options),
    /// Count instructions by host kernel, hvrun and guest, and by function.
    Profile(bench::ProfileOptions),
    /// Fuzz devices, loaders and the bare-metal hypervisor's library. Without a name it lists what can be fuzzed.
    ///
    /// What was found to reach more code is kept in the lab's cache, and is where the next run begins. It needs a C++ compiler.
    Fuzz(fuzz::Options),
    /// Delete everything that was downloaded or built for the lab, the default guest's disk included.
    Clean,
}

/// What ends a command: one line for the user, and the exit code.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            message: format!("lab: {error}"),
            code: EXIT_LAB,
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let result = match args.command {
        Command::Hvrun { arguments } => hvrun::run(&arguments),
        Command::Bundle { source, output } => bare::bundle(&source, &output),
        Command::Bare { bundle, arguments } => bare::run(&bundle, &arguments),
        Command::Setup => setup::everything(),
        Command::Shell => in_host(&["sh".into()]),
        Command::Exec { command } => in_host(&command),
        Command::Clippy => provision::clippy().map(|()| 0).map_err(Failure::from),
        Command::Matrix(options) => matrix::run(&options),
        Command::Hostile(options) => hostile::run(&options),
        Command::Mutants(options) => mutants::run(&options),
        Command::Coverage(options) => coverage::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Profile(options) => bench::profile(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Clean => clean(),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Runs a program of the nested host.
fn in_host(command: &[String]) -> Result<u8, Failure> {
    let signals = signals::Signals::take()?;
    let host = boot()?;
    session::run(&host, host.exec(command.iter().cloned()), &signals)
}

/// Boots the nested host that the user chose.
fn boot() -> Result<Host, Failure> {
    Host::boot(host_config()?).map_err(host_failure)
}

/// The nested host that the user chose. It runs as long as they like.
fn host_config() -> Result<HostConfig, Failure> {
    let config = HostConfig::new(chosen_chip(HostChip::Aia)?).module("vhost_net");
    Ok(config.fast_cpu().quietly().lifetime(None))
}

fn chosen_chip(default: HostChip) -> Result<HostChip, Failure> {
    let choice = std::env::var("HVRUN_LAB_HOST").unwrap_or_default();
    if choice.is_empty() {
        return Ok(default);
    }
    choice.parse().map_err(|error| Failure {
        message: format!("lab: HVRUN_LAB_HOST: {error}"),
        code: EXIT_LAB,
    })
}

/// One line, and where to read more.
fn host_failure(error: hv_lab::host::Error) -> Failure {
    let logs = error.logs().map_or_else(String::new, |logs| {
        format!("; its logs are in {}", logs.display())
    });
    Failure {
        message: format!("lab: {}{logs}", error.summary()),
        code: EXIT_LAB,
    }
}

fn clean() -> Result<u8, Failure> {
    let root = cache::root()?;
    match std::fs::remove_dir_all(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure {
            message: format!("lab: cannot delete {}: {error}", root.display()),
            code: EXIT_LAB,
        }),
        _ => {
            eprintln!("lab: {} is deleted", root.display());
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn long_runs_take_how_long_and_where() {
        Args::command().debug_assert();
        for line in ["lab hostile", "lab hostile 60 7 --host aia --no-bare"] {
            Args::try_parse_from(line.split(' ')).unwrap();
        }
        assert!(Args::try_parse_from(["lab", "hostile", "long"]).is_err());
    }
}
