//! Nested hosts: RISC-V machines under QEMU, with KVM in their kernel, in which hvrun runs.
//!
//! A test takes a host, runs processes in it, and looks at what they print and how they end:
//!
//! ```no_run
//! use std::time::Duration;
//! use hv_lab::host::{Host, HostChip, Result};
//!
//! # fn main() -> Result<()> {
//! let host = Host::shared(HostChip::Aia)?;
//! let finished = host.exec(["uname", "-m"]).output(Duration::from_secs(10))?;
//! assert!(finished.status.success());
//! assert_eq!(finished.stdout_text(), "riscv64");
//!
//! let mut console = host.exec(["sh"]).console()?;
//! console.wait_for("# ", Duration::from_secs(10))?;
//! let listing = console.run("ls /dev/kvm", Duration::from_secs(10))?;
//! assert_eq!((listing.code, listing.text.as_str()), (0, "/dev/kvm"));
//! # Ok(())
//! # }
//! ```
//!
//! [`Host::local`] runs a program of the developer's machine (a static riscv64 one) in the nested host, among the files
//! of the developer's machine and under the same paths: that is how hvrun runs, in tests and for `cargo hvrun`.
//!
//! Three things are kept apart, each in a file of [`Host::log_directory`]: the log of the nested host, what QEMU says,
//! and every [`Console`]. Every wait has a limit, and an error shows the end of what was printed and where the rest is.
//! The QEMU process ends with this process, in whichever way that does.

mod channel;
mod config;
mod console;
mod device_tree;
mod direct;
mod error;
mod image;
mod kernel;
mod logs;
mod process;
mod qemu;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use hv_lab_agent::protocol::{ExitStatus, Stdio, Stream};
use hv_lab_agent::protocol::{Mount, Request};

use channel::{Channel, TaskState};
pub use config::{HostChip, HostConfig, SUPERVISOR_IMSICS, Share};
pub use console::{Console, ShellOutput};
pub use direct::Direct;
pub use error::{Error, ErrorKind, Result};
pub use kernel::HostKernel;
use logs::Logs;
use process::{ANSWER_TIMEOUT, path_text};
pub use process::{Exec, FinishedProcess, Process};
use qemu::{Boot, Qemu};
pub(crate) use qemu::{FAST_CPU, SV57_CPU, escape_commas};

use crate::cache;
use crate::provision::{self, DebianKernel, progress};

/// How long a host may live that many tests share: longer than a whole run of the tests on a busy machine.
pub const SHARED_LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);

/// Where the developer's files are in a nested host.
pub const LOCAL_ROOT: &str = "/host";

/// A nested host that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    channel: Channel,
    qemu: Qemu,
    logs: Arc<Logs>,
}

impl Host {
    /// Boots a nested host. What it takes and is not there yet, is set up first.
    ///
    /// # Errors
    /// Something could not be set up, or the host did not come up in time.
    pub fn boot(config: HostConfig) -> Result<Self> {
        let runs = cache::root().map_err(setup_error)?.join("runs");
        let logs = Logs::create(&runs, config.chip.name()).map_err(|error| {
            Error::new(ErrorKind::Setup, format!("{}: {error}", runs.display()))
        })?;
        let kernel = match &config.kernel {
            Some(kernel) => kernel.clone(),
            None => provision::debian_kernel(DebianKernel::Stable).map_err(setup_error)?,
        };
        if !config.quiet && !kernel.is_last_green() {
            progress::note_once(kernel.pedigree());
        }
        let logs = Arc::new(logs.remark(kernel.pedigree()));
        let initrd = logs.directory().join("initramfs.cpio");
        image::write(&config, &kernel, &initrd)?;

        let mut shares = Vec::new();
        if config.local_files {
            shares.push((Path::new("/"), "local".to_owned(), false));
        }
        for (number, share) in config.shares.iter().enumerate() {
            shares.push((&share.directory, format!("share{number}"), share.readonly));
        }
        let tree = match config.tree.is_empty() {
            true => None,
            false => Some(device_tree::write(&config, logs.directory())?),
        };
        let boot = Boot {
            kernel: &kernel.image,
            initrd: &initrd,
            tree: tree.as_deref(),
            shares: &shares,
        };
        let command = provision::qemu().map_err(setup_error)?.command();
        let started = Qemu::start(command, &config, &boot, &logs)
            .and_then(|(qemu, stream)| Ok((qemu, Channel::new(stream, Arc::clone(&logs))?)));
        let (qemu, channel) = started
            .map_err(|error| Error::new(ErrorKind::Setup, format!("cannot start QEMU: {error}")))?;
        channel.wait_ready(config.boot_timeout).map_err(|error| {
            let error = match qemu.wait(Duration::from_secs(1)) {
                Some(status) => {
                    let words = logs
                        .last_words()
                        .map_or_else(String::new, |words| format!(": {words}"));
                    Error::new(ErrorKind::Host, format!("QEMU ended with {status}{words}"))
                }
                None => error,
            };
            error
                .in_context("the nested host did not start")
                .with_logs(&logs)
        })?;
        // It is in memory now, and large for a log directory.
        let _ = std::fs::remove_file(&initrd);
        let host = Self {
            config,
            channel,
            qemu,
            logs,
        };
        host.mount_shares()?;
        Ok(host)
    }

    /// The host of this kind that all tests of this process share. The first who asks boots it; it ends with the
    /// process.
    ///
    /// # Errors
    /// As [`Host::boot`], for everyone who asks.
    pub fn shared(chip: HostChip) -> Result<&'static Self> {
        static PLIC: OnceLock<Result<Host>> = OnceLock::new();
        static AIA: OnceLock<Result<Host>> = OnceLock::new();
        static AIA_FILES: OnceLock<Result<Host>> = OnceLock::new();
        let host = match chip {
            HostChip::Plic => &PLIC,
            HostChip::Aia => &AIA,
            HostChip::AiaFiles => &AIA_FILES,
        };
        let booted = host.get_or_init(|| {
            let config = HostConfig::new(chip).lifetime(Some(SHARED_LIFETIME));
            Self::boot(config.module("loop").module("vhost_net").module("bridge"))
        });
        booted.as_ref().map_err(Clone::clone)
    }

    /// The kind of this host.
    #[must_use]
    pub fn chip(&self) -> HostChip {
        self.config.chip
    }

    /// Where the logs of this host are.
    #[must_use]
    pub fn log_directory(&self) -> &Path {
        self.logs.directory()
    }

    /// The process id of QEMU.
    #[must_use]
    pub fn qemu_pid(&self) -> u32 {
        self.qemu.pid()
    }

    /// A process to run: a program of the nested host (it has busybox's) and its arguments.
    #[must_use]
    pub fn exec<A: Into<String>>(&self, argv: impl IntoIterator<Item = A>) -> Exec {
        Exec::new(
            self.channel.clone(),
            argv.into_iter().map(Into::into).collect(),
        )
    }

    /// A process to run among the developer's files: a static riscv64 program of the developer's machine, with this
    /// process's working directory, so that every path means the same as here. Its `/dev`, `/proc` and `/sys` are the
    /// nested host's.
    ///
    /// # Errors
    /// A path is not UTF-8, or the host was booted without the local files.
    pub fn local(&self, program: &Path) -> Result<Exec> {
        let cwd = std::env::current_dir().map_err(|error| {
            Error::new(ErrorKind::Setup, format!("the working directory: {error}"))
        })?;
        if !self.config.local_files {
            let message = "this nested host was booted without the local files";
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let exec = self.exec([path_text(program)?]);
        Ok(exec.root(LOCAL_ROOT).cwd(&path_text(&cwd)?))
    }

    /// A QEMU to run, as [`Host::local`] runs a program: hvrun's peer, with this host's KVM if it is told to.
    ///
    /// # Errors
    /// As [`Host::local`], or QEMU cannot be had.
    pub fn qemu(&self) -> Result<Exec> {
        let qemu = provision::nested_qemu().map_err(setup_error)?;
        let (variable, value) = qemu.variable;
        let exec = self.local(&qemu.program)?;
        Ok(exec.args(qemu.arguments).env(variable, &value))
    }

    /// The path under which [`Host::exec`]'s processes find a file of the developer's machine.
    #[must_use]
    pub fn local_path(&self, path: &Path) -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Path::new(LOCAL_ROOT).join(path.strip_prefix("/").unwrap_or(&path))
    }

    /// Reads a file of the nested host.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        Ok(self.exec(["cat", path]).check(ANSWER_TIMEOUT)?.stdout)
    }

    /// Creates or overwrites a file of the nested host.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_file(&self, path: &str, content: &[u8]) -> Result<()> {
        let exec = self
            .exec(["cat"])
            .stdin(Stdio::Pipe)
            .stdout(Stdio::File(path.to_owned()));
        let process = exec.spawn()?;
        process.write_stdin(content, ANSWER_TIMEOUT)?;
        let finished = process.finish(ANSWER_TIMEOUT)?;
        match finished.status.success() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Refused,
                format!("{path} not written: {finished}"),
            )),
        }
    }

    /// Switches the host off and waits until QEMU ended.
    ///
    /// # Errors
    /// It did not end in time (then it is killed).
    pub fn power_off(self, timeout: Duration) -> Result<()> {
        self.channel.send(0, &Request::PowerOff)?;
        match self.qemu.wait(timeout) {
            Some(_) => Ok(()),
            None => {
                Err(Error::timeout("switching the nested host off", timeout).with_logs(&self.logs))
            }
        }
    }

    fn mount_shares(&self) -> Result<()> {
        if self.config.local_files {
            self.mount_9p("local", LOCAL_ROOT)?;
            for directory in ["/dev", "/proc", "/sys"] {
                self.mount(Mount {
                    source: directory.into(),
                    target: format!("{LOCAL_ROOT}{directory}"),
                    flags: libc::MS_BIND | libc::MS_REC,
                    ..Mount::default()
                })?;
            }
        }
        for (number, share) in self.config.shares.iter().enumerate() {
            self.mount_9p(&format!("share{number}"), &share.mount_point)?;
        }
        Ok(())
    }

    fn mount_9p(&self, tag: &str, target: &str) -> Result<()> {
        let mount = |options| {
            self.mount(Mount {
                source: tag.into(),
                target: target.into(),
                kind: "9p".into(),
                flags: 0,
                options,
            })
        };
        let [best, other] = qemu::mount_options();
        mount(best).or_else(|_| mount(other))
    }

    fn mount(&self, mount: Mount) -> Result<()> {
        let what = format!("mounting {}", mount.target);
        let task = self
            .channel
            .begin(&Request::Mount(mount), TaskState::default())?;
        let answer = self.channel.wait_answer(&task, &what, ANSWER_TIMEOUT);
        self.channel.forget(&task);
        answer.map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.qemu.kill();
        self.channel.close();
    }
}

fn setup_error(error: provision::Error) -> Error {
    Error::new(ErrorKind::Setup, error.to_string())
}

#[cfg(test)]
mod tests;
