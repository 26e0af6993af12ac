//! `cargo hvrun`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

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
    let guest = if arguments.is_empty() {
        Some(setup::guest()?)
    } else {
        None
    };
    let arguments = match &guest {
        Some(guest) => guest.arguments()?,
        None => arguments.to_vec(),
    };
    let _locked = disks::lock(&arguments)?;
    let (host, hvrun) = setup::host_and_hvrun()?;
    if let Some(guest) = &guest {
        announce(guest, &format!("a nested RISC-V host ({})", host.chip()));
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

fn announce(guest: &setup::Guest, place: &str) {
    let setup::Guest { release, disk, .. } = guest;
    eprintln!(
        "lab: Linux {release} from {} under hvrun in {place}",
        disk.display()
    );
}

/// Builds hvrun for this machine and becomes it.
fn natively(arguments: &[String]) -> Result<u8, Failure> {
    let mut given = arguments.to_vec();
    if arguments.is_empty() {
        let guest = setup::guest()?;
        given = guest.arguments()?;
        announce(&guest, "this machine's KVM");
    }
    let hvrun = hv_lab::provision::cross_build("hvrun", "hvrun")?;
    Err(become_program(&hvrun, &given).into())
}

/// Never returns if it succeeds.
fn become_program(program: &Path, arguments: &[String]) -> std::io::Error {
    Command::new(program).args(arguments).exec()
}
