//! A machine whose serial port is not a terminal.

use std::io::{self, Read, Write, stdin, stdout};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::provision::die_with_parent;

/// Runs `qemu` to its end, with this process's stdin and stdout at the machine's serial port.
///
/// The firmware empties the serial port's receiver before it prints its first line, and what has been sent by then is lost:
/// so the input waits for the first output.
///
/// # Errors
/// It cannot be started, or nobody takes its output any more.
pub fn run(qemu: &mut Command) -> io::Result<ExitStatus> {
    die_with_parent(qemu);
    let mut child = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (running, starts) = mpsc::channel();
    // It is never joined: it may wait for input for ever. At the end of the input, or of QEMU, it closes the pipe.
    thread::Builder::new()
        .name("lab-stdin".into())
        .spawn(move || {
            starts
                .recv()
                .map(|()| io::copy(&mut stdin().lock(), &mut input))
        })?;
    let carried = carry(&mut output, &mut stdout(), || {
        let _ = running.send(());
    });
    if carried.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    carried.map(|()| status)
}

/// Copies what comes as soon as it comes, and tells after each piece.
fn carry(from: &mut impl Read, to: &mut impl Write, mut came: impl FnMut()) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = match from.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        let Some(piece) = bytes.get(..count).filter(|piece| !piece.is_empty()) else {
            return Ok(());
        };
        came();
        to.write_all(piece)?;
        to.flush()?;
    }
}
