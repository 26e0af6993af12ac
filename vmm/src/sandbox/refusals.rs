//! System calls that would be refused, when they are only to be logged: the kernel holds the thread, asks a listener
//! (seccomp_unotify(2)), which says what the call is and has it go on.
//!
//! The kernel could log such a call itself (SECCOMP_RET_LOG), but for the administrator alone, by its number alone, and only so
//! many.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use hv_devices::thread::Role;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use syscalls::Sysno;

/// A thread's filter, and the name of the thread.
#[derive(Debug)]
struct Listener {
    descriptor: OwnedFd,
    thread: String,
}

/// What threads have for the thread that listens.
#[derive(Debug)]
struct Desk {
    new: Mutex<Vec<Listener>>,
    /// Takes a byte for each.
    wake: PipeWriter,
}

/// There is one in the process, as its threads' filters stay as long as they do.
static DESK: OnceLock<Desk> = OnceLock::new();

/// Starts the thread that listens, if there is none yet.
///
/// # Errors
/// The host has no descriptor or no thread left.
pub fn listen() -> io::Result<()> {
    let (woken, wake) = io::pipe()?;
    let desk = Desk {
        new: Mutex::default(),
        wake,
    };
    if DESK.set(desk).is_err() {
        return Ok(());
    }
    // Signals are for the threads that wait for them.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // Not one of a machine's threads, and confined by nothing: nobody would answer for it.
    let thread = std::thread::Builder::new().name("sandbox-log".into());
    let thread = thread.spawn(move || answer_all(woken));
    before.thread_set_mask()?;
    thread.map(drop)
}

/// Has the kernel check the calling thread's system calls from now on by `program`, whose verdict for those that would be refused is
/// SECCOMP_RET_USER_NOTIF. A thread that has such a filter from its maker stays with that one: Linux has one listener for each
/// thread.
///
/// # Errors
/// The kernel's, which are not expected.
pub fn install(program: &[seccompiler::sock_filter], role: Role) -> io::Result<()> {
    // SAFETY: the call has no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program is as long as it says and lives across the call, which only reads it.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if descriptor < 0 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            error => Err(error),
        };
    }
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    let listener = Listener {
        // SAFETY: the kernel has just made it, for nobody else.
        descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) },
        thread: role.name(),
    };
    // What is done from here on, every thread may do: nobody listens yet.
    if let Some(desk) = DESK.get() {
        let mut new = desk.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.push(listener);
        drop(new);
        (&desk.wake).write_all(&[0])?;
    }
    Ok(())
}

/// Answers for all threads until the process ends.
fn answer_all(mut woken: PipeReader) {
    let Some(desk) = DESK.get() else { return };
    let mut listeners: Vec<Listener> = Vec::new();
    let mut told = BTreeSet::new();
    loop {
        let wake = PollFd::new(woken.as_fd(), PollFlags::POLLIN);
        let each = listeners.iter();
        let each = each.map(|one| PollFd::new(one.descriptor.as_fd(), PollFlags::POLLIN));
        let mut all: Vec<PollFd> = std::iter::once(wake).chain(each).collect();
        // It fails only where memory is short, and then there is nothing to answer.
        let _ = poll(&mut all, PollTimeout::NONE);
        let ready = all
            .iter()
            .map(|one| one.revents().unwrap_or(PollFlags::empty()));
        let mut ready: VecDeque<PollFlags> = ready.collect();
        let more = ready
            .pop_front()
            .is_some_and(|ready| ready.contains(PollFlags::POLLIN));
        for (listener, ready) in listeners.iter().zip(&ready) {
            if ready.contains(PollFlags::POLLIN)
                && let Ok(call) = answer(&listener.descriptor)
                && told.insert((listener.thread.clone(), call))
            {
                log::warn!(
                    "sandbox: the thread {} made {call}, which it is not allowed to make",
                    listener.thread
                );
            }
        }
        // Without a thread that has the filter.
        listeners.retain(|_| {
            let ready = ready.pop_front();
            ready.is_none_or(|ready| !ready.contains(PollFlags::POLLHUP))
        });
        if more && woken.read(&mut [0]).is_ok() {
            let mut new = desk.new.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.append(&mut new);
        }
    }
}

/// A system call, and its second argument where that says what the call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    number: libc::c_int,
    request: Option<u64>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let known = usize::try_from(self.number).ok().and_then(Sysno::new);
        let name = known.map_or("unknown", |known| known.name());
        write!(f, "the system call {name} ({})", self.number)?;
        match self.request {
            Some(request) => write!(f, " with the request {request:#x}"),
            None => Ok(()),
        }
    }
}

nix::ioctl_readwrite!(
    /// SECCOMP_IOCTL_NOTIF_RECV (include/uapi/linux/seccomp.h).
    receive, b'!', 0, libc::seccomp_notif
);
nix::ioctl_readwrite!(
    /// SECCOMP_IOCTL_NOTIF_SEND.
    send, b'!', 1, libc::seccomp_notif_resp
);

/// Has a call go on that the kernel asks about.
///
/// # Errors
/// It was interrupted by a signal, and comes again.
fn answer(listener: &OwnedFd) -> nix::Result<Call> {
    // SAFETY: a structure of integers.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes the structure that its header says, which has to be zero before.
    unsafe { receive(listener.as_raw_fd(), &raw mut asked) }?;
    let mut answer = libc::seccomp_notif_resp {
        id: asked.id,
        val: 0,
        error: 0,
        flags: u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or_default(),
    };
    // SAFETY: the kernel reads the structure that its header says.
    unsafe { send(listener.as_raw_fd(), &raw mut answer) }?;
    let number = asked.data.nr;
    let [_, request, ..] = asked.data.args;
    Ok(Call {
        number,
        request: (libc::c_long::from(number) == libc::SYS_ioctl).then_some(request),
    })
}
