//! The bare-metal hypervisor in QEMU, with guests of every kind, on each interrupt chip that a host can have.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod bad_input;
mod ends;
mod fixture;
#[path = "../shared/guest_disk.rs"]
mod guest_disk;
mod hostile;
mod interrupts;
mod isolation;
mod linux;
#[path = "../shared/session.rs"]
mod session;
mod test_kernel;
