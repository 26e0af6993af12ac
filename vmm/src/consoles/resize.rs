//! The size of the user's terminal, on its way to the guest's console.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use hv_devices::chardev::window_size;
use hv_devices::virtio::console::Port;

/// Tells a virtio console how large its terminal is, and when that changes.
pub struct Resize {
    /// Readable when it may have changed.
    event: Option<File>,
    /// The files that may be the terminal.
    files: Vec<File>,
    port: Arc<Port>,
    size: Option<(u16, u16)>,
}

impl Resize {
    /// For this port, which is told the size at once. The first of `files` that is a terminal is asked for it.
    pub fn new(event: Option<OwnedFd>, files: Vec<File>, port: Arc<Port>) -> Resize {
        let event = event.map(File::from);
        let mut resize = Resize {
            event,
            files,
            port,
            size: None,
        };
        resize.update();
        resize
    }

    fn update(&mut self) {
        let size = self.files.iter().find_map(window_size);
        if let Some((columns, rows)) = size
            && size != self.size
        {
            self.size = size;
            self.port.set_size(columns, rows);
        }
    }
}

impl MutEventSubscriber for Resize {
    fn init(&mut self, ops: &mut EventOps) {
        if let Some(event) = &self.event
            && let Err(error) = ops.add(Events::new(event, EventSet::IN))
        {
            log::warn!("the virtio console does not follow the terminal's size: {error}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        // Once: what is left makes it ready again. First read, then asked, so that no change is missed.
        let _ = self.event.as_mut().map(|event| event.read(&mut [0; 512]));
        self.update();
    }
}
