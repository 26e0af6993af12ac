//! The state of the hypervisor that is not a guest's: the host machine. It is there when the first guest is made.

use hv_bare::entropy::Entropy;
use hv_bare::host::Host;
use spin::{Mutex, Once};

use super::clock::{self, Clock};
use super::interrupts::Chip;
use super::power;

/// What there is.
#[derive(Debug)]
pub struct State {
    /// The host machine.
    pub host: Host,
    /// Its interrupt chip.
    pub chip: Chip,
    /// The time of day.
    pub clock: Clock,
    /// Whether exits are printed by cause when a guest ends.
    pub prints_statistics: bool,
    /// Where guests' seeds come from, if the firmware gave any.
    pub entropy: Mutex<Option<Entropy>>,
}

impl State {
    /// Entropy for the guest with this index, which begins now, if there is any.
    pub fn seed(&self, guest: usize) -> Option<[u8; 32]> {
        let mut entropy = self.entropy.lock();
        Some(entropy.as_mut()?.next(guest, clock::ticks()))
    }
}

static STATE: Once<State> = Once::new();

/// Sets the state, at the start.
pub fn initialize(state: State) -> &'static State {
    STATE.call_once(|| state)
}

/// The state.
pub fn state() -> &'static State {
    match STATE.get() {
        Some(state) => state,
        None => power::give_up(&"a guest ran before the hypervisor was ready"),
    }
}
