//! The end of the machine.

use core::fmt::Display;

use hv_core::addr::HostPhysAddr;
use hv_core::test_device;
use spin::Once;

use super::{clock, console, csr, firmware, mmio};

/// The exit code of a guest that says it failed, and of the hypervisor when it cannot go on.
pub const FAILURE: u16 = 1;

/// How long the test device may take to end the machine, in ticks: a second on the board that has it.
const PATIENCE: u64 = 10_000_000;

/// The device that ends the machine with an exit code, if it has one.
static TEST_DEVICE: Once<HostPhysAddr> = Once::new();

/// Has the machine ended by the test device at `address`.
///
/// # Safety
/// There is one.
pub unsafe fn use_test_device(address: HostPhysAddr) {
    TEST_DEVICE.call_once(|| address);
}

/// Ends the machine with a line that says why.
pub fn give_up(why: &dyn Display) -> ! {
    console::message(format_args!("{why}"));
    fail()
}

/// The hypervisor cannot go on.
pub fn fail() -> ! {
    switch_off(FAILURE)
}

/// Ends the machine with this exit code.
pub fn switch_off(code: u16) -> ! {
    console::flush();
    if let Some(device) = TEST_DEVICE.get() {
        let value = test_device::command_for_exit_code(code);
        // SAFETY: `use_test_device` was told that the test device is there, and ending the machine is what is wanted.
        unsafe { mmio::write32(*device, value) };
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
