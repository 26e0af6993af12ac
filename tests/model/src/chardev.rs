//! Console output: `devices/src/chardev/`, as far as it is about threads.

use std::sync::Arc;

use hv_devices::memory::GuestSlice;

use crate::sync::EventFd;

#[rustfmt::skip]
#[path = "../../../devices/src/chardev/merged.rs"]
pub mod merged;

#[rustfmt::skip]
#[path = "../../../devices/src/chardev/output.rs"]
pub mod output;

/// Where a device's output goes.
pub trait OutputSink: Send + Sync {
    /// Takes all of `bytes`. May wait for room.
    fn write(&self, bytes: &[u8]);

    /// The same for what is in guest memory.
    fn write_memory(&self, memory: &GuestSlice<'_>) {
        copy_memory(self, memory);
    }

    /// Takes what there is room for, without waiting.
    fn try_write(&self, bytes: &[u8]) -> usize;

    /// Sets the event for [`try_write`](Self::try_write).
    fn set_room_event(&self, event: Arc<EventFd>);
}

/// A device that takes input.
pub trait InputSink: Send + Sync {
    /// Hands bytes to the guest. Returns how many of them were taken.
    fn receive(&self, bytes: &[u8]) -> usize;

    /// Sets the event that is written to when there is room again.
    fn set_room_event(&self, event: EventFd);

    /// Takes what the guest has not read, for a guest that reads by SBI.
    fn take_received(&self, buffer: &mut [u8]) -> usize;
}

fn copy_memory(output: &(impl OutputSink + ?Sized), memory: &GuestSlice<'_>) {
    let mut bytes = vec![0; memory.len()];
    memory.copy_to(&mut bytes);
    output.write(&bytes);
}
