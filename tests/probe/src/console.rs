//! Output to a console.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};

use crate::clock::timed;

/// Writes `bytes` bytes to the terminal at `path`, and waits until they are out of the kernel.
pub(crate) fn write(path: &str, bytes: u64) -> io::Result<u64> {
    let text = vec![b'x'; usize::try_from(bytes).map_err(io::Error::other)?];
    let mut terminal = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)?;
    let mut attributes = tcgetattr(&terminal)?;
    cfmakeraw(&mut attributes);
    tcsetattr(&terminal, SetArg::TCSADRAIN, &attributes)?;
    timed(|| {
        terminal.write_all(&text)?;
        Ok(tcdrain(&terminal)?)
    })
}
