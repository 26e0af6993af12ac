//! Programs from start to end.

use std::fs::File;
use std::io;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::timed;

/// How long a program may run. A guest that panics waits for ever, and with it its VMM.
const LIMIT: Duration = Duration::from_secs(12);

/// How long each of `count` runs of `command` takes. What they print goes to the file `output`, the last run's remains.
pub(crate) fn repeated(count: u64, output: &str, command: &[&str]) -> io::Result<Vec<u64>> {
    let [program, arguments @ ..] = command else {
        return Err(io::Error::other("no command"));
    };
    let mut times = Vec::new();
    for _ in 0..count {
        let output = File::create(output)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        times.push(timed(|| {
            let mut child = command.spawn()?;
            let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
            let (ended, end) = mpsc::channel::<()>();
            let guard = thread::spawn(move || {
                if end.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            });
            let status = child.wait();
            drop(ended);
            let _ = guard.join();
            let status = status?;
            match status.success() {
                true => Ok(()),
                false => Err(io::Error::other(format!("{program} ended with {status}"))),
            }
        })?);
    }
    Ok(times)
}
