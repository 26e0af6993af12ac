//! Holds a write lease (fcntl(2), `F_SETLEASE`) on a file for the tests: whoever opens the file then waits, as for a file
//! system that has stalled, until the kernel breaks the lease (`/proc/sys/fs/lease-break-time`, 45 s unless changed).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: hold-lease PATH");
        return ExitCode::FAILURE;
    };
    match hold(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hold-lease: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hold(path: &std::path::Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // The kernel asks for the lease by a signal, whose default is to end the process.
    // SAFETY: to ignore a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    // SAFETY: the call takes three numbers.
    let held = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    if held < 0 {
        return Err(io::Error::last_os_error());
    }
    println!("held");
    io::stdout().flush()?;
    // Until the test has seen what it wants to.
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}
