//! All guests.

use alloc::vec::Vec;

use hv_bare::partition::Passthrough;
use spin::Once;

use super::guest::Guest;

static GUESTS: Once<Vec<Guest>> = Once::new();

/// Sets them, at the start.
pub fn initialize(guests: Vec<Guest>) -> &'static [Guest] {
    GUESTS.call_once(|| guests)
}

/// All guests: none before there are any.
pub fn all() -> &'static [Guest] {
    GUESTS.get().map_or(&[], Vec::as_slice)
}

/// Whose interrupt `source` of the host's chip is: the guest, and its device. `None` for the console's.
pub fn owner(source: u32) -> Option<(&'static Guest, &'static Passthrough)> {
    all().iter().find_map(|guest| {
        let mut devices = guest.passthrough.iter();
        let device = devices.find(|device| device.host_irq == source)?;
        Some((guest, device))
    })
}
