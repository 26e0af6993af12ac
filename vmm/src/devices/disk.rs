//! Disks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hv_devices::virtio::VirtioDevice;
use hv_devices::virtio::block::{Block, ImageFormat, OnError, Raw, Serial};

use super::{DeviceKind, Kind, Opened, Opening};
use crate::Error;
use crate::control::Control;

/// A disk of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskConfig {
    /// A raw image, or a block device.
    pub path: PathBuf,
    /// Whether the file's contents are checked for other formats, or it is used as a raw image in any case.
    pub format: ImageFormat,
    /// Whether the guest can only read it.
    pub readonly: bool,
    /// Its serial number.
    pub serial: Serial,
    /// Which requests that the host cannot carry out pause the machine, with [`Event::DiskError`](crate::Event::DiskError), instead
    /// of being errors in the guest.
    pub on_error: OnError,
}

impl DiskConfig {
    /// A disk that the guest can write, without a serial number, whose contents are checked, and whose errors the guest sees.
    pub fn new(path: impl Into<PathBuf>) -> DiskConfig {
        DiskConfig {
            path: path.into(),
            format: ImageFormat::Auto,
            readonly: false,
            serial: Serial::default(),
            on_error: OnError::default(),
        }
    }
}

impl From<DiskConfig> for DeviceKind {
    fn from(disk: DiskConfig) -> DeviceKind {
        DeviceKind::Disk(disk)
    }
}

impl Kind for DiskConfig {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn input(&self) -> Option<(&'static str, &Path)> {
        Some(("disk", &self.path))
    }

    fn open(&self, opening: &Opening) -> Result<Box<dyn Opened>, Error> {
        let config = self.clone();
        let open = move || Raw::open(&config.path, config.readonly, config.format);
        Ok(Box::new(Disk {
            disk: Arc::new(opening.stop.unless_stopped(open)??),
            serial: self.serial,
            on_error: self.on_error,
            id: opening.id.to_owned(),
            index: opening.index,
            control: opening.control.clone(),
        }))
    }
}

/// An open disk.
struct Disk {
    disk: Arc<Raw>,
    serial: Serial,
    on_error: OnError,
    id: String,
    index: usize,
    control: Arc<Control>,
}

impl Opened for Disk {
    fn power_on(&self) -> io::Result<Box<dyn VirtioDevice>> {
        let block = Block::new(self.disk.clone(), self.serial, self.index)?;
        let (control, id) = (self.control.clone(), self.id.clone());
        let listener = Arc::new(move |error| control.disk_error(&id, error));
        Ok(Box::new(block.on_error(self.on_error, listener)))
    }
}
