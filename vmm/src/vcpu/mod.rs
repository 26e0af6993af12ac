//! The thread of one vCPU: it runs the guest, answers what KVM cannot, and does what its mailbox says.

pub mod counters;
mod mailbox;
pub mod sbi_platform;
mod seed;
pub mod stale_timer;
mod thread_timer;
pub mod wakeup;

use std::convert::Infallible;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use hv_core::addr::GuestPhysAddr;
use hv_core::ending::End as GuestEnd;
use hv_core::sbi::{self, srst};
use hv_core::trap::{self, Exception, cause};
use hv_devices::bus::Bus;
use hv_devices::thread::{self, Role};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

use crate::Error;
use crate::control::ending::{End, Ending};
use crate::kvm::isa::ReadRegister;
use crate::kvm::register::{Core, Csr, Register};
use crate::kvm::{Exit, Vcpu};
use crate::vcpu::sbi_platform::SbiPlatform;
use crate::vcpu::seed::Seed;
use crate::vcpu::thread_timer::ThreadTimer;
use crate::vcpu::wakeup::Wakeup;

/// The seed CSR of Zkr (RISC-V Cryptography Extensions, "The seed CSR").
const CSR_SEED: u16 = 0x015;

pub use mailbox::{Command, Mailbox};

/// After how long a thread that shall leave the guest is told so once more.
pub const REPEAT: Duration = Duration::from_millis(1);

/// The signal that makes a vCPU thread leave the guest. Its handler does nothing.
///
/// It is none of the real-time signals: Linux queues those, and refuses them where the user has too many signals pending
/// (RLIMIT_SIGPENDING). Then no vCPU could be stopped.
const KICK: Signal = Signal::SIGURG;

/// What the threads of one boot share.
pub struct Shared {
    /// The devices.
    pub bus: Bus,
    /// How the run ends.
    pub ending: Arc<Ending>,
    /// Wakes the machine when it is suspended.
    pub wakeup: Arc<Wakeup>,
    /// Whether KVM takes the counters from the guest's user programs at each start of a hart, and a hart can be started.
    pub watch_counters: bool,
    /// Written each time a thread has left the guest to pause.
    pub outside: EventFd,
}

/// A vCPU in a thread of its own.
pub struct VcpuThread {
    thread: JoinHandle<Vcpu>,
    mailbox: Arc<Mailbox>,
}

impl VcpuThread {
    /// Starts the thread of this hart's vCPU, which begins with `command`, and drops `running` when it is about to end.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(
        hart: u32,
        vcpu: Vcpu,
        shared: Arc<Shared>,
        platform: SbiPlatform,
        command: Command,
        leave: Leave,
        running: Sender<Infallible>,
    ) -> io::Result<VcpuThread> {
        register_signal_handler(KICK as libc::c_int, ignore)?;
        let mailbox = Arc::new(Mailbox::new(command));
        let mut hart = Hart {
            id: hart,
            vcpu,
            mailbox: mailbox.clone(),
            shared,
            platform,
            seed: Seed::default(),
        };
        let thread = thread::spawn(Role::Vcpu(hart.id), move || {
            let mut watch = hart.shared.watch_counters.then(CounterWatch::new);
            hart.run(&mut watch);
            hart.mailbox.leave();
            drop(watch);
            if let Leave::Last(others) = &leave {
                // Nothing is ever sent: it ends when the others have.
                let _ = others.recv();
                stale_timer::clear(&mut hart.vcpu);
            }
            drop(leave);
            drop(running);
            hart.vcpu
        })?;
        Ok(VcpuThread { thread, mailbox })
    }

    /// Leaves a command in the mailbox of each thread.
    pub fn tell_all(threads: &[VcpuThread], command: Command) {
        for thread in threads {
            thread.mailbox.tell(command);
        }
    }

    /// Has the threads leave the guest that are still in it, after [`Command::Pause`] or [`Command::Finish`]. Returns
    /// whether none was: else this has to be repeated, as a signal that arrives just before KVM_RUN is lost.
    pub fn call_out(threads: &[VcpuThread]) -> bool {
        let mut none = true;
        let inside =
            |thread: &&VcpuThread| !thread.mailbox.is_outside() && !thread.thread.is_finished();
        for VcpuThread { thread, .. } in threads.iter().filter(inside) {
            none = false;
            if let Err(error) = pthread_kill(thread.as_pthread_t(), KICK) {
                log::error!("cannot stop a vCPU: {error}");
            }
        }
        none
    }

    /// Waits until the threads have returned, having been told to finish, and with them their vCPUs. `running` is the
    /// receiver of the channel whose senders they drop.
    pub fn join_all(threads: Vec<VcpuThread>, running: &Receiver<Infallible>) {
        // Nothing is ever sent: it ends when the threads have.
        while !VcpuThread::call_out(&threads)
            && running.recv_timeout(REPEAT) == Err(RecvTimeoutError::Timeout)
        {}
        for VcpuThread { thread, .. } in threads {
            // A panic of the thread has been reported by the panic itself.
            drop(thread.join());
        }
    }
}

/// When a vCPU's thread ends: the last one looks that the guest leaves nothing behind in the host's harts. It is a vCPU's
/// thread that does so because KVM waits for all harts, milliseconds, when a vCPU comes to another thread.
pub enum Leave {
    /// When it is told to.
    Early(#[expect(dead_code, reason = "it counts that it is there")] Sender<Infallible>),
    /// When every sender of this channel is gone.
    Last(Receiver<Infallible>),
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Calls the thread of a hart out of KVM_RUN now and then, to give the guest's programs the counters that KVM took.
struct CounterWatch {
    watch: counters::Watch,
    /// `None` if the system has no timer left.
    timer: Option<ThreadTimer>,
}

impl CounterWatch {
    fn new() -> Self {
        let timer = ThreadTimer::new(KICK as libc::c_int).inspect_err(|error| {
            log::warn!(
                "user programs of the guest may be unable to read the time: cannot make a timer: {error}; raise the limit \
                 on pending signals ('ulimit -i')"
            );
        });
        Self {
            watch: counters::Watch::default(),
            timer: timer.ok(),
        }
    }

    fn look(&mut self, vcpu: &Vcpu) {
        let again = self.watch.look(vcpu);
        if let Some(timer) = &mut self.timer
            && let Err(error) = timer.repeat(again)
        {
            log::debug!("cannot set a vCPU's timer: {error}");
        }
    }
}

struct Hart {
    id: u32,
    vcpu: Vcpu,
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    platform: SbiPlatform,
    seed: Seed,
}

/// What to do with the vCPU after an exit has been answered.
enum Next {
    Run,
    Interrupted,
    IllegalInstruction,
    End(End),
}

impl Hart {
    fn run(&mut self, watch: &mut Option<CounterWatch>) {
        let mut look = |vcpu: &Vcpu| {
            if let Some(watch) = watch {
                watch.look(vcpu);
            }
        };
        look(&self.vcpu);
        loop {
            if !self.mailbox.may_run() {
                // A paused vCPU owes KVM no exit.
                self.vcpu.finish_exit();
                if !self.pause() {
                    return;
                }
                look(&self.vcpu);
                continue;
            }
            match self.run_once() {
                Next::Run => {}
                Next::Interrupted => look(&self.vcpu),
                Next::IllegalInstruction => {
                    if let Err(error) = self.inject_illegal_instruction() {
                        self.shared.ending.report(End::Failed(error));
                        return;
                    }
                }
                // Whether this vCPU runs again is for the event loop to say; it is stopped in any case.
                Next::End(end) => {
                    self.shared.ending.report(end);
                    return;
                }
            }
        }
    }

    /// Stays outside of the guest while it is to. Returns whether it goes on.
    fn pause(&self) -> bool {
        self.mailbox.wait(|| {
            // It fails only if the counter overflows, and then the event is signalled already.
            let _ = self.shared.outside.write(1);
        })
    }

    fn run_once(&mut self) -> Next {
        let failed = match self.vcpu.run() {
            Exit::MmioRead { address, data } => {
                if !self.shared.bus.read(GuestPhysAddr(address), data) {
                    log::debug!(
                        "hart {}: load of {} bytes from {address:#x}, where nothing is",
                        self.id,
                        data.len()
                    );
                }
                return Next::Run;
            }
            Exit::MmioWrite { address, data } => {
                if !self.shared.bus.write(GuestPhysAddr(address), data) {
                    log::debug!(
                        "hart {}: store of {} bytes to {address:#x}, where nothing is",
                        self.id,
                        data.len()
                    );
                }
                return Next::Run;
            }
            Exit::Sbi { call, answer } => {
                *answer = sbi::handle(&call, &mut self.platform).registers(&call);
                if std::mem::take(&mut self.platform.suspended) {
                    self.sleep();
                }
                return Next::Run;
            }
            Exit::Csr {
                number: CSR_SEED,
                value,
            } => {
                *value = self.seed.read();
                return Next::Run;
            }
            Exit::Csr { number, .. } => {
                log::debug!(
                    "hart {}: access to CSR {number:#x}, which the machine does not have",
                    self.id
                );
                return Next::IllegalInstruction;
            }
            Exit::Interrupted => return Next::Interrupted,
            Exit::Reset => return Next::End(End::Guest(GuestEnd::Reset)),
            Exit::Shutdown {
                reason: srst::SYSTEM_FAILURE,
            } => return Next::End(End::Guest(GuestEnd::SystemFailure)),
            Exit::Shutdown { .. } => return Next::End(End::Guest(GuestEnd::PowerOff)),
            Exit::Failed(why) => why,
        };
        Next::End(End::Failed(Error::Vcpu {
            hart: self.id,
            pc: self.vcpu.pc(),
            why: failed,
        }))
    }

    /// Waits until the suspended machine is woken: by a device's interrupt, or by the hart's own timer if that is enabled.
    fn sleep(&self) {
        const SIE_STIE: u64 = 1 << 5;
        let read = |register| self.vcpu.read(register).unwrap_or(0);
        let timer = || {
            let may_interrupt = read(Register::Csr(Csr::Sie)) & SIE_STIE != 0;
            may_interrupt.then(|| {
                let ticks = read(Register::TimerCompare).saturating_sub(read(Register::TimerTime));
                let frequency = u128::from(read(Register::TimerFrequency).max(1));
                let nanoseconds = u128::from(ticks) * 1_000_000_000 / frequency;
                Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
            })
        };
        log::debug!("hart {}: the machine is suspended", self.id);
        // The end of the machine is for the loop to see.
        while !self.shared.wakeup.wait(timer()) {
            if !self.mailbox.may_run() && !self.pause() {
                return;
            }
        }
        log::debug!("hart {}: the machine wakes up", self.id);
    }

    /// Makes the instruction that the vCPU left the guest with trap as an illegal one, as a hart does that lacks the CSR.
    fn inject_illegal_instruction(&mut self) -> Result<(), Error> {
        const MODE_S: u64 = 1;

        // KVM finishes the access on its next entry: it writes the destination register and steps over the instruction.
        // So the state from before is kept, and put back.
        let general: Vec<(Register, Option<u64>)> = (1..32)
            .map(|number| Register::Core(Core::X(number)))
            .map(|register| (register, self.vcpu.read(register)))
            .collect();
        let pc = self.vcpu.pc();
        self.vcpu.finish_exit();
        let set = |register, value| {
            self.vcpu
                .write(register, value)
                .map_err(Error::kvm("change a vCPU's registers"))
        };
        for (register, value) in general {
            if let Some(value) = value {
                set(register, value)?;
            }
        }
        let read = |register| self.vcpu.read(register).unwrap_or(0);
        let before = trap::Before {
            sstatus: read(Register::Csr(Csr::Sstatus)),
            stvec: read(Register::Csr(Csr::Stvec)),
            pc,
            from_supervisor: read(Register::Core(Core::Mode)) == MODE_S,
        };
        let exception = Exception {
            cause: cause::ILLEGAL_INSTRUCTION,
            // It may be zero for an illegal instruction.
            value: 0,
        };
        let after = trap::take(before, exception);
        set(Register::Csr(Csr::Sepc), after.sepc)?;
        set(Register::Csr(Csr::Scause), after.scause)?;
        set(Register::Csr(Csr::Stval), after.stval)?;
        set(Register::Csr(Csr::Sstatus), after.sstatus)?;
        set(Register::Core(Core::Mode), MODE_S)?;
        set(Register::Core(Core::Pc), after.pc)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::pthread::pthread_self;
    use vmm_sys_util::signal::SIGRTMIN;

    use super::*;

    /// In a process of its own, which lowers its limit on them.
    #[test]
    fn a_thread_is_called_out_however_many_signals_are_pending() {
        const CHILD: &str = "HV_VMM_TEST_CHILD";
        const NAME: &str = "vcpu::tests::a_thread_is_called_out_however_many_signals_are_pending";
        if std::env::var_os(CHILD).is_none() {
            let program = std::env::current_exe().unwrap();
            let mut child = std::process::Command::new(program);
            let child = child.args(["--exact", NAME]).env(CHILD, "1");
            let finished = child.output().unwrap();
            assert!(finished.status.success(), "{finished:?}");
            return;
        }
        register_signal_handler(KICK as libc::c_int, ignore).unwrap();
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the call reads one structure, which lives across it.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const none) };
        assert_eq!(set, 0);
        pthread_kill(pthread_self(), KICK).unwrap();
        // A signal that is queued would not have arrived.
        // SAFETY: the thread is this one, and Linux refuses the signal.
        let refused = unsafe { libc::pthread_kill(pthread_self(), SIGRTMIN()) };
        assert_eq!(refused, libc::EAGAIN);
    }
}
