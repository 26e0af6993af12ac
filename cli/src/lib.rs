//! hvrun: boots a guest under KVM on a RISC-V Linux host.
//!
//! The program is [`main`]. Other programs can parse hvrun's arguments by [`Args`], and get the machine that they describe
//! from [`Args::config`].

mod advice;
mod args;
mod console;
mod device;
mod disk_errors;
mod doctor;
mod heap;
mod keys;
mod logger;
mod manual;
mod signals;
mod sync;
mod terminal;

use std::io::{IsTerminal, Write, stdin};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;
use clap::error::ErrorKind;
use hv_vmm::{Config, Error, InputFilter, OpenError, Outcome, Sandbox, Vm, write_problem};

use disk_errors::PausingDisks;

pub use advice::message;
pub use args::{Args, Command, HelpFlag, Irqchip, SandboxMode, Virtio};
pub use console::{Choice, Consoles, To};
pub use device::{Located, parse_disk};
pub use heap::Heap;
pub use keys::Keys;
pub use logger::start as start_log;

/// The guest powered off.
const EXIT_SUCCESS: u8 = 0;
/// hvrun could not start or continue the guest, or not write all of its output.
const EXIT_ERROR: u8 = 1;
/// The command line is wrong; clap's own code, too.
const EXIT_USAGE: u8 = 2;
/// The guest powered off and reported a system failure.
const EXIT_SYSTEM_FAILURE: u8 = 3;
/// The guest reset itself, and was not to be booted again.
const EXIT_RESET: u8 = 4;
/// Plus the number of the signal that ended hvrun, as shells have it.
const EXIT_SIGNAL: u8 = 128;

/// The program, from its arguments to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    heap::share();
    signals::ignore_file_size_limit();
    let mut args = match Args::from_command_line(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => return no_run(&error),
    };
    logger::start(args.log_level);
    let result = match args.command.take() {
        None => {
            let consoles = match Consoles::new(&args.consoles) {
                Ok(consoles) => consoles,
                Err(error) => {
                    return no_run(&Args::command().error(ErrorKind::ArgumentConflict, error));
                }
            };
            run(args, consoles)
        }
        Some(command) => answer(&command),
    };
    let code = result.unwrap_or_else(|error| {
        logger::say(&error.to_string());
        ExitCode::from(EXIT_ERROR)
    });
    logger::finish();
    code
}

/// Prints what the arguments ask for, help or the version, or what is wrong with them.
fn no_run(error: &clap::Error) -> ExitCode {
    match error.print() {
        // To what is wrong there is nothing to add where stderr takes it not.
        Err(problem) if !error.use_stderr() && problem.kind() != std::io::ErrorKind::BrokenPipe => {
            logger::say(&problem.to_string());
            ExitCode::from(EXIT_ERROR)
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE)),
    }
}

/// Runs a command other than booting a guest. Each prints something.
fn answer(command: &Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut code = ExitCode::SUCCESS;
    let text = match command {
        Command::Doctor { json, .. } => {
            let diagnosis = doctor::Diagnosis::make();
            if !diagnosis.can_boot() {
                code = ExitCode::from(EXIT_ERROR);
            }
            let text = if *json {
                diagnosis.json()
            } else {
                diagnosis.text()
            };
            text.into_bytes()
        }
        Command::Man { .. } => manual::page()?,
        Command::Completions { shell, .. } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "hvrun", &mut script);
            script
        }
    };
    print(&text)?;
    Ok(code)
}

/// Writes to stdout. A reader that closes its end early, such as head, is no error.
fn print(text: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

fn run(mut args: Args, consoles: Consoles) -> Result<ExitCode, Box<dyn std::error::Error>> {
    if args.kernel.is_none() && args.firmware.is_none() && !cfg!(target_arch = "riscv64") {
        return Err(OpenError::NotRiscv.into());
    }
    let payload = match args.payload() {
        Ok(payload) => payload,
        Err(what) => return Ok(usage(what)),
    };
    // Before the first thread starts, so that all threads have these signals blocked and only the event loop receives them.
    let ended_by = signals::endings().map_err(failed("open a signalfd"))?;
    terminal::restore_on_panic();
    signals::restore_terminal_at_faults();
    signals::make_raw_when_continued();
    hv_vmm::on_violation(terminal::restore, advice::ON_VIOLATION);
    let sandbox = args.sandbox.0;
    logger::in_background(sandbox)?;

    let have_stdio = consoles.have_stdio();
    let resized = (consoles.have_a_size())
        .then(signals::size_changes)
        .transpose()
        .map_err(failed("open a signalfd"))?;
    let dump_dtb = args.dump_dtb.take();
    let copy = failed("copy a file descriptor");
    let stop = ended_by.as_fd().try_clone_to_owned().map_err(&copy)?;
    let keys = (have_stdio && stdin().is_terminal()).then(Arc::<Keys>::default);
    let filter = keys.clone().map(|keys| -> Arc<dyn InputFilter> { keys });
    let mut config = args
        .config(payload, consoles, resized, filter, Some(stop))
        .map_err(&copy)?;
    let pausing = PausingDisks::of(&config);
    if pausing.is_some() {
        config.resume = Some(signals::continued().map_err(failed("make an eventfd"))?);
    }
    let terminal = Terminal {
        have_stdio,
        keys: keys.as_deref(),
        sandbox,
    };
    let (outcome, complete) = match boot(config, dump_dtb.as_deref(), &terminal, pausing) {
        Ok(None) => return Ok(ExitCode::SUCCESS),
        Ok(Some(outcome)) => (outcome, true),
        Err(Error::Stopped) => (Outcome::Stopped, true),
        Err(error @ Error::OutputLost { outcome, .. }) => {
            logger::say(&advice::message(&error));
            (outcome, false)
        }
        Err(error) => return Err(advice::message(&error).into()),
    };
    let code = match outcome {
        Outcome::PowerOff => EXIT_SUCCESS,
        Outcome::SystemFailure => EXIT_SYSTEM_FAILURE,
        // A reported failure is never exit code 0, even if the low 8 bits of its code are 0.
        Outcome::TestFailed(code) => code.to_le_bytes()[0].max(EXIT_ERROR),
        Outcome::Reset => EXIT_RESET,
        Outcome::Stopped => match ended_by.read_signal()? {
            Some(signal) => EXIT_SIGNAL.wrapping_add(u8::try_from(signal.ssi_signo).unwrap_or(0)),
            None => EXIT_SUCCESS,
        },
    };
    // Lost output turns success into an error. A failure or a signal is more specific and stays.
    Ok(ExitCode::from(if code == EXIT_SUCCESS && !complete {
        EXIT_ERROR
    } else {
        code
    }))
}

/// The error of something that the host has refused.
fn failed<E: Into<std::io::Error>>(doing: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Host {
        doing,
        error: error.into(),
    }
}

/// How the program's user is reached: stdin and stdout, as far as a console has them.
struct Terminal<'a> {
    have_stdio: bool,
    /// Where a person is at a terminal.
    keys: Option<&'a Keys>,
    /// How threads of the program's own are confined.
    sandbox: Sandbox,
}

/// Runs the machine to its end, or only writes its device tree.
fn boot(
    config: Config,
    dump_dtb: Option<&Path>,
    terminal: &Terminal<'_>,
    pausing: Option<PausingDisks>,
) -> Result<Option<Outcome>, Error> {
    let Terminal {
        have_stdio, keys, ..
    } = *terminal;
    let vm = Vm::new(config)?;
    match dump_dtb {
        Some(path) if path.as_os_str() == "-" => {
            print(vm.device_tree()).map_err(|error| Error::WriteDeviceTree {
                path: "stdout".into(),
                problem: write_problem(&error),
            })?;
            return Ok(None);
        }
        Some(path) => {
            vm.write_device_tree(path)?;
            return Ok(None);
        }
        None => {}
    }
    for terminal in vm.pseudo_terminals() {
        let path = terminal.path.display();
        logger::say(&format!("{} on {path}", terminal.console));
    }
    if let Some(keys) = keys {
        keys.command(vm.handle());
        if log::max_level() >= log::LevelFilter::Warn {
            // Printed by hvrun, because a guest may print nothing, and knows nothing of these keys.
            logger::say(keys::HINT);
        }
    }
    if let Some(disks) = pausing {
        let resume = match keys {
            Some(_) => "press Ctrl-a p".to_owned(),
            None => format!("run 'kill -CONT {}'", std::process::id()),
        };
        disks.watch(&vm.handle(), resume, terminal.sandbox)?;
    }
    let _raw = have_stdio.then(terminal::RawMode::enter);
    vm.run().map(Some)
}

/// Says what is wrong with the command line.
fn usage(what: &str) -> ExitCode {
    logger::say(&format!("{what} (see hvrun --help)"));
    ExitCode::from(EXIT_USAGE)
}
