//! A system call that the filter of its thread does not allow: the kernel sends the thread SIGSYS, and the process ends with one
//! line that names both.
//!
//! A signal handler does this, on a thread that somebody may have taken over. So it allocates nothing, takes no lock that it would
//! have to wait for, and makes only calls that every thread may make.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::io;
use std::sync::OnceLock;

use hv_devices::thread::Role;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use syscalls::Sysno;

/// As a shell has it for a process that SIGSYS ended.
const EXIT_CODE: libc::c_int = 128 + libc::SIGSYS;

/// The program could not go on.
const EXIT_ERROR: libc::c_int = 1;

/// How long stderr may take no message, in milliseconds.
const PATIENCE: libc::c_int = 1000;

/// Done before the process ends, and what its user is told to do.
static LAST: OnceLock<(fn(), &str)> = OnceLock::new();

/// The longest name of a role.
const NAME: usize = 15;

thread_local! {
    /// The name of the thread's role, and its length. Without a destructor, so that it can be read at any moment.
    static THREAD: Cell<([u8; NAME], usize)> = const { Cell::new(([0; NAME], 0)) };
}

/// Has `last` called when the sandbox ends this process, from a signal handler: it is for putting a terminal's settings back, and
/// must not wait for anything. `advice` comes at the end of the message that says why. The first call counts.
pub fn on_violation(last: fn(), advice: &'static str) {
    let _ = LAST.set((last, advice));
}

/// Remembers the role of the calling thread.
pub fn name_thread(role: Role) {
    let name = role.name();
    let mut bytes = [0; NAME];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    THREAD.set((bytes, name.len().min(NAME)));
}

/// Has the handler called for SIGSYS.
///
/// # Errors
/// The kernel's, which are not expected.
pub fn catch() -> io::Result<()> {
    let handler = SigHandler::SigAction(handle);
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::all());
    // SAFETY: the handler does only what a signal handler may (see the module's comment).
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    // The signal must come to the thread that made the call: a thread that has it blocked is killed without a word.
    SigSet::from_iter([Signal::SIGSYS]).thread_unblock()?;
    Ok(())
}

/// What the kernel says of the call: `siginfo_t` with the `_sigsys` part of its union (include/uapi/asm-generic/siginfo.h).
#[repr(C)]
struct Info {
    signal: libc::c_int,
    error: libc::c_int,
    code: libc::c_int,
    _padding: libc::c_int,
    address: usize,
    call: libc::c_int,
    architecture: libc::c_uint,
}

/// `SYS_SECCOMP`: a filter has sent the signal.
const BY_SECCOMP: libc::c_int = 1;

extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t to a handler with SA_SIGINFO, and for this signal its union is as `Info` has it.
    let info = unsafe { &*info.cast::<Info>() };
    let mut line = Line::default();
    let (name, length) = THREAD.get();
    let name = name
        .get(..length)
        .and_then(|name| std::str::from_utf8(name).ok());
    let name = name.filter(|name| !name.is_empty()).unwrap_or("unnamed");
    let _ = if info.code == BY_SECCOMP {
        let call = usize::try_from(info.call).ok().and_then(Sysno::new);
        let call = call.map_or("unknown", |call| call.name());
        write!(
            line,
            "error: the thread {name} made the system call {call} ({}), which the sandbox does not allow it",
            info.call
        )
    } else {
        write!(line, "error: the thread {name} got the signal SIGSYS")
    };
    end(line, EXIT_CODE);
}

/// Ends the process at once with a message.
pub fn end_process(message: &str) -> ! {
    let mut line = Line::default();
    let _ = line.write_str(message);
    end(line, EXIT_ERROR)
}

fn end(mut line: Line, code: libc::c_int) -> ! {
    if let Some((last, advice)) = LAST.get() {
        last();
        let _ = write!(line, "; {advice}");
    }
    let _ = line.write_str("\n");
    let text = line.text();
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // A pipe that nobody reads may be full.
    // SAFETY: the structure lives across the call, and there is one.
    if unsafe { libc::poll(&raw mut stderr, 1, PATIENCE) } == 1 {
        // SAFETY: the text is as long as is said.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: ends the process without running anything more of it.
    unsafe { libc::_exit(code) }
}

/// A line of text without an allocation. What does not fit is cut off.
struct Line {
    bytes: [u8; 512],
    length: usize,
}

impl Default for Line {
    fn default() -> Line {
        let mut line = Line {
            bytes: [0; 512],
            length: 0,
        };
        let _ = line.write_str("hvrun: ");
        line
    }
}

impl Line {
    fn text(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
            self.length = self.length.saturating_add(1);
        }
        Ok(())
    }
}
