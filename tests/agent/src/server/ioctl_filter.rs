//! Refusing a process some of its ioctls, by a seccomp filter (seccomp(2)), which outlives exec. So a test sees what a program
//! makes of a kernel that says no.

use std::io;

/// The filter, ready before the fork.
pub(super) struct IoctlFilter(Vec<libc::sock_filter>);

/// Offsets in `struct seccomp_data` (linux/seccomp.h): the system call's number, and the lower half of its second argument.
const NUMBER: u32 = 0;
const REQUEST: u32 = 24;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

impl IoctlFilter {
    /// Answers these requests with these error numbers, and leaves everything else alone.
    pub(super) fn new(refused: &[(u32, u16)]) -> Self {
        if refused.is_empty() {
            return Self(Vec::new());
        }
        let ioctl = u32::try_from(libc::SYS_ioctl).unwrap_or(u32::MAX);
        let mut program = vec![
            instruction(LOAD, NUMBER, 0),
            // Everything but an ioctl passes.
            instruction(JUMP_IF_EQUAL, ioctl, 1),
            instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0),
            instruction(LOAD, REQUEST, 0),
        ];
        for (request, errno) in refused {
            // Another request jumps over the refusal.
            program.push(instruction(JUMP_IF_EQUAL, *request, 1));
            program.push(instruction(libc::BPF_JMP | libc::BPF_JA, 1, 0));
            program.push(instruction(
                RETURN,
                libc::SECCOMP_RET_ERRNO | u32::from(*errno),
                0,
            ));
        }
        program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0));
        Self(program)
    }

    /// Filters the system calls of this process from now on. It makes system calls alone, as is right between fork and exec.
    pub(super) fn install(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: integers.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        // SAFETY: the program lives across the call, which copies and never writes it.
        check(unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        })
    }
}

/// An instruction; `if_true` is how many are skipped if its comparison holds.
fn instruction(code: u32, k: u32, if_true: u8) -> libc::sock_filter {
    libc::sock_filter {
        // The codes are 16 bits wide, though libc's constants are not.
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: if_true,
        jf: 0,
        k,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn nothing_is_filtered_unless_asked_for() {
        assert!(IoctlFilter::new(&[]).0.is_empty());
    }

    /// A real process: the shell asks by an ioctl whether its input is a terminal (isatty(3)), and says no either way; what
    /// tells is the error number, which `stty` prints.
    #[test]
    fn a_process_is_refused_what_it_is_to_be_refused() {
        let message = |refused: &[(u32, u16)]| {
            let filter = IoctlFilter::new(refused);
            let mut command = Command::new("stty");
            // SAFETY: `install` makes system calls alone.
            unsafe { command.pre_exec(move || filter.install()) };
            let output = command
                .env("LC_ALL", "C")
                .stdin(std::fs::File::open("/dev/null").unwrap())
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let request = |number: libc::Ioctl| u32::try_from(number).unwrap();
        let errno = |number: i32| u16::try_from(number).unwrap();
        let get = (request(libc::TCGETS), errno(libc::EXDEV));
        let other = (request(libc::TIOCSTI), errno(libc::ENOSPC));
        // Newer C libraries ask by another request.
        let get2 = (0x802c_542a, errno(libc::EXDEV));
        for refused in [&[other, get, get2][..], &[get, get2]] {
            let message = message(refused);
            assert!(message.contains("cross-device"), "{message}");
        }
        let message = message(&[other]);
        assert!(message.contains("Inappropriate ioctl"), "{message}");
    }
}
