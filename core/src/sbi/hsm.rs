//! Hart state management (SBI 3.0, chapter "Hart State Management Extension").

use alloc::boxed::Box;
use alloc::vec;

use super::{Call, Error, Platform, entry};

#[cfg(test)]
mod tests;

/// Extension id, "HSM".
pub const EID: u64 = 0x48_534d;
/// Function id of Hart start.
pub const HART_START: u64 = 0;
/// Function id of Hart stop.
pub const HART_STOP: u64 = 1;
/// Function id of Hart get status.
pub const HART_GET_STATUS: u64 = 2;
/// Function id of Hart suspend.
pub const HART_SUSPEND: u64 = 3;

/// The suspend type that keeps the hart's state.
const DEFAULT_RETENTIVE: u64 = 0;
/// The suspend type that does not.
const DEFAULT_NON_RETENTIVE: u64 = 0x8000_0000;

/// What a hart is doing. The numbers are those of the specification.
///
/// ```text
///          stopped()           STOPPED      start()
///          +----------------->         -----------------+
///          |                                            v
///     STOP_PENDING                                START_PENDING
///          ^                                            |
///          |   stop()          STARTED      started()   |
///          +------------------         <----------------+
///          +----------------->         -----------------+
///          |   resumed()                    suspend()   v
///     RESUME_PENDING                             SUSPEND_PENDING
///          ^                                            |
///          |   resume()       SUSPENDED    suspended()  |
///          +------------------         <----------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// It runs.
    Started = 0,
    /// It does not run, until another hart starts it.
    Stopped = 1,
    /// Another hart has started it, and it does not run yet.
    StartPending = 2,
    /// It has stopped itself, and that is not done yet.
    StopPending = 3,
    /// It waits for an interrupt.
    Suspended = 4,
    /// It has suspended itself, and that is not done yet.
    SuspendPending = 5,
    /// An interrupt has come for it while suspended, and it does not run yet.
    ResumePending = 6,
}

/// The states of a machine's harts: plain data, of a size that no guest changes. A guest's call begins a transition, the
/// hypervisor completes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Harts(Box<[State]>);

impl Harts {
    /// Harts 0 to `harts - 1`, of which `boot_hart` runs.
    #[must_use]
    pub fn new(harts: u32, boot_hart: u32) -> Self {
        let mut states = vec![State::Stopped; harts as usize];
        if let Some(state) = states.get_mut(boot_hart as usize) {
            *state = State::Started;
        }
        Self(states.into())
    }

    /// The state of `hart`, or `None` if there is no such hart.
    #[must_use]
    pub fn state(&self, hart: u32) -> Option<State> {
        self.0.get(hart as usize).copied()
    }

    /// Whether every hart but this one is stopped, as a system that suspends has to have it (SBI 3.0, chapter "System Suspend
    /// Extension").
    #[must_use]
    pub fn is_alone(&self, hart: u32) -> bool {
        (0..)
            .zip(&self.0)
            .all(|(other, state)| other == hart || *state == State::Stopped)
    }

    /// Another hart starts this one.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if there is no such hart, [`Error::Failed`] while it is about to stop, and
    /// [`Error::AlreadyAvailable`] in any other state than stopped.
    pub fn start(&mut self, hart: u32) -> Result<(), Error> {
        let error = match self.state(hart) {
            None => Error::InvalidParam,
            Some(State::StopPending) => Error::Failed,
            Some(_) => Error::AlreadyAvailable,
        };
        self.step(hart, State::Stopped, State::StartPending, error)
    }

    /// A hart that is to start runs.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it is not to start.
    pub fn started(&mut self, hart: u32) -> Result<(), Error> {
        self.step(
            hart,
            State::StartPending,
            State::Started,
            Error::InvalidState,
        )
    }

    /// A hart stops itself.
    ///
    /// # Errors
    /// [`Error::Failed`] if it does not run, and so cannot have called.
    pub fn stop(&mut self, hart: u32) -> Result<(), Error> {
        self.step(hart, State::Started, State::StopPending, Error::Failed)
    }

    /// A hart that is to stop does not run any more.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it is not to stop.
    pub fn stopped(&mut self, hart: u32) -> Result<(), Error> {
        self.step(
            hart,
            State::StopPending,
            State::Stopped,
            Error::InvalidState,
        )
    }

    /// A hart suspends itself.
    ///
    /// # Errors
    /// [`Error::Failed`] if it does not run, and so cannot have called.
    pub fn suspend(&mut self, hart: u32) -> Result<(), Error> {
        self.step(hart, State::Started, State::SuspendPending, Error::Failed)
    }

    /// A hart that is to suspend waits for an interrupt.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it is not to suspend.
    pub fn suspended(&mut self, hart: u32) -> Result<(), Error> {
        self.step(
            hart,
            State::SuspendPending,
            State::Suspended,
            Error::InvalidState,
        )
    }

    /// An interrupt has come for a suspended hart.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it is not suspended.
    pub fn resume(&mut self, hart: u32) -> Result<(), Error> {
        self.step(
            hart,
            State::Suspended,
            State::ResumePending,
            Error::InvalidState,
        )
    }

    /// A hart that is to resume runs.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it is not to resume.
    pub fn resumed(&mut self, hart: u32) -> Result<(), Error> {
        self.step(
            hart,
            State::ResumePending,
            State::Started,
            Error::InvalidState,
        )
    }

    /// Stops a hart whatever it does, as the end of its machine does. Nothing happens if there is no such hart.
    pub fn halt(&mut self, hart: u32) {
        if let Some(state) = self.0.get_mut(hart as usize) {
            *state = State::Stopped;
        }
    }

    /// Brings a hart from one state to the next, or fails with `error` if it is in another one.
    fn step(&mut self, hart: u32, from: State, to: State, error: Error) -> Result<(), Error> {
        match self.0.get_mut(hart as usize) {
            Some(state) if *state == from => {
                *state = to;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Answers a call of this extension.
pub(super) fn handle(call: &Call, platform: &mut impl Platform) -> Result<u64, Error> {
    let [first, second, third, ..] = call.args;
    match call.function {
        HART_START => start(first, second, third, platform),
        HART_STOP => platform.hart_stop().map(|()| 0),
        HART_GET_STATUS => status(first, platform),
        HART_SUSPEND => suspend(first, second, third, platform),
        _ => Err(Error::NotSupported),
    }
}

fn start(hart: u64, address: u64, opaque: u64, platform: &mut impl Platform) -> Result<u64, Error> {
    let hart = u32::try_from(hart)
        .ok()
        .filter(|hart| *hart < platform.harts())
        .ok_or(Error::InvalidParam)?;
    let address = entry(address, platform)?;
    platform.hart_start(hart, address, opaque)?;
    Ok(0)
}

fn status(hart: u64, platform: &impl Platform) -> Result<u64, Error> {
    u32::try_from(hart)
        .ok()
        .and_then(|hart| platform.hart_state(hart))
        .map(|state| state as u64)
        .ok_or(Error::InvalidParam)
}

/// Suspends the calling hart. The type is 32 bits wide; all others are reserved, or the platform's and not implemented.
fn suspend(
    kind: u64,
    address: u64,
    opaque: u64,
    platform: &mut impl Platform,
) -> Result<u64, Error> {
    let resume = match kind & u64::from(u32::MAX) {
        DEFAULT_RETENTIVE => None,
        DEFAULT_NON_RETENTIVE => Some((entry(address, platform)?, opaque)),
        _ => return Err(Error::InvalidParam),
    };
    platform.hart_suspend(resume)?;
    Ok(0)
}
