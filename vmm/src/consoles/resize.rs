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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use event_manager::{EventManager, SubscriberOps};
    use hv_devices::chardev::Nowhere;
    use hv_devices::virtio::VirtioDevice;
    use hv_devices::virtio::console::{Console, PortConfig, Ports};
    use nix::pty::{Winsize, openpty};

    use super::*;

    fn winsize(columns: u16, rows: u16) -> Winsize {
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }
    }

    #[test]
    fn a_console_is_as_large_as_its_terminal() {
        let ports = Ports::new(vec![PortConfig {
            name: String::new(),
            is_console: true,
            on_terminal: true,
            output: Arc::new(Nowhere),
        }]);
        let ports = Arc::new(ports.unwrap());
        let console = Console::new(ports.clone()).unwrap();
        let size = || {
            let mut size = [0; 4];
            console.read_config(0, &mut size);
            let [a, b, c, d] = size;
            (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
        };
        let terminal = openpty(&winsize(80, 25), None).unwrap();
        let (event, mut changed) = std::os::unix::net::UnixStream::pair().unwrap();
        let files = vec![
            File::open("/dev/null").unwrap(),
            File::from(terminal.slave.try_clone().unwrap()),
        ];
        let resize = Resize::new(Some(event.into()), files, ports.get(0).unwrap());
        assert_eq!(size(), (80, 25), "at once");
        let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        events.add_subscriber(Box::new(resize));
        nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, Winsize);
        for (columns, rows) in [(132, 43), (80, 43)] {
            // SAFETY: the descriptor is a terminal's, and the structure lives across the call.
            unsafe {
                set_size(
                    std::os::fd::AsRawFd::as_raw_fd(&terminal.slave),
                    &winsize(columns, rows),
                )
            }
            .unwrap();
            changed.write_all(b"!").unwrap();
            assert_eq!(
                events
                    .run_with_timeout(hv_test_limit::MILLISECONDS)
                    .unwrap(),
                1
            );
            assert_eq!(size(), (columns, rows));
            assert_eq!(events.run_with_timeout(0).unwrap(), 0, "it is told once");
        }
    }
}
