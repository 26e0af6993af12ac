//! Tells the user of a guest that is paused because the host could not carry out a disk's request.

use std::fmt::Write;
use std::io::ErrorKind;

use hv_vmm::hv_devices::thread::{self, Role};
use hv_vmm::{Config, DeviceKind, Error, Event, Handle, OnError, RequestError, Sandbox};

use crate::logger;

/// The disks of a machine that can pause it: their ids and paths.
#[derive(Debug)]
pub struct PausingDisks(Vec<(String, String)>);

impl PausingDisks {
    /// Those of this machine; `None` if there are none.
    pub fn of(config: &Config) -> Option<PausingDisks> {
        let disks = config
            .devices
            .iter()
            .filter_map(|device| match &device.kind {
                DeviceKind::Disk(disk) => Some(disk),
                _ => None,
            });
        // No option gives a disk another id.
        let disks = disks
            .enumerate()
            .filter(|(_, disk)| disk.on_error != OnError::Report);
        let disks: Vec<_> = disks
            .map(|(number, disk)| (format!("disk{number}"), disk.path.display().to_string()))
            .collect();
        (!disks.is_empty()).then_some(PausingDisks(disks))
    }

    /// Says so whenever one of them has paused `machine`, in a thread of its own, which is confined by `sandbox` and ends with the
    /// machine. `resume` is what the user does to have the guest go on.
    ///
    /// # Errors
    /// The host has no thread left, or there is no sandbox.
    pub fn watch(self, machine: &Handle, resume: String, sandbox: Sandbox) -> Result<(), Error> {
        let events = machine.events();
        let body = move || {
            for event in events {
                if let Event::DiskError { id, error } = event {
                    logger::say(&self.message(&id, &error, &resume));
                }
            }
        };
        let _confined = thread::confine(sandbox.confinement()?);
        let thread = thread::spawn(Role::Messages, body);
        thread.map(drop).map_err(|error| Error::Host {
            doing: "start a thread",
            error,
        })
    }

    fn message(&self, id: &str, error: &RequestError, resume: &str) -> String {
        let mut text = id.to_owned();
        if let Some((_, path)) = self.0.iter().find(|(known, _)| known == id) {
            // Writing to a String does not fail.
            let _ = write!(text, " ({path})");
        }
        let RequestError {
            operation,
            offset,
            length,
            kind,
            reason,
        } = error;
        let cure = match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make space",
            _ => "remove the cause",
        };
        let _ = write!(
            text,
            ": {operation} of {length} bytes at offset {offset} failed: {reason}; the guest is paused: {cure}, then {resume}"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use hv_vmm::{DiskConfig, Payload, RngConfig};

    use super::*;

    fn disk(path: &str, on_error: OnError) -> DiskConfig {
        let mut disk = DiskConfig::new(path);
        disk.on_error = on_error;
        disk
    }

    #[test]
    fn the_message_says_what_failed_and_how_to_go_on() {
        let config = Config::new(Payload::Kernel("Image".into()))
            .device(disk("root.img", OnError::Report))
            .device(RngConfig::default())
            .device(disk("/srv/data.img", OnError::HoldNoSpace));
        let disks = PausingDisks::of(&config).unwrap();
        let mut error = RequestError {
            operation: "write",
            offset: 1 << 40,
            length: 4096,
            kind: ErrorKind::StorageFull,
            reason: "No space left on device".into(),
        };
        assert_eq!(
            disks.message("disk1", &error, "press Ctrl-a p"),
            "disk1 (/srv/data.img): write of 4096 bytes at offset 1099511627776 failed: No space left on device; \
             the guest is paused: make space, then press Ctrl-a p"
        );
        error.kind = ErrorKind::Other;
        let message = disks.message("disk1", &error, "run 'kill -CONT 1'");
        assert!(message.ends_with("paused: remove the cause, then run 'kill -CONT 1'"));
    }

    #[test]
    fn a_machine_whose_disks_report_needs_no_thread() {
        let config = Config::new(Payload::Kernel("Image".into()));
        let config = config.device(disk("root.img", OnError::Report));
        assert!(PausingDisks::of(&config).is_none());
        let config = config.device(disk("data.img", OnError::Hold));
        assert!(PausingDisks::of(&config).is_some());
    }
}
