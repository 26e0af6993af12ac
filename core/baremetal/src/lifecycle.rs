//! The state machine of a guest's life cycle: which of its harts run, which are to start, and how all of them stop when the
//! guest ends or is reset.
//!
//! Each hart of a guest is a hart of the host, so all of this happens at the same time. A [`Lifecycle`] decides in one
//! place, under one lock: a hart with a request for another one changes the state and interrupts that hart, which
//! then asks what it has to do ([`Lifecycle::attend`]). So what a hart does depends on the current state only, never on the
//! order in which messages were sent or read.
//!
//! ```text
//!           run()               end()             the last hart halts              over()
//!   Halted -------->  Running  -------->  Ending  ------------------->  Halted  --------->  Ended
//!      ^                                                                  | ^                 |
//!      +------------------------------------------------------------------+ +-----------------+
//!                            run(), after a reset                        restart() by the user
//! ```
//!
//! No hart waits for another one: the last hart to halt carries out the guest's end.

use alloc::boxed::Box;
use alloc::vec;

use hv_core::ending::End;
use hv_core::sbi::{Error, hsm};

/// Where a hart begins, and with what in its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Start {
    /// The address, guest-physical.
    pub pc: u64,
    /// For a1.
    pub opaque: u64,
}

/// What a guest is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It runs.
    Running,
    /// It ends so, and not all of its harts have halted.
    Ending(End),
    /// None of its harts runs, and none can be started. One hart, which [`Order::Finish`] told, has its memory and its devices
    /// to itself.
    Halted,
    /// It is over, with this exit code.
    Ended(u16),
}

/// What a hart does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Order {
    /// It goes on as it is, running or not.
    Continue,
    /// It begins there.
    Begin(Start),
    /// It does not run any more.
    Halt,
    /// It does not run any more, and none of the others does: it carries out the guest's end, and calls [`Lifecycle::run`] or
    /// [`Lifecycle::over`] after that.
    Finish(End),
}

/// The state of a guest and of its harts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lifecycle {
    phase: Phase,
    /// What each hart does, as the guest is told. A hart runs, or is about to find out that it has to halt, exactly while it is
    /// neither stopped nor to start.
    states: hsm::Harts,
    /// Where each hart begins that is to start.
    starts: Box<[Start]>,
}

/// None of a guest's harts.
const NO_HART: u32 = u32::MAX;

impl Lifecycle {
    /// A guest with this many harts, none of which has run yet: it is [`Phase::Halted`], and the caller loads it.
    #[must_use]
    pub fn new(harts: u32) -> Self {
        Self {
            phase: Phase::Halted,
            states: hsm::Harts::new(harts, NO_HART),
            starts: vec![Start::default(); harts as usize].into(),
        }
    }

    /// What the guest is doing.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The state of `hart` as SBI tells it, or `None` if there is no such hart.
    #[must_use]
    pub fn hart(&self, hart: u32) -> Option<hsm::State> {
        self.states.state(hart)
    }

    /// Whether every hart but this one is stopped (SBI 3.0, chapter "System Suspend Extension").
    #[must_use]
    pub fn is_alone(&self, hart: u32) -> bool {
        self.states.is_alone(hart)
    }

    /// A hart starts `hart`, which is to be interrupted after this.
    ///
    /// # Errors
    /// Those of [`hsm::Harts::start`], and [`Error::Denied`] when the guest is about to end.
    pub fn start(&mut self, hart: u32, start: Start) -> Result<(), Error> {
        if self.phase != Phase::Running {
            return Err(Error::Denied);
        }
        self.states.start(hart)?;
        let place = self.starts.get_mut(hart as usize);
        *place.ok_or(Error::InvalidParam)? = start;
        Ok(())
    }

    /// `hart` stops itself. It does what is answered.
    ///
    /// # Errors
    /// Those of [`hsm::Harts::stop`].
    pub fn stop(&mut self, hart: u32) -> Result<Order, Error> {
        if let Phase::Ending(_) = self.phase {
            // It may be the last one.
            return Ok(self.attend(hart));
        }
        self.states.stop(hart)?;
        self.states.stopped(hart)?;
        Ok(Order::Halt)
    }

    /// `hart` suspends itself.
    ///
    /// # Errors
    /// Those of [`hsm::Harts::suspend`].
    pub fn suspend(&mut self, hart: u32) -> Result<(), Error> {
        self.states.suspend(hart)?;
        self.states.suspended(hart)
    }

    /// `hart`, which is suspended, goes on.
    ///
    /// # Errors
    /// Those of [`hsm::Harts::resume`].
    pub fn resume(&mut self, hart: u32) -> Result<(), Error> {
        self.states.resume(hart)?;
        self.states.resumed(hart)
    }

    /// `hart` was interrupted, and asks what it has to do. It may ask at any time.
    pub fn attend(&mut self, hart: u32) -> Order {
        match self.phase {
            Phase::Running => match self.states.started(hart) {
                Ok(()) => {
                    let start = self.starts.get(hart as usize).copied();
                    Order::Begin(start.unwrap_or_default())
                }
                // Nobody starts it: it was interrupted for something that has passed.
                Err(_) => Order::Continue,
            },
            Phase::Ending(end) if self.is_on(hart) => {
                self.states.halt(hart);
                self.finish(end).unwrap_or(Order::Halt)
            }
            _ => Order::Continue,
        }
    }

    /// `hart`, whether it runs or not, has the guest end. All others are to be interrupted after this. Nothing happens if the
    /// guest is about to end, but that the hart halts.
    pub fn end(&mut self, hart: u32, end: End) -> Order {
        if self.phase == Phase::Running {
            self.phase = Phase::Ending(end);
            for other in self.harts() {
                if self.states.state(other) == Some(hsm::State::StartPending) {
                    // It does not run, and will not: nobody has to wait for it.
                    self.states.halt(other);
                }
            }
            if !self.is_on(hart) {
                return self.finish(end).unwrap_or(Order::Continue);
            }
        }
        self.attend(hart)
    }

    /// The user restarts the guest, whether it has ended or not; `hart` carries it out. The caller interrupts all others
    /// afterwards.
    pub fn restart(&mut self, hart: u32) -> Order {
        if let Phase::Ended(_) = self.phase {
            self.phase = Phase::Halted;
            return Order::Finish(End::Reset);
        }
        self.end(hart, End::Reset)
    }

    /// The guest, which is [`Phase::Halted`] and in memory, begins with its first hart, which is to be interrupted after this.
    pub fn run(&mut self, start: Start) {
        self.phase = Phase::Running;
        // There is a first one, and it is stopped.
        let _ = self.start(0, start);
    }

    /// The guest, which is [`Phase::Halted`], is over with this exit code.
    pub const fn over(&mut self, code: u16) {
        self.phase = Phase::Ended(code);
    }

    /// If no hart runs any more, the calling one carries out the end.
    fn finish(&mut self, end: End) -> Option<Order> {
        if self.harts().any(|hart| self.is_on(hart)) {
            return None;
        }
        self.phase = Phase::Halted;
        Some(Order::Finish(end))
    }

    /// Whether a hart of the host runs this hart, or waits for it to be woken.
    fn is_on(&self, hart: u32) -> bool {
        !matches!(
            self.states.state(hart),
            None | Some(hsm::State::Stopped | hsm::State::StartPending)
        )
    }

    fn harts(&self) -> core::ops::Range<u32> {
        // As many as `new` was told.
        0..u32::try_from(self.starts.len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
