//! The QEMU process of a nested host.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use hv_lab_agent::protocol::PORT_NAME;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};

use super::config::{HostChip, HostConfig};
use super::logs::Logs;

/// How large requests of the 9p client may be, in bytes: the transport's limit of 128 pages, less what QEMU's queue of
/// 128 buffers needs for itself.
const MSIZE: u32 = 500 * 1024;

/// The kernel's command line. A panic ends QEMU. What is left out takes an emulated hart a second or more, and is of no
/// use here: the self-tests of the crypto algorithms, the entropy of timing (QEMU hands over a seed), and the keys to
/// check modules with.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests \
                            initcall_blacklist=jent_mod_init,load_system_certificate_list";

/// The CPU that QEMU emulates fastest, a guest of its hypervisor twice as fast as [`HostChip::Aia`]'s. Most of what an
/// emulated guest does is to walk page tables, a level of the host's for every level of its own, so few levels pay.
pub(crate) const FAST_CPU: &str = "rv64,h=true,sv57=off,sv48=off";

/// All that QEMU has, but for what makes everything else slow: the recording of control transfers, total store order, and more
/// than three levels of page tables.
const AIA_CPU: &str = "max,smctr=off,ssctr=off,ztso=off,sv57=off,sv48=off";

/// The same with five levels of page tables, Sv57 and Sv57x4.
pub(crate) const SV57_CPU: &str = "max,smctr=off,ssctr=off,ztso=off";

/// Options of a 9p mount, the best first; Linux before 6.4 does not know them.
///
/// What is written goes to the developer's machine at once, and a flush in the nested host is one there. What is read is
/// cached for as long as the file is open, so that reads become large requests: without a cache, Linux (6.12) asks for
/// one page at a time, which takes a hundred times as long.
pub(super) fn mount_options() -> [String; 2] {
    ["readahead", "none"].map(|cache| {
        format!("trans=virtio,version=9p2000.L,msize={MSIZE},cache={cache},access=client")
    })
}

/// A running QEMU. It is killed when this is dropped, or when this process ends in whichever way.
#[derive(Debug)]
pub(super) struct Qemu {
    watched: Arc<Watched>,
}

#[derive(Debug)]
struct Watched {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    child: Child,
    status: Option<ExitStatus>,
}

/// What QEMU boots.
pub(super) struct Boot<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    /// A device tree in place of QEMU's own.
    pub(super) tree: Option<&'a Path>,
    /// Directory, tag and whether it is read-only.
    pub(super) shares: &'a [(&'a Path, String, bool)],
}

impl Qemu {
    /// Starts `command`, which is QEMU without arguments, and returns it with the controller's end of the control
    /// stream.
    pub(super) fn start(
        mut command: Command,
        config: &HostConfig,
        boot: &Boot<'_>,
        logs: &Logs,
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let log = File::create(logs.qemu())?;
        machine(&mut command, config);
        boot_arguments(&mut command, config, boot);
        channels(&mut command, &logs.serial(), theirs.as_raw_fd());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C at the terminal is for the launcher, which ends QEMU in an orderly way.
            .process_group(0);
        die_with_this_process(&mut command, theirs.into());
        let watched = watch(command)?;
        let qemu = Self { watched };
        if let Some(lifetime) = config.lifetime {
            qemu.end_after(lifetime)?;
        }
        Ok((qemu, ours))
    }

    /// Starts `command` as it is.
    pub(super) fn run(mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        let parent = nix::unistd::getpid();
        // SAFETY: between fork and exec this makes system calls only and allocates nothing.
        unsafe { command.pre_exec(move || end_with(parent)) };
        Ok(Self {
            watched: watch(command)?,
        })
    }

    /// The process id.
    pub(super) fn pid(&self) -> u32 {
        lock(&self.watched.state).child.id()
    }

    /// Waits for its end; `None` if that did not come in time.
    pub(super) fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        self.watched.wait(timeout)
    }

    /// Kills it and waits until it is gone.
    pub(super) fn kill(&self) {
        self.watched.kill();
        self.watched.wait(Duration::from_secs(10));
    }

    fn end_after(&self, lifetime: Duration) -> io::Result<()> {
        let watched = Arc::clone(&self.watched);
        let watchdog = thread::Builder::new().name("lab-watchdog".into());
        watchdog.spawn(move || {
            if watched.wait(lifetime).is_none() {
                watched.kill();
            }
        })?;
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Watched {
    fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now().checked_add(timeout)?;
        let mut state = lock(&self.state);
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            if state.status.is_some() || rest.is_zero() {
                return state.status;
            }
            let waited = self.ended.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn kill(&self) {
        // Only while it is not waited for, so never another process of the same id. That it is gone is as well.
        let _ = lock(&self.state).child.kill();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the process in a thread that lives as long as it does.
///
/// That thread is what the child's parent-death signal goes by: it comes when the *thread* ends that started the child,
/// and a test's thread ends long before the process.
fn watch(mut command: Command) -> io::Result<Arc<Watched>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("lab-qemu".into())
        .spawn(move || {
            let started = command.spawn();
            drop(command);
            let child = match started {
                Ok(child) => child,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let pid = Pid::from_raw(child.id().cast_signed());
            let watched = Arc::new(Watched {
                state: Mutex::new(State {
                    child,
                    status: None,
                }),
                ended: Condvar::new(),
            });
            let _ = sender.send(Ok(Arc::clone(&watched)));
            drop(sender);
            // Waits without the lock, and leaves the zombie so that the id stays its own until the lock is held.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
                == Err(nix::errno::Errno::EINTR)
            {}
            let mut state = lock(&watched.state);
            state.status = state.child.wait().ok();
            watched.ended.notify_all();
        })?;
    receiver.recv().map_err(io::Error::other)?
}

fn die_with_this_process(command: &mut Command, control: OwnedFd) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec this makes system calls only and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            end_with(parent)?;
            fcntl(&control, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
}

/// In the child: it is killed when its parent ends.
fn end_with(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    match getppid() == parent {
        true => Ok(()),
        // It ended before the line above.
        false => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

pub(super) fn machine(command: &mut Command, config: &HostConfig) {
    let (machine, cpu) = match config.chip {
        // As on the boards that have a PLIC: three levels of page tables.
        HostChip::Plic => ("virt", FAST_CPU),
        HostChip::Aia => ("virt,aia=aplic-imsic", AIA_CPU),
        // One file for each hart of a guest that runs on a hart of the host at the same time.
        HostChip::AiaFiles => ("virt,aia=aplic-imsic,aia-guests=3", SV57_CPU),
    };
    let options: Vec<&str> = std::iter::once(machine)
        .chain(config.machine.iter().map(String::as_str))
        .collect();
    command.args(["-M", &options.join(",")]);
    command.args(["-cpu", config.cpu.as_deref().unwrap_or(cpu)]);
    command.args([
        "-smp",
        &config.harts.to_string(),
        "-m",
        &format!("{}M", config.memory_mib),
    ]);
    if config.instruction_clock {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    if let Some(plugin) = &config.plugin {
        command.args(["-plugin", plugin]);
    }
    // A host that reboots has panicked.
    command.args([
        "-display",
        "none",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
    ]);
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
}

fn boot_arguments(command: &mut Command, config: &HostConfig, boot: &Boot<'_>) {
    command
        .arg("-kernel")
        .arg(boot.kernel)
        .arg("-initrd")
        .arg(boot.initrd);
    command.args(["-append", &format!("{COMMAND_LINE}{}", config.command_line)]);
    if let Some(tree) = boot.tree {
        command.arg("-dtb").arg(tree);
    }
    for (number, (directory, tag, readonly)) in boot.shares.iter().enumerate() {
        let readonly = if *readonly { "on" } else { "off" };
        let fixed = format!(
            "local,id=share{number},security_model=none,multidevs=remap,readonly={readonly},path="
        );
        let mut share = std::ffi::OsString::from(fixed);
        share.push(escape_commas(directory));
        command.arg("-fsdev").arg(share);
        command.args([
            "-device",
            &format!("virtio-9p-device,fsdev=share{number},mount_tag={tag}"),
        ]);
    }
}

/// The serial port into a file, and the control stream.
fn channels(command: &mut Command, serial: &Path, control: i32) {
    let mut serial_file = std::ffi::OsString::from("file,id=serial,path=");
    serial_file.push(escape_commas(serial));
    command.arg("-chardev").arg(serial_file);
    command.args(["-serial", "chardev:serial"]);
    command.args(["-chardev", &format!("socket,id=control,fd={control}")]);
    command.args(["-device", "virtio-serial-device,max_ports=2"]);
    command.args([
        "-device",
        &format!("virtserialport,nr=1,chardev=control,name={PORT_NAME}"),
    ]);
}

/// A path within a list of QEMU options, where a comma is written twice.
pub(crate) fn escape_commas(path: &Path) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        escaped.push(byte);
        if byte == b',' {
            escaped.push(byte);
        }
    }
    std::ffi::OsString::from_vec(escaped)
}
