//! A client of a Unix socket for the tests, since busybox has none: what it reads from its standard input goes to the
//! socket, and what comes from there to its standard output, until the other side closes it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: unix-client PATH");
        return ExitCode::FAILURE;
    };
    match UnixStream::connect(path).and_then(carry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unix-client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn carry(socket: UnixStream) -> io::Result<()> {
    let sender = socket.try_clone()?;
    std::thread::spawn(move || {
        let _ = copy(io::stdin(), &sender);
        let _ = sender.shutdown(Shutdown::Write);
    });
    copy(&socket, io::stdout())
}

/// Each piece as soon as it comes.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(bytes.get(..count).unwrap_or_default())?;
        to.flush()?;
    }
}
