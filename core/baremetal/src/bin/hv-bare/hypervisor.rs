//! The program, in layers: a module uses those in the rows below its own, and none above.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`] | from the firmware to the first guest |
//! | [`run`] | the loop of a hart of the host: enter its guest, handle the exit, wait |
//! | [`exit`] | what is done about an exit, and what the hart does next |
//! | [`hart`] | a hart of the host with its guest's hart: start, halt, interrupts |
//! | [`ending`] | the end of a guest |
//! | [`monitor`] | what the user types |
//! | [`guests`] | all guests |
//! | [`guest`] | what the harts of a guest share |
//! | [`state`], [`vcpu`] | the host machine; a virtual hart as a value |
//! | [`interrupts`], [`vector`] | the host's interrupt chips; entry into a guest and exit from it |
//! | [`power`] | the end of the machine |
//! | [`console`] | one serial port for the output of all guests |
//! | [`clock`], [`firmware`], [`csr`], [`mmio`], [`heap`], [`statistics`] | the machine's own interface, and counts |

mod boot;
mod clock;
mod console;
mod csr;
mod ending;
mod exit;
mod firmware;
mod guest;
mod guests;
mod hart;
mod heap;
mod interrupts;
mod mmio;
mod monitor;
mod power;
mod run;
mod state;
mod statistics;
mod vcpu;
mod vector;

use core::panic::PanicInfo;

/// A fault of the hypervisor's own: no guest can go on after that.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::emergency(format_args!("{info}"));
    power::fail()
}
