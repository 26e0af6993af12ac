//! A virtual machine, from its creation to its end.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use hv_core::ending::End as GuestEnd;
use hv_core::layout;
use hv_devices::rtc::HostClock;
use hv_devices::thread::{self, Confinement, Role};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::open_files::OpenFiles;
use crate::config::Config;
use crate::consoles::{Consoles, PseudoTerminal};
use crate::control::ending::{End, Ending};
use crate::control::stop::Stop;
use crate::control::{Answer, Asked, Control, Controlled, Event, Handle, Request, Status};
use crate::devices::{Devices, platform};
use crate::inputs::Inputs;
use crate::inspect::capabilities;
use crate::kvm::{Kvm, isa};
use crate::machine::alarm::Alarm;
use crate::machine::board::{Blueprint, Board, RunningBoard};
use crate::machine::restarts::{self, Restarts};
use crate::memory::HUGE_PAGE;
use crate::memory::huge_pages::ReservedHugePages;
use crate::sandbox::Sockets;
use crate::vcpu::{self, Command};
use crate::{Error, Outcome, warnings};

/// The time limit for writing the last output when the machine is ended from outside. If the guest ends by itself, there is
/// no limit.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// How long the devices' last requests have where the machine is ended from outside. A disk that does not answer may never do so.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// The page size of every RISC-V host and guest, bytes.
const PAGE: u64 = 4096;

/// A virtual machine. One thread may make it and another run it.
pub struct Vm {
    blueprint: Blueprint,
    board: Board,
    inputs: Inputs,
    ending: Arc<Ending>,
    stop: Stop,
    resume: Option<File>,
    no_reboot: bool,
    control: Controlled,
    sandbox: Option<Arc<dyn Confinement>>,
}

impl Vm {
    /// Creates the machine and loads its guest, which does not run yet.
    ///
    /// # Errors
    /// If anything is wrong with `config`, its files or the host; nothing has been changed then. [`Error::Stopped`]
    /// if [`Config::stop`] became readable first.
    pub fn new(config: Config) -> Result<Vm, Error> {
        let command_line = config
            .command_line
            .clone()
            .or_else(|| config.implied_command_line());
        if config.memory == 0 || !config.memory.is_multiple_of(PAGE) {
            return Err(Error::MemorySize(config.memory));
        }
        if config.hugepages && !config.memory.is_multiple_of(HUGE_PAGE) {
            return Err(Error::MemorySizeOfHugePages(config.memory));
        }
        let kvm = Kvm::open()?;
        config.warn_of_a_long_command_line();
        capabilities::log_what_is_not_handed_on(&kvm);
        let max = kvm.max_vcpus().min(layout::MAX_HARTS);
        match config.cpus {
            0 => return Err(Error::NoCpus),
            asked if asked > max => return Err(Error::TooManyCpus { asked, max }),
            _ => {}
        }
        let mut config = config;
        platform::sort(&mut config.platform)?;
        let stop = Stop::new(config.stop.take())?;
        let control = Controlled::new(&stop)?;
        let inputs = config.inputs();
        let sandbox = config.sandbox.confinement_with(&Sockets {
            own: config.sockets(),
            vsock: config.vsock().map(|vsock| vsock.path.clone()),
        })?;
        let _confined = thread::confine(sandbox.clone());
        let consoles = {
            let device = config.console();
            let virtio = device.and_then(|device| device.console.as_ref());
            let ports = device.map_or(&[][..], |device| &device.ports);
            Consoles::open(config.serial.as_ref(), virtio, ports, &inputs, &stop)?
        };
        let virtio = Devices::open(
            &config.devices,
            config.virtio,
            consoles.ports(),
            control.control(),
            &stop,
        )?;
        let mut blueprint = Blueprint {
            kvm,
            host_mmu: isa::mmu(),
            payload: config.payload,
            initrd: config.initrd,
            dtb: config.dtb,
            files: OpenFiles::default(),
            virtio,
            platform: config.platform,
            command_line,
            cpus: config.cpus,
            memory: config.memory,
            hugepages: config.hugepages.then(ReservedHugePages::open),
            irqchip: config.irqchip,
            getchar_empty: config.getchar_empty,
            consoles,
            clock: Arc::new(HostClock::new().map_err(Error::host("make a timer"))?),
            control: control.control().clone(),
        };
        let ending = Arc::new(Ending::new()?);
        let board = Board::build(&blueprint, ending.clone(), &stop)?;
        // A reboot does not change the chip.
        blueprint.irqchip = board.irqchip;
        Ok(Vm {
            blueprint,
            board,
            inputs,
            ending,
            stop,
            resume: config.resume.map(File::from),
            no_reboot: config.no_reboot,
            control,
            sandbox,
        })
    }

    /// A handle, by which any thread controls the machine. It must be taken before the run.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.control.handle()
    }

    /// The guest's flattened device tree, without the free space at its end.
    pub fn device_tree(&self) -> &[u8] {
        &self.board.device_tree
    }

    /// Writes [`Vm::device_tree`] to the file at `path`, which is created or truncated.
    ///
    /// # Errors
    /// If it cannot be written, is one of the machine's own files, or is in use by a machine; or [`Error::Stopped`] as for
    /// [`Vm::new`].
    pub fn write_device_tree(&self, path: &Path) -> Result<(), Error> {
        let tree = self.board.device_tree.clone();
        let (inputs, path) = (self.inputs.clone(), path.to_owned());
        self.stop.unless_stopped(move || {
            let output = inputs.open_output(&path, "device tree")?;
            output.empty()?;
            let written = output.file()?.write_all(&tree);
            written.map_err(|error| output.failed(error).into())
        })?
    }

    /// The pseudo-terminals of its consoles.
    pub fn pseudo_terminals(&self) -> &[PseudoTerminal] {
        self.blueprint.consoles.terminals()
    }

    /// Runs the guest until it switches itself off or is stopped; a guest that reboots is booted again. The calling
    /// thread serves the consoles' input meanwhile. What waits for storage that does not answer is left behind in its threads, with
    /// the guest's memory, ten seconds after the machine was stopped.
    ///
    /// # Errors
    /// If KVM cannot go on, if the guest's files cannot be read when it reboots, or if it ended and some of its output could not be
    /// written ([`Error::OutputLost`]).
    pub fn run(self) -> Result<Outcome, Error> {
        let Vm {
            blueprint,
            mut board,
            mut ending,
            stop,
            resume,
            no_reboot,
            control,
            sandbox,
            ..
        } = self;
        // Only now: what was wrong with the machine has left its files as they were.
        blueprint.consoles.empty_files()?;
        let _confined = thread::confine(sandbox.clone());
        let mut sandbox = sandbox.as_deref();
        let mut restarts = Restarts::default();
        // A paused machine that is reset stays paused.
        let mut command = Command::Run;
        let outcome = loop {
            let started = Instant::now();
            let alarm = Alarm {
                clock: blueprint.clock.clone(),
                rtc: board.rtc.clone(),
            };
            let run = Run {
                consoles: &blueprint.consoles,
                virtio: &blueprint.virtio,
                stop: &stop,
                resume: resume.as_ref(),
                control: control.control(),
                command: &mut command,
                sandbox: sandbox.take(),
            };
            match run.board(board, ending, alarm)? {
                End::Guest(GuestEnd::Reset) if !no_reboot => {
                    log::info!("the guest reboots");
                    control.tell(status(command), Event::Reset);
                    if restarts.are_a_storm(started.elapsed()) {
                        log::warn!(target: warnings::MANY_RESETS, "{}", restarts::WARNING);
                    }
                    ending = Arc::new(Ending::new()?);
                    board = match Board::build(&blueprint, ending.clone(), &stop) {
                        Err(Error::Stopped) => break Ok(Outcome::Stopped),
                        result => result?,
                    };
                }
                End::Guest(end) => break Ok(end.into()),
                End::Stopped => break Ok(Outcome::Stopped),
                End::Failed(error) => break Err(error),
            }
        };
        blueprint.consoles.close(LAST_OUTPUT);
        if let Ok(outcome) = outcome {
            control.tell(Status::Ended, Event::Ended(outcome));
        }
        let lost = blueprint.consoles.lost();
        match outcome {
            Ok(outcome) if lost.is_empty() => Ok(outcome),
            Ok(outcome) => Err(Error::OutputLost { outcome, lost }),
            Err(error) => {
                for lost in lost {
                    log::error!("{lost}");
                }
                Err(error)
            }
        }
    }
}

/// A machine may be made by one thread and run by another. This holds for every target, hence no test.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Vm>();
};

/// What a machine does whose vCPUs have been told this.
fn status(command: Command) -> Status {
    match command {
        Command::Run => Status::Running,
        Command::Pause => Status::Paused,
        Command::Finish => Status::Ended,
    }
}

/// One boot of the guest, and what controls it.
struct Run<'a> {
    consoles: &'a Consoles,
    virtio: &'a Devices,
    stop: &'a Stop,
    /// By which a paused machine is resumed from outside.
    resume: Option<&'a File>,
    control: &'a Arc<Control>,
    /// What the vCPUs were told last.
    command: &'a mut Command,
    /// What the event loop enters before the guest's first instruction.
    sandbox: Option<&'a dyn Confinement>,
}

impl Run<'_> {
    /// Runs the guest to its end, and returns when all of its threads have ended.
    fn board(mut self, board: Board, ending: Arc<Ending>, alarm: Alarm) -> Result<End, Error> {
        let event_loop = |error: event_manager::Error| Error::Host {
            doing: "run the event loop",
            error: std::io::Error::other(error.to_string()),
        };
        let mut events: EventManager<Box<dyn MutEventSubscriber>> =
            EventManager::new().map_err(event_loop)?;
        for subscriber in self.consoles.subscribers() {
            events.add_subscriber(subscriber);
        }
        events.add_subscriber(Box::new(alarm));
        let ended = Rc::new(RefCell::new(None));
        self.consoles.power_on();
        let running = match self.sandbox {
            None => board.start(*self.command)?,
            // The threads of the vCPUs are made before: a thread has its maker's filter as well as its own, and would have both looked
            // at in each exit.
            Some(sandbox) => {
                let running = board.start(Command::Pause)?;
                sandbox.enter(Role::EventLoop);
                running.begin(*self.command);
                running
            }
        };
        let mut pausing = Pausing::default();
        if *self.command == Command::Pause {
            pausing.begin(None);
        }
        let copy = |event: &EventFd| event.try_clone().map_err(Error::host("copy an eventfd"));
        events.add_subscriber(Box::new(Watch {
            ending,
            ended: ended.clone(),
            stop: (self.stop.descriptors()).map(|fd| fd.as_raw_fd()).collect(),
            wake: [copy(self.control.event())?, copy(running.outside_event())?],
        }));
        if let Some(resume) = self.resume {
            events.add_subscriber(Box::new(WatchResume {
                event: (resume.try_clone()).map_err(Error::host("copy a descriptor"))?,
                control: self.control.clone(),
            }));
        }
        self.control.tell(status(*self.command), Event::Booted);
        let end = loop {
            if let Some(end) = ended.borrow_mut().take() {
                break end;
            }
            if pausing.is_under_way() {
                if running.is_outside() {
                    match running.pause_devices(self.stop) {
                        Err(Error::Stopped) => break End::Stopped,
                        result => result?,
                    }
                    pausing.end(self.control);
                } else {
                    // A vCPU may have missed its signal.
                    let again = i32::try_from(vcpu::REPEAT.as_millis()).unwrap_or(1);
                    events.run_with_timeout(again).map_err(event_loop)?;
                }
                continue;
            }
            if let Some(asked) = self.control.next() {
                if let Some(end) = self.carry_out(asked, &running, &mut pausing) {
                    break end;
                }
                continue;
            }
            events.run().map_err(event_loop)?;
        };
        let end = match end {
            // Nobody waits for a slow reader of the console who was told to stop. Closing also frees a vCPU that does.
            End::Stopped | End::Failed(_) => {
                self.consoles.close(LAST_OUTPUT);
                end
            }
            // What the guest printed goes out, however slow its reader is, unless somebody ends the waiting.
            _ => loop {
                if self.consoles.flush(LAST_OUTPUT) {
                    break end;
                }
                if self.stop.is_asked_for() {
                    self.consoles.close(Duration::ZERO);
                    break End::Stopped;
                }
            },
        };
        self.consoles.power_off();
        if self.stop.drop(running, LAST_REQUESTS) {
            return Ok(end);
        }
        log::warn!(
            "a device waits for the host's storage, and hvrun does not wait for it any more"
        );
        Ok(match end {
            // It has been ended from outside since.
            End::Guest(_) => End::Stopped,
            end => end,
        })
    }

    /// Answers the end if the request ends this boot.
    fn carry_out(
        &mut self,
        Asked { request, done }: Asked,
        running: &RunningBoard,
        pausing: &mut Pausing,
    ) -> Option<End> {
        let mut answer = Ok(());
        match (request, *self.command) {
            (Request::Reset, _) => {
                let _ = done.send(answer);
                return Some(End::Guest(GuestEnd::Reset));
            }
            (Request::Pause, Command::Run) => {
                *self.command = Command::Pause;
                running.pause();
                // It is done when the vCPUs have left the guest.
                pausing.begin(Some(done));
                return None;
            }
            (Request::Resume, Command::Pause) => {
                *self.command = Command::Run;
                self.control.tell(Status::Running, Event::Resumed);
                running.resume();
            }
            (Request::SetLink { id, up }, _) => answer = self.virtio.set_link(&id, up),
            // It is so already.
            (Request::Pause | Request::Resume, _) => {}
        }
        // Nobody need wait for it.
        let _ = done.send(answer);
        None
    }
}

/// A pause on its way: the vCPUs have been told, and some of them may still be in the guest.
#[derive(Default)]
struct Pausing {
    under_way: bool,
    /// Who asked for it.
    asked: Option<Sender<Answer>>,
}

impl Pausing {
    fn begin(&mut self, asked: Option<Sender<Answer>>) {
        self.under_way = true;
        self.asked = asked;
    }

    fn is_under_way(&self) -> bool {
        self.under_way
    }

    fn end(&mut self, control: &Control) {
        self.under_way = false;
        control.tell(Status::Paused, Event::Paused);
        if let Some(asked) = self.asked.take() {
            let _ = asked.send(Ok(()));
        }
    }
}

/// Watches for the end of a run, and has the event loop look at what else there is to do.
struct Watch {
    ending: Arc<Ending>,
    ended: Rc<RefCell<Option<End>>>,
    /// By which the machine is stopped from outside.
    stop: Vec<RawFd>,
    /// By which the loop is woken: for a request, and for a vCPU that has left the guest.
    wake: [EventFd; 2],
}

impl MutEventSubscriber for Watch {
    fn init(&mut self, ops: &mut EventOps) {
        let ending = self.ending.event().as_raw_fd();
        let stop = self.stop.iter().copied();
        let wake = self.wake.each_ref().map(EventFd::as_raw_fd);
        for fd in stop.chain([ending]).chain(wake) {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("the machine cannot be stopped by its event {fd}: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        let fd = events.fd();
        let end = if fd == self.ending.event().as_raw_fd() {
            self.ending.take()
        } else if let Some(wake) = self.wake.iter().find(|wake| wake.as_raw_fd() == fd) {
            // The loop looks by itself what there is.
            let _ = wake.read();
            None
        } else {
            Some(End::Stopped)
        };
        if let Some(end) = end {
            self.ended.borrow_mut().get_or_insert(end);
        }
    }
}

/// Watches [`Config::resume`].
struct WatchResume {
    event: File,
    control: Arc<Control>,
}

impl MutEventSubscriber for WatchResume {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.event, EventSet::IN)) {
            log::error!("the machine cannot be resumed by its event: {error}");
        }
    }

    fn process(&mut self, _: Events, ops: &mut EventOps) {
        // Once, as the descriptor may be one that blocks. An eventfd gives 8 bytes, a signalfd a record.
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match (&self.event).read(&mut record) {
            Ok(1..) => self.control.resume(),
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // It would be readable for ever.
            _ => {
                let _ = ops.remove(Events::empty(&self.event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory is in pages: of the host, or huge ones. Anything else is refused before anything is opened.
    #[test]
    fn memory_of_any_other_size_is_refused() {
        let refused = |memory: u64, hugepages: bool| {
            let payload = crate::Payload::Kernel("/no/such/file".into());
            let config = Config::new(payload).memory(memory).hugepages(hugepages);
            Vm::new(config).err().unwrap()
        };
        for size in [0, 1, PAGE - 1, PAGE + 1] {
            let error = refused(size, false);
            assert!(
                matches!(error, Error::MemorySize(of) if of == size),
                "{error}"
            );
        }
        for size in [PAGE, HUGE_PAGE - PAGE, HUGE_PAGE + PAGE] {
            let error = refused(size, true);
            assert!(
                matches!(error, Error::MemorySizeOfHugePages(of) if of == size),
                "{error}"
            );
        }
        // Where there is no KVM, that is what is wrong next.
        if !cfg!(target_arch = "riscv64") {
            for (size, hugepages) in [(PAGE, false), (HUGE_PAGE, true), (3 * PAGE, false)] {
                let error = refused(size, hugepages);
                assert!(matches!(error, Error::Kvm(_)), "{error}");
            }
        }
    }

    #[test]
    fn a_pause_is_answered_when_the_vcpus_have_left() {
        let control = Controlled::new(&Stop::new(None).unwrap()).unwrap();
        let events = control.handle().events();
        let mut pausing = Pausing::default();
        assert!(!pausing.is_under_way());
        let (asked, answer) = std::sync::mpsc::channel();
        pausing.begin(Some(asked));
        assert!(pausing.is_under_way());
        assert!(answer.try_recv().is_err(), "not yet");
        pausing.end(control.control());
        assert!(!pausing.is_under_way());
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        assert_eq!(events.try_recv(), Ok(Event::Paused));
        // One that nobody waits for.
        pausing.begin(None);
        pausing.end(control.control());
        assert_eq!(events.try_recv(), Ok(Event::Paused));
        assert!(answer.try_recv().is_err());
    }

    #[test]
    fn a_watch_tells_a_stop_from_an_end_and_both_from_a_wake_up() {
        let event = || EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        let (stop, wake) = (event(), [event(), event()]);
        let ending = Arc::new(Ending::new().unwrap());
        let ended = Rc::new(RefCell::new(None));
        let mut events = event_manager::EventManager::<Watch>::new().unwrap();
        events.add_subscriber(Watch {
            ending: ending.clone(),
            ended: ended.clone(),
            stop: vec![stop.as_raw_fd()],
            wake: wake.each_ref().map(|event| event.try_clone().unwrap()),
        });
        let mut run = || events.run_with_timeout(0).unwrap();
        assert_eq!(run(), 0);
        for wake in &wake {
            wake.write(1).unwrap();
            assert_eq!(run(), 1);
            assert_eq!(run(), 0, "it was noted");
            assert!(ended.borrow().is_none());
        }
        ending.report(End::Failed(Error::NoCpus));
        assert_eq!(run(), 1);
        assert!(matches!(ended.borrow_mut().take(), Some(End::Failed(_))));
        stop.write(1).unwrap();
        run();
        assert!(matches!(*ended.borrow(), Some(End::Stopped)));
        // The first one counts.
        ending.report(End::Failed(Error::NoCpus));
        run();
        assert!(matches!(*ended.borrow(), Some(End::Stopped)));
    }
}
