//! A virtual machine from its making to its end.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use hv_core::layout;
use hv_devices::rtc::HostClock;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::alarm::Alarm;
use crate::board::{Blueprint, Board};
use crate::capabilities;
use crate::config::{Config, Inputs};
use crate::console::{Consoles, PseudoTerminal};
use crate::ending::{End, Ending};
use crate::kvm::Kvm;
use crate::memory::HUGE_PAGE;
use crate::virtio::Slots;
use crate::{Error, Outcome};

/// How long the last output may take to go out when the machine is ended from outside. A guest that ends by itself is
/// waited for.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// The page size of every RISC-V host and guest, bytes.
const PAGE: u64 = 4096;

/// A virtual machine.
pub struct Vm {
    blueprint: Blueprint,
    board: Board,
    inputs: Inputs,
    ending: Arc<Ending>,
    /// Written when the user ends the machine by its escape key.
    quit: EventFd,
    stop: Option<OwnedFd>,
}

impl Vm {
    /// Makes the machine and loads its guest, which does not run yet.
    ///
    /// # Errors
    /// Everything that can be wrong with `config`, its files and the host; nothing has been changed then.
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
        capabilities::log_what_is_not_handed_on(&kvm);
        let max = kvm.max_vcpus().min(layout::MAX_HARTS);
        match config.cpus {
            0 => return Err(Error::NoCpus),
            asked if asked > max => return Err(Error::TooManyCpus { asked, max }),
            _ => {}
        }
        let quit = EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?;
        let inputs = config.inputs();
        let consoles = Consoles::open(&config.console, &inputs, &quit)?;
        let virtio = Slots::open(&config, consoles.ports())?;
        let blueprint = Blueprint {
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
        let board = Board::build(&blueprint, ending.clone())?;
        Ok(Vm {
            blueprint,
            board,
            inputs,
            ending,
            quit,
            stop: config.stop,
        })
    }

    /// Writes [`device_tree`](Self::device_tree) to a file.
    ///
    /// # Errors
    /// It cannot be written, is one of the machine's own files, or in use by a machine.
    pub fn write_device_tree(&self, path: &Path) -> Result<(), Error> {
        let output = self.inputs.open_output(path, "device tree")?;
        output.empty()?;
        let written = output.file()?.write_all(self.device_tree());
        written.map_err(|error| output.failed(error).into())
    }

    /// The flattened device tree that the guest gets, without the free space that it has there.
    pub fn device_tree(&self) -> &[u8] {
        &self.board.device_tree
    }

    /// The pseudo-terminals of its consoles.
    pub fn pseudo_terminals(&self) -> &[PseudoTerminal] {
        self.blueprint.consoles.terminals()
    }

    /// Runs the guest until it switches itself off or is stopped; a guest that reboots is booted again. The calling
    /// thread serves the consoles' input meanwhile.
    ///
    /// # Errors
    /// KVM cannot go on, the guest's files are gone when it reboots, or it ended and some of what it printed could not be
    /// written ([`Error::OutputLost`]).
    pub fn run(self) -> Result<Outcome, Error> {
        let Vm {
            blueprint,
            mut board,
            mut ending,
            quit,
            stop,
            ..
        } = self;
        // Only now: what was wrong with the machine has left its files as they were.
        blueprint.consoles.empty_files()?;
        let stop = Stop {
            quit,
            outside: stop,
        };
        let outcome = loop {
            let alarm = Alarm {
                clock: blueprint.clock.clone(),
                rtc: board.rtc.clone(),
            };
            match run_board(board, ending, alarm, &blueprint.consoles, &stop)? {
                End::Reset => {
                    log::info!("the guest reboots");
                    ending = Arc::new(Ending::new()?);
                    board = Board::build(&blueprint, ending.clone())?;
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

/// The ways to end a machine from outside.
struct Stop {
    quit: EventFd,
    outside: Option<OwnedFd>,
}

impl Stop {
    /// Whether somebody ended the machine, without waiting.
    fn is_asked_for(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::{AsFd, BorrowedFd};
        // SAFETY: the eventfd is open for as long as `self` lives.
        let quit = unsafe { BorrowedFd::borrow_raw(self.quit.as_raw_fd()) };
        let mut fds: Vec<PollFd> = std::iter::once(quit)
            .chain(self.outside.as_ref().map(AsFd::as_fd))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
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
        // What the guest printed goes out, however slow its reader is, unless somebody ends the waiting.
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
