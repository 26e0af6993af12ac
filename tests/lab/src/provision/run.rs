//! Running the programs that provisioning is made of: quietly, bounded in time, never left behind.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::{Error, Result};

/// Long enough for any download or build on a slow machine; only a hang reaches it.
pub(crate) const LIMIT: Duration = Duration::from_secs(3600);

/// What a finished program left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` to its end with no input and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the last line of its standard error is in the message.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let finished = finish(command, LIMIT, || ())?;
    finished.check(command).map(|finished| finished.stdout)
}

/// Runs `command` to its end with no input, calling `tick` about five times a second, and kills it after `limit`.
///
/// The output goes to unnamed files rather than pipes, so that no reader is needed and nothing blocks.
///
/// # Errors
/// When it cannot be started, waited for, or exceeded `limit`; failing is left to [`Finished::check`].
pub(crate) fn finish(
    command: &mut Command,
    limit: Duration,
    mut tick: impl FnMut(),
) -> Result<Finished> {
    let failed = |error: io::Error| Error::Command {
        program: name(command),
        outcome: start_failure(&error),
    };
    let mut stdout = tempfile::tempfile().map_err(failed)?;
    let mut stderr = tempfile::tempfile().map_err(failed)?;
    let [out, err] = [
        stdout.try_clone().map_err(failed)?,
        stderr.try_clone().map_err(failed)?,
    ];
    let program = name(command);
    let failed = |error: io::Error| Error::Command {
        program: program.clone(),
        outcome: start_failure(&error),
    };
    die_with_parent(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(failed)?;

    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if started.elapsed() > limit {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            let outcome = format!("did not finish within {} s and was killed", limit.as_secs());
            return Err(Error::Command {
                program: program.clone(),
                outcome,
            });
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
        tick();
    };
    let text = |file: &mut File| -> io::Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Finished {
        status,
        stdout: text(&mut stdout).map_err(failed)?,
        stderr: text(&mut stderr).map_err(failed)?,
    })
}

impl Finished {
    /// Itself if the program succeeded.
    ///
    /// # Errors
    /// If it did not: an error with the first complaint on its standard error.
    pub(crate) fn check(self, command: &Command) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let outcome = format!("failed ({}): {}", self.status, self.complaint());
        Err(Error::Command {
            program: name(command),
            outcome,
        })
    }

    /// The one line of standard error that says most: the first that is marked as an error, else the last.
    pub(crate) fn complaint(&self) -> &str {
        let lines = || {
            self.stderr
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
        };
        let marked =
            |line: &&str| line.starts_with("E:") || line.to_ascii_lowercase().starts_with("error");
        lines()
            .find(marked)
            .or_else(|| lines().next_back())
            .unwrap_or("no message")
    }
}

/// Has the kernel kill the child of `command` when the thread that starts it ends, so that an interrupted set-up leaves
/// no download or build behind that would write beside the next one.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one prctl system call and allocates nothing.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}

/// The last component of the program's path.
pub(crate) fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn start_failure(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        "is not installed (not found on PATH)".to_owned()
    } else {
        format!("could not be run: {error}")
    }
}

/// The first file called `name` that can be executed in the directories of `PATH` and the system's own, which a user's
/// `PATH` often lacks.
pub(crate) fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| {
            nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_the_program_said() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo W: so-so >&2; echo E: No space left >&2; echo bye >&2; exit 3",
        ]);
        let error = run(&mut command).expect_err("it exits with 3").to_string();
        assert_eq!(error, "sh failed (exit status: 3): E: No space left");
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let mut command = Command::new("sleep");
        let error = finish(command.arg("600"), Duration::from_millis(10), || ())
            .expect_err("it sleeps for longer");
        assert!(
            error
                .to_string()
                .starts_with("sleep did not finish within 0 s"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nowhere/frobnicate"))
            .expect_err("there is no such program")
            .to_string();
        assert_eq!(error, "frobnicate is not installed (not found on PATH)");
    }
}
