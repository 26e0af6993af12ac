//! The signals that the program gets from outside, and those that report a fault in it.

use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::terminal;

/// The signals that end a machine in an orderly way, with all real-time signals: all that would otherwise end the process, except
/// those that report a fault in it.
const ENDING: [Signal; 13] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGXCPU,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
];

/// The signals of a fault in the process, and that of abort(3).
const FAULTS: [Signal; 6] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGTRAP,
];

/// Has a write beyond the limit of a file's size (ulimit -f) fail as on a full disk, instead of ending the process. To be called
/// before there are threads.
pub fn ignore_file_size_limit() {
    // SAFETY: to ignore a signal runs no code of ours.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Has the terminal's settings put back when a fault ends the process, by an instruction of its own, the host's memory, or `kill`.
pub fn restore_terminal_at_faults() {
    // The default action is back when the handler runs, so that the signal ends the process after it.
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::Handler(fault), flags, SigSet::empty());
    for signal in FAULTS {
        // SAFETY: the handler does only what a signal handler may: it takes no lock that it would have to wait for.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

extern "C" fn fault(number: libc::c_int) {
    terminal::restore();
    if let Ok(signal) = Signal::try_from(number) {
        // It waits until the handler returns.
        let _ = raise(signal);
    }
}

/// A descriptor that becomes readable at a signal that ends the machine. To be called before the first thread is made, so that
/// all of them have these signals blocked.
///
/// # Errors
/// The host has no file descriptor left.
pub fn endings() -> nix::Result<SignalFd> {
    descriptor(&ending(is_ignored(libc::SIGHUP)))
}

/// Has the terminal made raw again whenever the process goes on after it was stopped.
pub fn make_raw_when_continued() {
    let action = SigAction::new(
        SigHandler::Handler(continue_here),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler does only what a signal handler may, and leaves errno as it was.
    let _ = unsafe { sigaction(Signal::SIGCONT, &action) };
}

/// A descriptor that becomes readable at SIGCONT, by which a user without a terminal has a paused guest go on. For one machine.
///
/// # Errors
/// The host has no file descriptor left.
pub fn continued() -> nix::Result<OwnedFd> {
    // SAFETY: no memory is touched.
    let event = Errno::result(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: it was made for this value alone.
    let event = unsafe { OwnedFd::from_raw_fd(event) };
    // It stays open, as the handler may run at any time.
    let ours = fcntl(&event, FcntlArg::F_DUPFD_CLOEXEC(0))?;
    CONTINUED.store(ours, Ordering::Relaxed);
    make_raw_when_continued();
    Ok(event)
}

/// Where SIGCONT is told of; negative if nowhere.
static CONTINUED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn continue_here(_: libc::c_int) {
    let errno = Errno::last_raw();
    terminal::make_raw_again();
    let event = CONTINUED.load(Ordering::Relaxed);
    if event >= 0 {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: 8 bytes, which live across the call. It fails only if the counter overflows.
        let _ = unsafe { libc::write(event, one.as_ptr().cast(), one.len()) };
    }
    Errno::set_raw(errno);
}

/// A descriptor that becomes readable when the terminal has changed its size. To be called before the first thread is made.
///
/// # Errors
/// The host has no file descriptor left.
pub fn size_changes() -> nix::Result<OwnedFd> {
    descriptor(&SigSet::from_iter([Signal::SIGWINCH])).map(OwnedFd::from)
}

/// The signals that end the machine. Who has started hvrun with nohup(1) wants it to outlive the terminal. A signal that is blocked
/// arrives although it is ignored, so that one must not be blocked.
fn ending(nohup: bool) -> SigSet {
    let named = ENDING
        .into_iter()
        .filter(|signal| !nohup || *signal != Signal::SIGHUP);
    let mut signals = *SigSet::from_iter(named).as_ref();
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        // SAFETY: the call changes one set, which lives across it.
        unsafe { libc::sigaddset(&raw mut signals, number) };
    }
    // SAFETY: a set that was made by the library's own functions.
    unsafe { SigSet::from_sigset_t_unchecked(signals) }
}

/// Whether the process was started with this signal ignored.
fn is_ignored(number: libc::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and what is written is one structure, which lives across the call.
    let result = unsafe { libc::sigaction(number, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: numbers and an address that nobody follows; zeroed if the call has not written it.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Blocks the signals, and has them arrive by a descriptor.
fn descriptor(signals: &SigSet) -> nix::Result<SignalFd> {
    signals.thread_block()?;
    SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(signals: &SigSet, number: libc::c_int) -> bool {
        // SAFETY: the call reads one set, which lives across it.
        unsafe { libc::sigismember(signals.as_ref(), number) == 1 }
    }

    /// Those whose default action is to end the process (signal(7)).
    #[test]
    fn what_would_end_the_process_ends_the_machine_or_is_a_fault() {
        let left_alone = [
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGSYS,
            // Ignored by Rust's runtime and by us.
            libc::SIGPIPE,
            libc::SIGXFSZ,
            // Their default action is another.
            libc::SIGCHLD,
            libc::SIGCONT,
            libc::SIGTSTP,
            libc::SIGTTIN,
            libc::SIGTTOU,
            libc::SIGURG,
            libc::SIGWINCH,
        ];
        let signals = ending(false);
        for number in 1..32 {
            let is_fault = FAULTS.iter().any(|fault| *fault as libc::c_int == number);
            let ways = [
                has(&signals, number),
                is_fault,
                left_alone.contains(&number),
            ];
            assert_eq!(
                ways.iter().filter(|way| **way).count(),
                1,
                "signal {number}"
            );
        }
        assert!((libc::SIGRTMIN()..=libc::SIGRTMAX()).all(|number| has(&signals, number)));
        let others = ending(true);
        for number in 1..=libc::SIGRTMAX() {
            let expected = has(&signals, number) && number != libc::SIGHUP;
            assert_eq!(has(&others, number), expected, "signal {number}");
        }
    }

    #[test]
    fn an_ignored_signal_is_told_from_one_that_is_not() {
        // Rust's runtime does so before main.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGHUP));
    }
}
