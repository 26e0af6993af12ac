//! A machine of the nested host's kind without the host: a kernel of choice runs to its end on it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::config::HostConfig;
use super::error::{Error, ErrorKind, Result};
use super::qemu;
use super::setup_error;
use crate::provision;

/// What such a machine runs.
#[derive(Debug, Clone, Copy)]
pub struct Direct<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// Its initrd.
    pub initrd: &'a Path,
    /// Its command line.
    pub command_line: &'a str,
}

impl Direct<'_> {
    /// Runs it until it switches off, and answers what it printed by its serial port. Of `config`, what describes the
    /// machine counts: chip, harts, memory, CPU and clock.
    ///
    /// # Errors
    /// QEMU cannot be had, or the machine does not switch off in time.
    pub fn run(&self, config: &HostConfig, timeout: Duration) -> Result<String> {
        let failed = |error: std::io::Error| {
            Error::new(
                ErrorKind::Setup,
                format!("a machine without a host: {error}"),
            )
        };
        let serial = tempfile::NamedTempFile::new().map_err(failed)?;
        let mut command = provision::qemu().map_err(setup_error)?.command();
        qemu::machine(&mut command, config);
        command
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initrd);
        command.args(["-append", self.command_line]);
        command
            .arg("-serial")
            .arg(format!("file:{}", serial.path().display()));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = qemu::Qemu::run(command).map_err(failed)?;
        if running.wait(timeout).is_none() {
            return Err(Error::timeout(
                "the end of a machine without a host",
                timeout,
            ));
        }
        let output = std::fs::read(serial.path()).map_err(failed)?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}
