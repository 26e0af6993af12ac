//! The duties of process 1: file systems, kernel modules, the control port, and switching off.
//!
//! Its standard streams are the kernel's console, which the controller keeps in the log of the nested host. An error
//! is said there, and then the machine switched off, which the controller notices.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hv_lab_agent::protocol::{Mount, PORT_NAME};
use hv_lab_agent::server::{End, Reaping, mount, serve};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Which modules to load, one a line, in this order: a file name in the same directory, then parameters if any.
const MODULE_LIST: &str = "/modules/load";

/// How long the control port may take to appear. It does at once, unless the machine is very busy.
const PORT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the nested host until it is switched off.
pub(crate) fn run() -> ExitCode {
    match start() {
        Ok(End::PowerOff | End::Disconnected) => {}
        Err(error) => eprintln!("agent: {error}"),
    }
    // What was written to a share is on the developer's machine already, and no other file outlives this one.
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    eprintln!("agent: cannot switch off: {error}");
    ExitCode::FAILURE
}

fn start() -> Result<End, String> {
    mount_file_systems()?;
    load_modules(Path::new(MODULE_LIST))?;
    let control =
        open_control_port().map_err(|error| format!("the control port {PORT_NAME}: {error}"))?;
    serve(control, Reaping::All).map_err(|error| format!("the control stream failed: {error}"))
}

fn mount_file_systems() -> Result<(), String> {
    let file_systems = [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", "mode=0755"),
        ("devpts", "/dev/pts", "ptmxmode=0666,mode=0620"),
        ("tmpfs", "/dev/shm", "mode=1777"),
        ("tmpfs", "/run", "mode=0755"),
        ("tmpfs", "/tmp", "mode=1777"),
    ];
    for (kind, target, options) in file_systems {
        mount(&Mount {
            source: kind.into(),
            target: target.into(),
            kind: kind.into(),
            flags: 0,
            options: options.into(),
        })?;
    }
    // Only who looks at the kernel from within misses them.
    for (kind, target) in [
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        if knows(kind) {
            mount(&Mount {
                source: kind.into(),
                target: target.into(),
                kind: kind.into(),
                ..Mount::default()
            })?;
        }
    }
    Ok(())
}

/// Whether the kernel has this file system (proc_filesystems(5)).
fn knows(kind: &str) -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|list| {
        list.lines()
            .any(|line| line.split_whitespace().last() == Some(kind))
    })
}

fn load_modules(list: &Path) -> Result<(), String> {
    let text = fs::read_to_string(list).map_err(|error| format!("{}: {error}", list.display()))?;
    let directory = list.parent().unwrap_or(Path::new("/"));
    for line in text.lines() {
        let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
        let parameters = std::ffi::CString::new(parameters)
            .map_err(|error| format!("module {name}: {error}"))?;
        let module =
            File::open(directory.join(name)).map_err(|error| format!("module {name}: {error}"))?;
        match finit_module(module, &parameters, ModuleInitFlags::empty()) {
            // A kernel may have it built in or loaded.
            Ok(()) | Err(Errno::EEXIST) => {}
            // A host without what the module drives (kvm on a hart without the H extension) is a host to test on.
            Err(Errno::ENODEV | Errno::EOPNOTSUPP) => {
                eprintln!("agent: module {name}: this machine has no use for it")
            }
            Err(error) => return Err(format!("module {name}: {}", error.desc())),
        }
    }
    Ok(())
}

/// Opens the control port once it is there and its other end is connected.
fn open_control_port() -> io::Result<File> {
    let deadline = Instant::now() + PORT_TIMEOUT;
    let in_time = |what: &'static str| {
        sleep(Duration::from_millis(5));
        match Instant::now() < deadline {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::TimedOut, what)),
        }
    };
    let path = loop {
        match find_port()? {
            Some(path) => break path,
            None => in_time("did not appear")?,
        }
    };
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    // Until QEMU's word that the port is connected has arrived, the port looks as if its other end were gone.
    loop {
        let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO)?;
        if !fds[0]
            .revents()
            .is_some_and(|ready| ready.contains(PollFlags::POLLHUP))
        {
            return Ok(port);
        }
        in_time("was not connected")?;
    }
}

fn find_port() -> io::Result<Option<PathBuf>> {
    let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(None);
    };
    for port in ports {
        let port = port?;
        if fs::read_to_string(port.path().join("name"))
            .is_ok_and(|name| name.trim_end() == PORT_NAME)
        {
            let device = Path::new("/dev").join(port.file_name());
            return Ok(device.exists().then_some(device));
        }
    }
    Ok(None)
}
