//! `cargo hvrun`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::default_guest::{self, DefaultGuest};
use super::signals::Signals;
use super::{Failure, bare, disks, session, setup};

/// Runs hvrun: in the nested host, or right here on a RISC-V machine.
pub(super) fn run(arguments: &[String]) -> Result<u8, Failure> {
    if bare::is_meant(arguments) {
        return bare::hvrun(arguments);
    }
    if cfg!(target_arch = "riscv64") {
        return natively(arguments);
    }
    let signals = Signals::take()?;
    let (arguments, default) = complete(arguments)?;
    let _locked = disks::lock(&arguments)?;
    let (host, hvrun) = setup::host_and_hvrun()?;
    if let Some(default) = &default {
        default.announce(&format!("a nested RISC-V host ({})", host.chip()));
    }
    let mut exec = host
        .local(&hvrun)
        .map_err(super::host_failure)?
        .args(arguments);
    for (name, value) in std::env::vars_os().filter_map(text_variable) {
        exec = exec.env(&name, &value);
    }
    session::run(&host, exec, &signals)
}

/// The files of the user's machine are hvrun's, so its environment is, too, as far as it is text.
fn text_variable((name, value): (OsString, OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// The default guest, and what the user's arguments mean.
struct Default {
    guest: DefaultGuest,
    args: hvrun_cli::Args,
}

impl Default {
    fn announce(&self, place: &str) {
        let place = format!("under hvrun in {place}");
        eprintln!("{}", self.guest.announcement(&self.args, &place));
    }
}

/// The arguments with which hvrun is run: the user's, behind those of the default guest if they do not say what to boot.
fn complete(arguments: &[String]) -> Result<(Vec<String>, Option<Default>), Failure> {
    match default_guest::parse(arguments) {
        Some(args) if default_guest::is_meant(&args) => {
            let guest = DefaultGuest::prepare()?;
            let arguments = guest.arguments(&args, arguments)?;
            Ok((arguments, Some(Default { guest, args })))
        }
        _ => Ok((arguments.to_vec(), None)),
    }
}

/// Builds hvrun for this machine and becomes it.
fn natively(arguments: &[String]) -> Result<u8, Failure> {
    let (arguments, default) = complete(arguments)?;
    if let Some(default) = &default {
        default.announce("this machine, by its KVM");
    }
    let hvrun = hv_lab::provision::cross_build("hvrun", "hvrun")?;
    Err(become_program(&hvrun, &arguments).into())
}

/// Never returns if it succeeds.
fn become_program(program: &Path, arguments: &[String]) -> std::io::Error {
    Command::new(program).args(arguments).exec()
}
