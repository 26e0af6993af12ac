//! A virtual machine, from its creation to its end.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use hv_core::layout;
use hv_devices::rtc::HostClock;

use crate::alarm::Alarm;
use crate::board::{Blueprint, Board};
use crate::capabilities;
use crate::config::{Config, Inputs};
use crate::console::{Consoles, PseudoTerminal};
use crate::ending::{End, Ending};
use crate::kvm::Kvm;
use crate::memory::HUGE_PAGE;
use crate::restarts::{self, Restarts};
use crate::stop::Stop;
use crate::virtio::Slots;
use crate::{Error, Outcome};

/// The time limit for writing the last output when the machine is ended from outside. If the guest ends by itself, there is
/// no limit.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// The page size of every RISC-V host and guest, bytes.
const PAGE: u64 = 4096;

/// A virtual machine.
pub struct Vm {
    blueprint: Blueprint,
    board: Board,
    inputs: Inputs,
    ending: Arc<Ending>,
    stop: Stop,
    no_reboot: bool,
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
        let stop = Stop::new(config.stop.take())?;
        let inputs = config.inputs();
        let consoles = Consoles::open(&config.console, &inputs, &stop)?;
        let virtio = Slots::open(&config, consoles.ports(), &stop)?;
        let mut blueprint = Blueprint {
            kvm,
            payload: config.payload,
            initrd: config.initrd,
            dtb: config.dtb,
            virtio,
            command_line,
            cpus: config.cpus,
            memory: config.memory,
            hugepages: config.hugepages,
            irqchip: config.irqchip,
            getchar_empty: config.getchar_empty,
            consoles,
            clock: Arc::new(HostClock::new().map_err(Error::host("make a timer"))?),
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
            no_reboot: config.no_reboot,
        })
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
    /// thread serves the consoles' input meanwhile.
    ///
    /// # Errors
    /// If KVM cannot go on, if the guest's files are gone when it reboots, or if it ended and some of its output could not be
    /// written ([`Error::OutputLost`]).
    pub fn run(self) -> Result<Outcome, Error> {
        let Vm {
            blueprint,
            mut board,
            mut ending,
            stop,
            no_reboot,
            ..
        } = self;
        // Only now: what was wrong with the machine has left its files as they were.
        blueprint.consoles.empty_files()?;
        let mut restarts = Restarts::default();
        let outcome = loop {
            let started = Instant::now();
            let alarm = Alarm {
                clock: blueprint.clock.clone(),
                rtc: board.rtc.clone(),
            };
            match run_board(board, ending, alarm, &blueprint.consoles, &stop)? {
                End::Reset if no_reboot => break Ok(Outcome::Reset),
                End::Reset => {
                    log::info!("the guest reboots");
                    if restarts.are_a_storm(started.elapsed()) {
                        log::warn!("{}", restarts::WARNING);
                    }
                    ending = Arc::new(Ending::new()?);
                    board = match Board::build(&blueprint, ending.clone(), &stop) {
                        Err(Error::Stopped) => break Ok(Outcome::Stopped),
                        result => result?,
                    };
                }
                End::PowerOff => break Ok(Outcome::PowerOff),
                End::SystemFailure => break Ok(Outcome::SystemFailure),
                End::TestFailed(code) => break Ok(Outcome::TestFailed(code)),
                End::Stopped => break Ok(Outcome::Stopped),
                End::Failed(error) => break Err(error),
            }
        };
        blueprint.consoles.close(LAST_OUTPUT);
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

/// Runs one boot of the guest to its end, and returns when all of its threads have ended.
fn run_board(
    board: Board,
    ending: Arc<Ending>,
    alarm: Alarm,
    consoles: &Consoles,
    stop: &Stop,
) -> Result<End, Error> {
    let event_loop = |error: event_manager::Error| Error::Host {
        doing: "run the event loop",
        error: std::io::Error::other(error.to_string()),
    };
    let mut events: EventManager<Box<dyn MutEventSubscriber>> =
        EventManager::new().map_err(event_loop)?;
    for subscriber in consoles.subscribers() {
        events.add_subscriber(subscriber);
    }
    events.add_subscriber(Box::new(alarm));
    let fds = [
        Some(ending.event().as_raw_fd()),
        Some(stop.quit.as_raw_fd()),
        stop.outside.as_ref().map(OwnedFd::as_raw_fd),
    ];
    let ended = Rc::new(RefCell::new(None));
    events.add_subscriber(Box::new(Watch {
        fds,
        ending,
        ended: ended.clone(),
    }));

    consoles.power_on();
    let running = board.start()?;
    while ended.borrow().is_none() {
        events.run().map_err(event_loop)?;
    }
    let end = ended.borrow_mut().take().unwrap_or(End::Stopped);
    let end = match end {
        // Nobody waits for a slow reader of the console who was told to stop. Closing also frees a vCPU that does.
        End::Stopped | End::Failed(_) => {
            consoles.close(LAST_OUTPUT);
            end
        }
        // All output of the guest is written, however slow its reader is, unless the wait is ended.
        _ => loop {
            if consoles.flush(LAST_OUTPUT) {
                break end;
            }
            if stop.is_asked_for() {
                consoles.close(Duration::ZERO);
                break End::Stopped;
            }
        },
    };
    consoles.power_off();
    drop(running);
    Ok(end)
}

/// Watches for the end of a run.
struct Watch {
    fds: [Option<i32>; 3],
    ending: Arc<Ending>,
    ended: Rc<RefCell<Option<End>>>,
}

impl MutEventSubscriber for Watch {
    fn init(&mut self, ops: &mut EventOps) {
        for fd in self.fds.iter().flatten() {
            if let Err(error) = ops.add(Events::new_raw(*fd, EventSet::IN)) {
                log::error!("the machine cannot be stopped by its event {fd}: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        let end = if events.fd() == self.ending.event().as_raw_fd() {
            self.ending.take()
        } else {
            Some(End::Stopped)
        };
        if let Some(end) = end {
            self.ended.borrow_mut().get_or_insert(end);
        }
    }
}
