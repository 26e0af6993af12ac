//! `cargo hvrun` and `cargo lab`, started as their users start them.

#![allow(clippy::unwrap_used)] // In helpers, which the lint does not take for tests.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hv_devices::virtio::block::{ImageFormat, Raw};
use hv_lab::provision::cross_build;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use tempfile::TempDir;

/// Long enough for anything here on any machine.
const LONG: Duration = Duration::from_secs(300);

fn lab(arguments: &[&str]) -> Command {
    // Built before anything has a time limit: the first build takes minutes on a slow machine.
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        cross_build("hv-lab-agent", "agent").unwrap();
        cross_build("hvrun", "hvrun").unwrap();
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("HVRUN_LAB_HOST", "plic");
    command
}

fn run(command: &mut Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _watchdog = Watchdog::new(child.id());
    child.wait_with_output().unwrap()
}

/// Kills the launcher if a test hangs, so that it fails instead.
struct Watchdog(std::sync::mpsc::Sender<()>);

impl Watchdog {
    fn new(pid: u32) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if receiver.recv_timeout(LONG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        });
        Self(sender)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The QEMU that this launcher started, as its directory in `/proc`.
fn qemu(launcher: u32) -> Option<PathBuf> {
    let of = |process: &Path| {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let parent = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .to_owned();
        let command = text(&fs::read(process.join("cmdline")).ok()?);
        let runs = command.contains("qemu-system-riscv64") && command.contains("virtserialport");
        (parent == launcher.to_string() && runs).then(|| process.to_owned())
    };
    let mut processes = fs::read_dir("/proc").unwrap().flatten();
    processes.find_map(|process| of(&process.path()))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LONG, "{what}");
        sleep(Duration::from_millis(10));
    }
}

/// A zombie whose new parent takes its time is gone, too.
fn gone(process: &Path) -> bool {
    fs::read_to_string(process.join("stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// A launcher with a script in the nested host that printed its first line.
struct Session {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    qemu: PathBuf,
    _watchdog: Watchdog,
}

fn session(script: &str) -> Session {
    let mut child = lab(&["exec", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watchdog = Watchdog::new(child.id());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Session {
        qemu: qemu(child.id()).unwrap(),
        child,
        output,
        _watchdog: watchdog,
    }
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

#[test]
fn hvruns_arguments_outputs_and_exit_codes_are_passed_on() {
    let output = run(&mut lab(&["hvrun", "--help"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("hvrun --kernel"),
        "{}",
        text(&output.stdout)
    );

    let output = run(&mut lab(&["hvrun", "--cpus", "many"]));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    assert!(
        text(&output.stderr).contains("--cpus"),
        "{}",
        text(&output.stderr)
    );
}

/// Options without a kernel are for the default guest, whose disk comes before the user's.
#[test]
fn the_default_guest_takes_options() {
    let directory = TempDir::new().unwrap();
    let own = directory.path().join("own.img");
    let data = directory.path().join("data.img");
    fs::write(&data, [0; 4096]).unwrap();
    let option = format!("{},readonly=on", data.display());
    let mut child = lab(&["hvrun", "--cpus", "2", "--disk", &option])
        .env("HVRUN_LAB_DISK", &own)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _watchdog = Watchdog::new(child.id());
    let mut input = child.stdin.take().unwrap();
    let script = b"nproc; cat /proc/cmdline; cat /sys/block/vdb/size; poweroff\n";
    input.write_all(script).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{printed}{errors}");
    let expected = "\n2\nconsole=ttyS0 root=/dev/vda rw\n8\n";
    assert!(
        printed.replace('\r', "").contains(expected),
        "{printed}{errors}"
    );
    let announcement = format!(" from {} and yours under hvrun in ", own.display());
    assert!(errors.contains(&announcement), "{errors}");
}

#[test]
fn files_are_those_of_the_working_directory() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("kernel"), "no kernel").unwrap();
    let output = run(lab(&["hvrun", "--kernel", "kernel"]).current_dir(directory.path()));
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.lines().last().unwrap().starts_with("hvrun: "),
        "{error}"
    );
    assert!(error.contains("kernel"), "{error}");
    assert!(!error.contains("/host"), "{error}");
}

#[test]
fn input_and_its_end_reach_the_process() {
    let directory = TempDir::new().unwrap();
    let below = directory.path().strip_prefix("/").unwrap();
    let script = format!("cat > /host/{}/copy", below.display());
    let mut child = lab(&["exec", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _watchdog = Watchdog::new(child.id());
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"all of the input")
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        fs::read(directory.path().join("copy")).unwrap(),
        b"all of the input"
    );
}

#[test]
fn a_disk_in_use_is_refused_at_once() {
    let directory = TempDir::new().unwrap();
    let image = directory.path().join("disk.img");
    fs::write(&image, [0; 4096]).unwrap();
    let _locked = Raw::open(&image, false, ImageFormat::Auto).unwrap();
    let option = format!("--disk={}", image.display());
    let output = run(&mut lab(&["hvrun", "--kernel", "Image", &option]));
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("hvrun: disk image '"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_host_kind_that_does_not_exist_is_an_error_of_one_line() {
    let output = run(lab(&["exec", "true"]).env("HVRUN_LAB_HOST", "clint"));
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stderr).lines().count(), 1);
}

#[test]
fn a_host_that_does_not_boot_is_an_error_of_one_line_that_names_the_logs() {
    let directory = TempDir::new().unwrap();
    let broken = directory.path().join("qemu");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo QEMU emulator version 10.0.0 && exit\n\
                  echo it is broken >&2\nexit 3\n";
    fs::write(&broken, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&broken, executable).unwrap();
    let output = run(lab(&["exec", "true"]).env("HVRUN_LAB_QEMU", &broken));
    assert_eq!(output.status.code(), Some(125));
    let error = text(&output.stderr);
    let last = error.lines().last().unwrap();
    assert!(
        last.contains("QEMU ended with exit status: 3: it is broken"),
        "{error}"
    );
    let logs = last.rsplit_once("its logs are in ").unwrap().1;
    let log = fs::read_to_string(Path::new(logs).join("qemu.log")).unwrap();
    assert_eq!(log, "it is broken\n");
}

#[test]
fn a_signal_reaches_the_process_and_ends_the_nested_host() {
    let mut session =
        session("trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.1; done");
    send(&session.child, Signal::SIGTERM);
    assert_eq!(session.child.wait().unwrap().code(), Some(7));
    let mut rest = String::new();
    session.output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "told\n");
    assert!(gone(&session.qemu));
}

#[test]
fn a_process_that_a_signal_ended_looks_so() {
    let mut session = session("echo ready; exec sleep 1000");
    send(&session.child, Signal::SIGINT);
    assert_eq!(
        session.child.wait().unwrap().code(),
        Some(128 + libc::SIGINT)
    );
    assert!(gone(&session.qemu));
}

#[test]
fn a_launcher_that_is_killed_leaves_nothing_behind() {
    let mut session = session("echo ready; exec sleep 1000");
    send(&session.child, Signal::SIGKILL);
    assert_eq!(session.child.wait().unwrap().signal(), Some(libc::SIGKILL));
    wait_until("QEMU is gone", || gone(&session.qemu));
}

#[test]
fn a_signal_ends_the_launcher_while_the_host_boots() {
    let mut child = lab(&["exec", "true"]).spawn().unwrap();
    let _watchdog = Watchdog::new(child.id());
    let mut found = None;
    wait_until("QEMU is there", || {
        found = qemu(child.id());
        found.is_some()
    });
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGTERM));
    wait_until("QEMU is gone", || gone(found.as_ref().unwrap()));
}

#[test]
fn an_output_that_nobody_reads_any_more_ends_the_process() {
    let Session {
        mut child,
        output,
        _watchdog,
        ..
    } = session("echo ready; exec yes");
    drop(output);
    assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGPIPE));
}

#[test]
fn a_terminal_is_handed_over_whole_and_given_back() {
    let size = |rows, columns| Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(Some(&size(31, 97)), None).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let own = || Stdio::from(slave.try_clone().unwrap());
    let mut command = lab(&["shell"]);
    command.stdin(own()).stdout(own()).stderr(own());
    // SAFETY: between fork and exec: a system call each, on nobody's memory.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut terminal = Terminal::new(master, child.id());

    terminal.wait_for("# ");
    assert!(tcgetattr(&slave).unwrap() != before, "it is raw");
    terminal.type_line("stty size");
    terminal.wait_for("31 97\r\n");
    // SAFETY: TIOCSWINSZ reads a winsize, which lives across the call.
    let resized = unsafe {
        libc::ioctl(
            terminal.master.as_raw_fd(),
            libc::TIOCSWINSZ,
            &size(40, 100),
        )
    };
    assert_eq!(resized, 0);
    // The news takes its time through two machines.
    terminal
        .type_line("while [ \"$(stty size)\" != '40 100' ]; do sleep 0.1; done; echo re''sized");
    terminal.wait_for("resized\r\n");
    // One process says that it is there and then sleeps: between two, the shell would have the terminal, and the key.
    terminal.type_line("sh -c \"echo be''fore; exec sleep 1000\"; echo af''ter");
    terminal.wait_for("before\r\n");
    terminal.type_keys(b"\x03");
    terminal.wait_for("# ");
    terminal.type_line("exit 9");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert!(tcgetattr(&slave).unwrap() == before, "it is as it was");
    assert!(!terminal.seen.contains("after"), "{}", terminal.seen);
}

/// A person at the terminal of a launcher.
struct Terminal {
    master: File,
    seen: String,
    launcher: u32,
}

impl Terminal {
    fn new(master: OwnedFd, launcher: u32) -> Self {
        Self {
            master: master.into(),
            seen: String::new(),
            launcher,
        }
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    fn type_line(&mut self, line: &str) {
        self.type_keys(format!("{line}\r").as_bytes());
    }

    /// Waits for a text and forgets all up to it.
    fn wait_for(&mut self, wanted: &str) {
        let deadline = Instant::now() + LONG;
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(wanted) {
                self.seen.drain(..at + wanted.len());
                return;
            }
            let mut fds = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&self.master),
                nix::poll::PollFlags::POLLIN,
            )];
            let ready = nix::poll::poll(&mut fds, 1000_u16).unwrap();
            let late = Instant::now() > deadline;
            if late {
                let _ = kill(Pid::from_raw(self.launcher.cast_signed()), Signal::SIGKILL);
            }
            assert!(!late, "waiting for {wanted:?}: {}", self.seen);
            if ready > 0 {
                let count = self.master.read(&mut bytes).unwrap();
                self.seen += &text(&bytes[..count]);
            }
        }
    }
}
