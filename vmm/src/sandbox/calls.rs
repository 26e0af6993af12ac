//! The system calls that the threads of each role may make. Everything else is a violation.
//!
//! A call with a request or a protection among its arguments is allowed for those alone that are used: `ioctl` by its request, `mmap`
//! and `mprotect` without PROT_EXEC, `tgkill` within the process.

use std::collections::BTreeMap;
use std::fmt::Display;

use hv_devices::thread::Role;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Size, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::refusals;
use crate::Error;

/// Which calls are allowed: always, or by any of these rules.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// What every thread needs: its stack and heap, locks, the time, and to tell others by eventfds. To report a panic it writes to
/// stderr, and puts the terminal back ([`TERMINAL`]).
const EVERY_THREAD: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The C library flushes the instruction cache and looks for extensions when it pleases.
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: &[i64] = &[RISCV_HWPROBE, RISCV_FLUSH_ICACHE];

/// arch/riscv/include/uapi/asm/unistd.h.
#[cfg(target_arch = "riscv64")]
const RISCV_HWPROBE: i64 = 258;
#[cfg(target_arch = "riscv64")]
const RISCV_FLUSH_ICACHE: i64 = 259;

/// The older forms of calls, which the C library uses where an architecture has them.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &[i64] = &[libc::SYS_poll];

#[cfg(not(any(target_arch = "riscv64", target_arch = "x86_64")))]
const ARCHITECTURE: &[i64] = &[];

/// Reads and writes of a disk, where they do not wait.
const DISK: &[i64] = &[
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
];

/// What else is done with a disk.
const WHOLE_DISK: &[i64] = &[libc::SYS_fdatasync, libc::SYS_fsync, libc::SYS_fallocate];

/// A vCPU's own timers, and the alarm of the real-time clock.
const TIMERS: &[i64] = &[
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_timerfd_settime,
];

/// What the last vCPU of a machine does before it ends: by Linux's version it visits each of the host's harts, and clears a timer
/// there that KVM has left.
const LAST_VCPU: &[i64] = &[
    libc::SYS_uname,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_rt_sigtimedwait,
];

/// To wait for many things.
const WAIT_FOR_MANY: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
];

/// For both ends of a vsock's connections. `socket` is allowed for Unix sockets alone ([`calls`]).
const VSOCK: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// For clients of a console, and to make a machine anew: its memory, threads and events.
const EVENT_LOOP: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_eventfd2,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_timerfd_create,
    libc::SYS_rt_sigaction,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_seccomp,
    libc::SYS_capset,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
];

/// The parts of an ioctl's request that name it (include/uapi/asm-generic/ioctl.h): type and number, without the direction and the
/// size of its argument.
const NAME: u64 = 0xffff;

const fn request(kind: u8, number: u8) -> u64 {
    (kind as u64) << 8 | number as u64
}

/// Put the terminal back: TCGETS, TCSETS, TCSETSW.
const TERMINAL: &[u64] = &[
    request(b'T', 0x01),
    request(b'T', 0x02),
    request(b'T', 0x03),
];

/// TIOCGWINSZ.
const WINDOW: &[u64] = &[request(b'T', 0x13)];

/// A client's socket does not block: FIONBIO.
const CLIENT: &[u64] = &[request(b'T', 0x21)];

/// Of KVM (include/uapi/linux/kvm.h), the one that matters first: KVM_RUN.
const RUN: &[u64] = &[request(0xae, 0x80)];

/// A device's interrupt: KVM_INTERRUPT at a vCPU (PLIC), KVM_IRQ_LINE at the machine (AIA).
const INTERRUPT: &[u64] = &[request(0xae, 0x86), request(0xae, 0x61)];

/// A vCPU's registers and state: KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_GET_MP_STATE, KVM_SET_SIGNAL_MASK.
const VCPU: &[u64] = &[
    request(0xae, 0xab),
    request(0xae, 0xac),
    request(0xae, 0x98),
    request(0xae, 0x8b),
];

/// To make a machine: KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION,
/// KVM_IRQFD, KVM_IOEVENTFD, KVM_CREATE_DEVICE, KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_GET_REG_LIST.
const MACHINE: &[u64] = &[
    request(0xae, 0x01),
    request(0xae, 0x03),
    request(0xae, 0x04),
    request(0xae, 0x41),
    request(0xae, 0x46),
    request(0xae, 0x76),
    request(0xae, 0x79),
    request(0xae, 0xe0),
    request(0xae, 0xe1),
    request(0xae, 0xe2),
    request(0xae, 0xb0),
];

/// Discard on a block device (include/uapi/linux/fs.h): BLKDISCARD, BLKZEROOUT.
const BLOCK: &[u64] = &[request(0x12, 119), request(0x12, 127)];

/// A tap interface (include/uapi/linux/if_tun.h): TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNSETVNETLE.
const TAP: &[u64] = &[request(b'T', 208), request(b'T', 216), request(b'T', 220)];

/// vhost (include/uapi/linux/vhost.h): VHOST_GET_FEATURES, VHOST_SET_FEATURES, VHOST_SET_OWNER, VHOST_RESET_OWNER,
/// VHOST_SET_MEM_TABLE, VHOST_SET_VRING_NUM, _ADDR, _BASE, VHOST_GET_VRING_BASE, VHOST_SET_VRING_KICK, _CALL, _ERR,
/// VHOST_NET_SET_BACKEND.
const VHOST: &[u64] = &[
    request(0xaf, 0x00),
    request(0xaf, 0x01),
    request(0xaf, 0x02),
    request(0xaf, 0x03),
    request(0xaf, 0x10),
    request(0xaf, 0x11),
    request(0xaf, 0x12),
    request(0xaf, 0x20),
    request(0xaf, 0x21),
    request(0xaf, 0x22),
    request(0xaf, 0x30),
];

/// The calls, and the requests of ioctl, of a role.
fn lists(role: Role) -> (Vec<&'static [i64]>, Vec<&'static [u64]>) {
    match role {
        Role::Vcpu(_) => (vec![DISK, TIMERS, LAST_VCPU], vec![RUN, INTERRUPT, VCPU]),
        Role::Block(_) => (vec![DISK, WHOLE_DISK], vec![INTERRUPT, BLOCK]),
        Role::Net(_) => (
            vec![&[libc::SYS_readv, libc::SYS_eventfd2, libc::SYS_fcntl]],
            vec![INTERRUPT, TAP, VHOST],
        ),
        Role::Console => (vec![WAIT_FOR_MANY], vec![INTERRUPT, WINDOW]),
        Role::Rng => (vec![], vec![INTERRUPT]),
        Role::Vsock => (vec![WAIT_FOR_MANY, VSOCK], vec![INTERRUPT, CLIENT]),
        Role::ConsoleOutput => (vec![&[libc::SYS_sendto]], vec![]),
        Role::Messages => (vec![], vec![]),
        // It makes the other threads anew, which have its filter too.
        Role::EventLoop => {
            let others: [&[i64]; 7] = [
                WAIT_FOR_MANY,
                LAST_VCPU,
                DISK,
                WHOLE_DISK,
                TIMERS,
                EVENT_LOOP,
                &[libc::SYS_readv, libc::SYS_sendto],
            ];
            let requests: [&[u64]; 9] = [
                RUN, INTERRUPT, VCPU, CLIENT, MACHINE, BLOCK, TAP, VHOST, WINDOW,
            ];
            (others.to_vec(), requests.to_vec())
        }
    }
}

type Result<T> = std::result::Result<T, seccompiler::BackendError>;

fn rule(argument: u8, operator: Is, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, Size::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}

fn calls(role: Role) -> Result<Calls> {
    let (lists, requests) = lists(role);
    let always = [EVERY_THREAD, ARCHITECTURE].into_iter().chain(lists);
    let mut calls: Calls = always.flatten().map(|call| (*call, Vec::new())).collect();
    let requests = requests.into_iter().chain([TERMINAL]).flatten();
    let requests = requests.map(|request| rule(1, Is::MaskedEq(NAME), *request));
    calls.insert(libc::SYS_ioctl, requests.collect::<Result<_>>()?);
    // Whether a descriptor is open, which Rust's library checks in debug builds.
    let open = rule(1, Is::Eq, u64::from(libc::F_GETFD.unsigned_abs()))?;
    calls.entry(libc::SYS_fcntl).or_insert_with(|| vec![open]);
    // Memory that is written is never executed.
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        calls.insert(call, vec![rule(2, Is::MaskedEq(executable), 0)?]);
    }
    if role == Role::EventLoop {
        let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
        calls.insert(
            libc::SYS_clone,
            vec![rule(0, Is::MaskedEq(thread), thread)?],
        );
        // What a thread does when it starts.
        let options = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS];
        let options = options.map(|option| rule(0, Is::Eq, u64::from(option.unsigned_abs())));
        calls.insert(libc::SYS_prctl, options.into_iter().collect::<Result<_>>()?);
    }
    if role == Role::Vsock {
        let unix = u64::from(libc::AF_UNIX.unsigned_abs());
        calls.insert(libc::SYS_socket, vec![rule(0, Is::Eq, unix)?]);
    }
    if let Some(rules) = calls.get_mut(&libc::SYS_sched_setaffinity) {
        // Its own.
        rules.push(rule(0, Is::Eq, 0)?);
    }
    // Of abort(3).
    let abort = rule(0, Is::Eq, u64::from(libc::SIGABRT.unsigned_abs()))?;
    calls
        .entry(libc::SYS_rt_sigaction)
        .or_insert_with(|| vec![abort]);
    // To abort, and to call a vCPU out of the guest.
    let process = u64::from(std::process::id());
    calls.insert(libc::SYS_tgkill, vec![rule(0, Is::Eq, process)?]);
    Ok(calls)
}

/// How many system calls a thread of this role may make, and how many requests of ioctl.
#[must_use]
pub fn allowed(role: Role) -> (usize, usize) {
    let calls = calls(role).unwrap_or_default();
    let requests = calls.get(&libc::SYS_ioctl).map_or(0, Vec::len);
    (calls.len(), requests)
}

/// Checks that the host's kernel has seccomp filters.
///
/// # Errors
/// It has none.
pub fn require_filters() -> std::result::Result<(), Error> {
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads the action, which lives across the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(Error::NoSeccomp),
    }
}

/// The requests of ioctl that are made for almost every exit, as they are (include/uapi/linux/kvm.h): KVM_RUN, KVM_INTERRUPT,
/// KVM_IRQ_LINE.
const FREQUENT: [u32; 3] = [0xae80, 0x4004_ae86, 0x4008_ae61];

fn program(role: Role, refused: SeccompAction) -> Result<BpfProgram> {
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(calls(role)?, refused, SeccompAction::Allow, target)?;
    let filter: BpfProgram = filter.try_into()?;
    let (_, requests) = lists(role);
    let requests = requests.concat();
    let frequent = FREQUENT
        .into_iter()
        .filter(|request| requests.contains(&(u64::from(*request) & NAME)));
    Ok(short_cut(&filter, &frequent.collect::<Vec<_>>()))
}

/// A filter that allows these requests of ioctl after few instructions, and is `filter` otherwise.
///
/// The kernel knows of most calls that a filter allows them in any case, and does not run it (kernel/seccomp.c:
/// `seccomp_cache_check_allow`). A call whose arguments are looked at is not among them, and where the kernel interprets filters
/// (`net.core.bpf_jit_enable` is 0, as by default on RISC-V), each instruction costs some tens of the processor's.
fn short_cut(filter: &[sock_filter], requests: &[u32]) -> BpfProgram {
    let load = |offset| sock_filter {
        code: LOAD,
        jt: 0,
        jf: 0,
        k: offset,
    };
    let unless_equal = |k, jf| sock_filter {
        code: JUMP_IF_EQUAL,
        jt: 0,
        jf,
        k,
    };
    let allow = sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    // `filter` begins with a look at the architecture, which has to be right before a number means anything.
    let Some([architecture, is_right]) = filter.first_chunk::<2>() else {
        return filter.to_vec();
    };
    let rest = u8::try_from(2 * requests.len()).unwrap_or(u8::MAX);
    let mut program = vec![
        architecture.clone(),
        unless_equal(is_right.k, rest.saturating_add(3)),
        load(NUMBER),
        unless_equal(IOCTL, rest.saturating_add(1)),
        load(REQUEST),
    ];
    for request in requests {
        program.push(unless_equal(*request, 1));
        program.push(allow.clone());
    }
    program.extend_from_slice(filter);
    program
}

/// Classic BPF (include/uapi/linux/bpf_common.h): loads a word, jumps if it is equal, returns.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` (include/uapi/linux/seccomp.h) has the call's number, and the lower half of its second argument.
const NUMBER: u32 = 0;
#[cfg(target_endian = "little")]
const REQUEST: u32 = 24;
#[cfg(target_endian = "big")]
const REQUEST: u32 = 28;

/// ioctl's number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is below a thousand.
const IOCTL: u32 = libc::SYS_ioctl as u32;

/// Has the kernel check the calling thread's system calls from now on.
///
/// # Errors
/// What it cannot do, in words.
pub fn filter(role: Role) -> std::result::Result<(), String> {
    let program = program(role, SeccompAction::Trap).map_err(unmade)?;
    apply_filter(&program).map_err(uninstalled)
}

/// Has the kernel ask about the calling thread's system calls that [`filter`] would refuse.
///
/// # Errors
/// What it cannot do, in words.
pub fn ask(role: Role) -> std::result::Result<(), String> {
    let mut program = program(role, SeccompAction::Log).map_err(unmade)?;
    // The crate has no action for it.
    for instruction in &mut program {
        let returns = u32::from(instruction.code) == libc::BPF_RET | libc::BPF_K;
        if returns && instruction.k == libc::SECCOMP_RET_LOG {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    refusals::install(&program, role).map_err(uninstalled)
}

fn unmade(error: impl Display) -> String {
    format!("make its filter: {error}")
}

fn uninstalled(error: impl Display) -> String {
    format!("install its seccomp filter: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict of a filter on a call, and how many instructions it takes.
    #[allow(clippy::cast_possible_truncation)] // The halves of a word.
    fn judge(filter: &[sock_filter], number: u32, request: u64) -> (u32, usize) {
        let architecture = filter[1].k;
        let mut accumulator = 0;
        let mut next = 0;
        for count in 1.. {
            let instruction = &filter[next];
            next += 1;
            let (taken, k) = match instruction.code {
                0x20 => {
                    accumulator = match instruction.k {
                        NUMBER => number,
                        4 => architecture,
                        REQUEST => request as u32,
                        28 => (request >> 32) as u32,
                        _ => 0,
                    };
                    continue;
                }
                0x54 => {
                    accumulator &= instruction.k;
                    continue;
                }
                0x05 => {
                    next += instruction.k as usize;
                    continue;
                }
                0x06 => return (instruction.k, count),
                0x15 => (accumulator == instruction.k, instruction),
                0x25 => (accumulator > instruction.k, instruction),
                0x35 => (accumulator >= instruction.k, instruction),
                other => panic!("an instruction {other:#x}"),
            };
            next += usize::from(if taken { k.jt } else { k.jf });
        }
        unreachable!()
    }

    #[test]
    fn a_short_cut_changes_nothing_but_the_way() {
        for role in [
            Role::Vcpu(0),
            Role::Block(0),
            Role::Rng,
            Role::Messages,
            Role::EventLoop,
        ] {
            let target = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let calls = calls(role).unwrap();
            let plain =
                SeccompFilter::new(calls, SeccompAction::Trap, SeccompAction::Allow, target);
            let plain: BpfProgram = plain.unwrap().try_into().unwrap();
            let program = program(role, SeccompAction::Trap).unwrap();
            let requests = FREQUENT
                .into_iter()
                .chain([0x5401, 0x5412, 0xae41, 0xae81, 0]);
            for request in requests {
                // The kernel takes the lower half of a request alone.
                for request in [u64::from(request), u64::from(request) | 1 << 32] {
                    for number in 0..500 {
                        assert_eq!(
                            judge(&program, number, request).0,
                            judge(&plain, number, request).0,
                            "{role:?}: call {number}, {request:#x}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_each_exit_makes_is_judged_at_once() {
        let program = program(Role::Vcpu(0), SeccompAction::Trap).unwrap();
        for request in FREQUENT {
            let (verdict, instructions) = judge(&program, IOCTL, request.into());
            assert_eq!(verdict, libc::SECCOMP_RET_ALLOW);
            assert!(instructions <= 9, "{instructions} for {request:#x}");
        }
    }
}
