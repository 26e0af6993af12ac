//! Ends: of a guest, which leaves the others as they are, and of the machine when no guest is left.

use super::boot::{self, hypervisor};
use super::clock;
use super::console;
use super::csr;
use super::firmware;
use super::guest::{self, Guest};
use super::hart::Vhart;
use super::mmio;
use super::statistics::Sums;
use hv_bare::lifecycle::Phase;
use hv_core::ending::End;
use hv_core::test_device;

/// The exit code of a guest that says it failed, and of the hypervisor when it cannot go on.
const FAILURE: u16 = 1;

/// How long the test device may take to end the machine, in ticks: a second on the board that has it.
const PATIENCE: u64 = 10_000_000;

/// The hart's guest ends, or begins again.
pub fn end(hart: &mut Vhart, end: End) {
    let guest = hart.guest;
    let order = guest.lifecycle.lock().end(hart.id, end);
    guest.alert_others(hart.id);
    hart.obey(order);
}

/// The user wants the hart's guest to begin anew.
pub fn restart(hart: &mut Vhart) {
    let guest = hart.guest;
    let order = guest.lifecycle.lock().restart(hart.id);
    guest.alert_others(hart.id);
    hart.obey(order);
}

/// Carries out the guest's end, after all of its harts have halted.
pub fn finish(guest: &Guest, end: End) {
    match end {
        End::Reset => begin_again(guest),
        End::PowerOff => over(guest, 0),
        End::SystemFailure => over(guest, FAILURE),
        End::TestFailed(code) => over(guest, code),
    }
}

fn begin_again(guest: &Guest) {
    if let Err(error) = guest.start(boot::seed(guest.index)) {
        console::message(format_args!(
            "guest {} cannot start again: {error}",
            guest.name
        ));
        over(guest, FAILURE);
    }
}

/// The guest has ended with this code. When all have, the machine ends with the first code that is not 0.
fn over(guest: &Guest, code: u16) {
    guest.reset_devices();
    if guest::all().len() > 1 {
        console::message(format_args!(
            "guest {} has ended with code {code}",
            guest.name
        ));
    }
    if hypervisor().prints_statistics {
        print_statistics(guest);
    }
    // After all messages, because the hart that sees that the last guest has ended switches the machine off.
    guest.lifecycle.lock().over(code);
    console::ended(guest.index);
    let code = |guest: &Guest| match guest.lifecycle.lock().phase() {
        Phase::Ended(code) => Some(code),
        Phase::Running | Phase::Ending(_) | Phase::Halted => None,
    };
    let mut codes = guest::all().iter().map(code);
    let first = codes.try_fold(0, |first, code| {
        code.map(|code| if first == 0 { code } else { first })
    });
    if let Some(code) = first {
        switch_off(code);
    }
}

/// Tells how often a guest was left, and why.
pub fn print_statistics(guest: &Guest) {
    let counts = guest.harts.iter().map(|link| &link.counts);
    console::message(format_args!("guest {}: {}", guest.name, Sums(&counts)));
}

/// The hypervisor cannot go on.
pub fn fail() -> ! {
    switch_off(FAILURE)
}

/// Ends the machine with this exit code.
pub fn switch_off(code: u16) -> ! {
    console::flush();
    if let Some(device) = boot::test_device() {
        let value = test_device::command_for_exit_code(code);
        // SAFETY: the host's device tree says that the test device is there, and ending the machine is what is wanted.
        unsafe { mmio::write32(device, value) };
        // QEMU ends when its main loop gets to it. The firmware would meanwhile end the machine by the same device, and with
        // another code.
        let patience = clock::ticks().saturating_add(PATIENCE);
        while clock::ticks() < patience {
            core::hint::spin_loop();
        }
    }
    firmware::shut_down(code != 0);
    loop {
        csr::wait_for_interrupt();
    }
}
