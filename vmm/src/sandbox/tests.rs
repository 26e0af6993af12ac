//! What a thread must not do is tried in a process of its own, which it ends: this test program, run again for one test.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use hv_devices::thread;
use vmm_sys_util::eventfd::EventFd;

use super::*;

/// Names what the process is to do.
const TASK: &str = "HVRUN_SANDBOX_TEST";

const ROLES: [Role; 9] = [
    Role::Vcpu(3),
    Role::Block(1),
    Role::Net(0),
    Role::Console,
    Role::Rng,
    Role::Vsock,
    Role::ConsoleOutput,
    Role::Messages,
    Role::EventLoop,
];

/// A call that no thread may make, by the name that is in the message.
type Forbidden = (&'static str, fn());

const FORBIDDEN: [Forbidden; 11] = [
    ("execve", || {
        let program = c"/bin/true".as_ptr();
        let arguments = [program, std::ptr::null()];
        // SAFETY: the strings and the array end as the call has it.
        unsafe { libc::execve(program, arguments.as_ptr(), arguments.as_ptr().add(1)) };
    }),
    ("openat", || {
        // SAFETY: the path is a string that ends.
        unsafe { libc::openat(libc::AT_FDCWD, c"/etc/passwd".as_ptr(), libc::O_RDONLY) };
    }),
    ("socket", || {
        // SAFETY: the call has no pointers.
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    }),
    ("ptrace", || {
        // SAFETY: the call has no pointers.
        unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0) };
    }),
    ("mmap", || {
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which nobody uses.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    }),
    ("mprotect", || {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which nobody uses.
        unsafe {
            let page = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
            libc::mprotect(page, 4096, protection | libc::PROT_EXEC);
        }
    }),
    // Of other processes.
    ("tgkill", || {
        // SAFETY: the call has no pointers, and the signal is none.
        unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
    }),
    ("kill", || {
        // SAFETY: the call has no pointers, and the signal is none.
        unsafe { libc::kill(1, 0) };
    }),
    // Types at the user's terminal.
    ("ioctl", || {
        // SAFETY: the kernel reads one byte, if it reads any.
        unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) };
    }),
    ("process_vm_readv", || {
        // SAFETY: there are no buffers.
        unsafe { libc::syscall(libc::SYS_process_vm_readv, 1, 0, 0, 0, 0, 0) };
    }),
    ("bpf", || {
        // SAFETY: the kernel refuses an attribute of no bytes.
        unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) };
    }),
];

/// Runs this program again for [`child`], which does what `task` says.
fn run(task: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::tests::child", "--nocapture"])
        .env(TASK, task)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What every thread does: it takes memory, locks, waits, tells others, reads the time and prints.
fn work() {
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let (done, waiting) = channel();
    let _confined = thread::confine(Sandbox::On.confinement().unwrap());
    for role in ROLES {
        let event = event.try_clone().unwrap();
        let done = done.clone();
        let thread = thread::spawn(role, move || {
            let buffer = vec![1_u8; 4 << 20];
            event.write(buffer[0].into()).unwrap();
            let mut random = [0; 16];
            hv_devices::entropy::fill(&mut random).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
            let stderr = std::io::stderr();
            writeln!(stderr.lock(), "{role:?} at {:?}", std::time::Instant::now()).unwrap();
            done.send(buffer.len()).unwrap();
        });
        assert_eq!(waiting.recv_timeout(hv_test_limit::LIMIT), Ok(4 << 20));
        thread.unwrap().join().unwrap();
    }
    assert_eq!(event.read().unwrap(), ROLES.len() as u64);
    assert!(event.as_raw_fd() > 2);
}

/// Something was logged.
static LOGGED: AtomicBool = AtomicBool::new(false);

/// Prints what is logged.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        eprintln!("{}", record.args());
        LOGGED.store(true, Ordering::Release);
    }

    fn flush(&self) {}
}

/// What only a vsock's thread does: it connects to a socket beside the vsock's own.
fn connect() {
    let directory = tempfile::tempdir().unwrap();
    let server = directory.path().join("v_5");
    let listener = UnixListener::bind(&server).unwrap();
    let sockets = Sockets {
        own: Vec::new(),
        vsock: Some(directory.path().join("v")),
    };
    let _confined = thread::confine(Sandbox::On.confinement_with(&sockets).unwrap());
    let thread = thread::spawn(Role::Vsock, move || {
        let mut stream = UnixStream::connect(&server).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(b"x").unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    thread.unwrap().join().unwrap();
    listener.accept().unwrap();
}

/// Does nothing as a test of its own.
#[test]
fn child() -> ExitCode {
    let Ok(task) = std::env::var(TASK) else {
        return ExitCode::SUCCESS;
    };
    match task.as_str() {
        "work" => {
            work();
            return ExitCode::SUCCESS;
        }
        "connect" => {
            connect();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let (mode, rest) = task.split_once(' ').unwrap();
    let (role, call) = rest.split_once(' ').unwrap();
    let mode = match mode {
        "on" => Sandbox::On,
        _ => Sandbox::Log,
    };
    let role = ROLES
        .into_iter()
        .find(|known| known.name() == role)
        .unwrap();
    let (_, call) = FORBIDDEN.into_iter().find(|known| known.0 == call).unwrap();
    on_violation(|| eprintln!("the terminal is put back"), "this is a test");
    // Set first and last in this process.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(log::LevelFilter::Warn);
    let confined = thread::confine(mode.confinement().unwrap());
    let twice = move || {
        call();
        call();
    };
    thread::spawn(role, twice).unwrap().join().unwrap();
    // It inherits what its maker has, which is more than it may do itself.
    if mode == Sandbox::Log && role == Role::EventLoop {
        let maker = || thread::spawn(Role::Rng, || ()).unwrap().join().unwrap();
        thread::spawn(role, maker).unwrap().join().unwrap();
    }
    drop(confined);
    // What is logged is logged after the call has gone on.
    for _ in 0..6000 {
        if mode == Sandbox::On || LOGGED.load(Ordering::Acquire) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    ExitCode::SUCCESS
}

#[test]
fn threads_of_every_role_do_their_work() {
    let output = run("work");
    let printed = stderr(&output);
    assert!(output.status.success(), "{printed}");
    for role in ROLES {
        assert!(printed.contains(&format!("{role:?} at ")), "{printed}");
    }
}

#[test]
fn a_vsock_s_thread_connects_to_sockets() {
    let output = run("connect");
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_forbidden_call_ends_the_process_and_names_thread_and_call() {
    for role in ROLES {
        for (call, _) in FORBIDDEN {
            let output = run(&format!("on {} {call}", role.name()));
            let printed = stderr(&output);
            assert_eq!(
                output.status.code(),
                Some(128 + libc::SIGSYS),
                "{role:?} {call}: {printed}"
            );
            let expected = format!(
                "error: the thread {} made the system call {call} (",
                role.name()
            );
            let position = printed.find(&expected);
            let last = printed.find("the terminal is put back");
            assert!(
                last.is_some() && last < position,
                "{role:?} {call}: {printed}"
            );
            assert!(printed.ends_with("; this is a test\n"), "{printed}");
        }
    }
}

#[test]
fn what_is_only_logged_goes_on_and_is_named_once() {
    for role in ROLES {
        for (call, _) in FORBIDDEN.into_iter().filter(|(call, _)| *call != "execve") {
            let output = run(&format!("log {} {call}", role.name()));
            let printed = stderr(&output);
            assert!(output.status.success(), "{role:?} {call}: {printed}");
            let expected = format!(
                "sandbox: the thread {} made the system call {call} (",
                role.name()
            );
            assert_eq!(
                printed.matches(&expected).count(),
                1,
                "{role:?} {call}: {printed}"
            );
            assert_eq!(printed.lines().count(), 1, "{role:?} {call}: {printed}");
        }
    }
}

#[test]
fn without_a_sandbox_nothing_is_done() {
    assert!(Sandbox::Off.confinement().unwrap().is_none());
    assert_eq!(Sandbox::default(), Sandbox::Off);
}

/// SECURITY.md has these figures of RISC-V, where two calls more are allowed than the older forms of calls on x86-64.
#[test]
fn the_calls_that_are_left_stand_in_the_documentation() {
    let security = include_str!("../../../SECURITY.md");
    let more = match cfg!(target_arch = "x86_64") {
        true => 1,
        false => 0,
    };
    let mut missing = Vec::new();
    for role in ROLES {
        let (calls, requests) = allowed(role);
        let name = match role {
            Role::EventLoop => "event loop".into(),
            Role::Vcpu(_) => "`vcpuN`: runs the guest".into(),
            Role::Block(_) => "`virtio-blk-N`".into(),
            Role::Net(_) => "`virtio-net-N`".into(),
            role => format!("`{}`", role.name()),
        };
        let row = format!("| {name} | {} | {requests} |", calls + more);
        if !security.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "not in SECURITY.md: {missing:#?}");
}
