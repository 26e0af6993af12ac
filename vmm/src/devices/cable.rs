//! The cable of a network interface, which stays as it is when the guest reboots.

use std::sync::{Arc, Mutex, PoisonError};

use hv_devices::virtio::net::{Link, Net};

/// The link of the interface's device, which each boot creates anew. It is up at first.
#[derive(Default)]
pub struct Cable(Mutex<Option<Arc<Link>>>);

impl Cable {
    /// Attaches the device of the next boot, whose link is as the last one's.
    pub fn attach(&self, net: &Net) {
        let link = net.link();
        let mut attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = attached.replace(link.clone()) {
            link.set(before.is_up());
        }
    }

    /// Sets the link up or down. The driver is told if that is a change.
    pub fn set(&self, up: bool) {
        let attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = attached.as_ref() {
            link.set(up);
        }
    }
}
