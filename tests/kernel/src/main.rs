//! A guest that tests the machine it runs on: a kernel for S-mode that knows of the machine what its device tree says, and
//! asserts what the specifications say. What hypervisor or emulator there is below it makes no difference to it.
//!
//! It prints one line for each test on the serial port, `ok NAME`, `not ok NAME: why` or `skip NAME: why`, and at the end
//! `done: …` with the counts. Then it ends the machine through the test device, with the number of failed tests as its
//! code, or by SBI where there is no test device.
//!
//! Words of the command line that it knows, among others that it ignores:
//!
//! - `test=PREFIX[,PREFIX…]`: only the tests whose names begin so.
//! - `without=NAME[,NAME…]`: not these tests, which this machine is known not to survive.
//! - `times=yes`: how long each test takes.
//! - `fail=CODE`: no tests, an end with this code.
//!
//! And words for tests that are not among the others, in place of them, because they take long or need company:
//!
//! - `attack=yes`: whether the machine keeps what it has not given to this guest.
//! - `count=NUMBER`: so many interrupts of every kind, none of which may be lost.
//! - `pattern=SECONDS`: whether memory stays as it was written, for so long.
//! - `hostile=SECONDS[,seed=NUMBER][,boots=NUMBER][,without=KIND[+KIND…]]`: no tests; every hart attacks everything that the machine
//!   has, as `kernel/hostile.rs` says.
//! - `honest=SECONDS`: no tests; it writes its disk and reads it, for so long, and says how much it got done.
//! - `hang=yes`: no tests; every hart spins with all interrupts disabled, for ever.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("testkernel: this is a kernel; build it with --target riscv64gc-unknown-none-elf");
    std::process::ExitCode::FAILURE
}
