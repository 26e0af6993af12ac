//! The devices that a hvrun guest sees: the MMIO [`bus`], the 16550A [`uart`], the real-time clock
//! [`rtc`], the [`test_device`] that ends the machine, and [`virtio`] devices on the virtio-mmio transport.
//!
//! This crate uses guest memory and host files, and does not depend on KVM: a device raises an [`interrupt::IrqLine`], and the
//! owner of the machine decides what it leads to. Nothing that a guest writes ends the process. A guest that breaks the rules
//! of a device gets the response of the specification, or that one device stops until it is reset.

// Guests choose offsets, lengths and indexes, so every access and every sum has to say what happens when it misses.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod bus;
pub mod chardev;
pub mod device_file;
pub mod entropy;
mod file_lock;
pub mod interrupt;
pub mod memory;
pub mod rtc;
pub mod state;
mod sync;
pub mod test_device;
pub mod thread;
pub mod uart;
mod unix_socket;
pub mod virtio;
mod write_problem;

pub use write_problem::write_problem;

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// Locks `mutex`, even if a panic elsewhere has poisoned it. The state behind every lock of this crate is valid between
/// any two statements, so a second panic would only hide the first one.
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The descriptor of an event, to wait for it.
fn borrowed(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the event lives, which is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
