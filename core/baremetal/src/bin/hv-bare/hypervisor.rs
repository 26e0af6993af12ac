//! The program.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`] | from the firmware to the first guest |
//! | [`hart`] | what a hart of the host does: wait, enter its guest, handle the exit |
//! | [`exit`] | why a guest was left, and what is done about it |
//! | [`guest`] | what the harts of a guest share |
//! | [`interrupts`] | the host's interrupt chips |
//! | [`console`] | one serial port for all guests |
//! | [`firmware`] | what the firmware below does for the hypervisor |
//! | [`csr`], [`vector`], [`mmio`] | the machine's own interface |

mod boot;
mod clock;
mod console;
mod csr;
mod ending;
mod exit;
mod firmware;
mod guest;
mod hart;
mod heap;
mod interrupts;
mod mmio;
mod statistics;
mod vector;

use core::panic::PanicInfo;

/// A number of 64 bits as a word of this machine, which has as many.
#[allow(clippy::cast_possible_truncation)]
const fn word(number: u64) -> usize {
    number as usize
}

/// A fault of the hypervisor's own: no guest can go on after that.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::emergency(format_args!("{info}"));
    ending::fail()
}
