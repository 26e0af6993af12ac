//! The block device's features and configuration space, and its start and stop.

use std::fmt::{self, Write};
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::backend::{Backend, Info};
use super::on_error::{HoldListener, OnError, Policy};
use super::request::{
    Executor, MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_WRITE_ZEROES_SECTORS,
    MAX_WRITE_ZEROES_SEGMENTS,
};
use crate::state::{self, RestoreError};
use crate::thread::Role;
use crate::virtio::worker::Worker;
use crate::virtio::{Activation, NotifyHandler, QueuePosition, VirtioDevice};

/// Descriptors in the request queue, as in QEMU.
const QUEUE_SIZE: u16 = 256;

/// Data buffers in one request: what a queue's worth of descriptors leaves beside header and status.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Bytes of the configuration space up to the write-zeroes limits, the last feature offered.
const CONFIG_SIZE: usize = 60;

/// From this sector on a discard helps a file system, which keeps account of blocks of 4 KiB.
const DISCARD_ALIGNMENT: u32 = 8;

/// What a disk answers to GET_ID: up to 20 printable ASCII characters, or nothing. Linux shows it in
/// /sys/block/vda/serial and udev makes a link in /dev/disk/by-id of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serial(pub(super) [u8; VIRTIO_BLK_ID_BYTES as usize]);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.iter().take_while(|byte| **byte != 0);
        text.map(|byte| char::from(*byte))
            .try_for_each(|character| f.write_char(character))
    }
}

/// A text that cannot be a disk's serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// It does not fit.
    #[error("disk serial is {0} characters long: give at most 20")]
    TooLong(usize),
    /// It holds something else than printable ASCII characters.
    #[error(
        "disk serial has a character other than letters, digits and ASCII punctuation: leave it out"
    )]
    NotAscii,
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ')
        {
            return Err(SerialError::NotAscii);
        }
        let mut serial = Self::default();
        // Padded with zeros, but not terminated by one (VIRTIO 1.3, section 5.2.6.1).
        serial
            .0
            .get_mut(..text.len())
            .ok_or(SerialError::TooLong(text.len()))?
            .copy_from_slice(text.as_bytes());
        Ok(serial)
    }
}

/// What tells whether a state is of the same disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockState {
    /// The disk's size.
    sectors: u64,
}

/// A virtio block device with one queue, served by a thread named `virtio-blk-N`, and by the vCPUs' threads where a single
/// request need not wait for the host's storage.
pub struct Block {
    backend: Arc<dyn Backend>,
    serial: Serial,
    config: [u8; CONFIG_SIZE],
    policy: Policy,
    worker: Worker,
}

impl Block {
    /// A device on `backend`; `index` only names its thread.
    ///
    /// # Errors
    /// If the host has no thread left.
    pub fn new(backend: Arc<dyn Backend>, serial: Serial, index: usize) -> io::Result<Self> {
        Ok(Self {
            config: config_space(backend.info()),
            backend,
            serial,
            policy: Policy::default(),
            worker: Worker::new(Role::Block(index))?,
        })
    }

    /// Has the requests that `on_error` names held when they fail, and `listener` told of each. Without this, all are reported
    /// to the guest.
    #[must_use]
    pub fn on_error(mut self, on_error: OnError, listener: HoldListener) -> Self {
        self.policy = Policy::new(on_error, listener);
        self
    }
}

/// `struct virtio_blk_config` (VIRTIO 1.3, section 5.2.4): fields of features that are not offered are zero.
fn config_space(info: &Info) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |offset: usize, value: &[u8]| {
        if let Some(field) = config
            .get_mut(offset..)
            .and_then(|rest| rest.get_mut(..value.len()))
        {
            field.copy_from_slice(value);
        }
    };
    put(0, &info.sectors.to_le_bytes()); // capacity
    put(12, &SEGMENTS_MAX.to_le_bytes()); // seg_max
    put(20, &512_u32.to_le_bytes()); // blk_size, in bytes
    if !info.read_only {
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &MAX_DISCARD_SEGMENTS.to_le_bytes());
        put(44, &DISCARD_ALIGNMENT.to_le_bytes()); // discard_sector_alignment
        put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
        put(52, &MAX_WRITE_ZEROES_SEGMENTS.to_le_bytes());
        put(56, &[1]); // write_zeroes_may_unmap
    }
    config
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> String {
        format!("disk '{}'", self.backend.info().name)
    }

    fn features(&self) -> u64 {
        let common =
            1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        common
            | if self.backend.info().read_only {
                1 << VIRTIO_BLK_F_RO
            } else {
                1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let Some(rest) = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.config.get(offset..))
        else {
            return;
        };
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    fn notify_handler(&self, _queue: u32) -> Option<Arc<dyn NotifyHandler>> {
        Some(self.worker.notify_handler())
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation {
            memory,
            features,
            queues,
            notifier,
        } = activation;
        let Some(queue) = queues.into_iter().next() else {
            // A driver that uses no queue. There is nothing to serve.
            return Ok(());
        };
        let write_through = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        let executor = Executor::new(
            Arc::clone(&self.backend),
            self.serial,
            write_through,
            self.policy.clone(),
        );
        self.worker.start(memory, queue, notifier, executor);
        Ok(())
    }

    fn pause(&mut self) -> Vec<QueuePosition> {
        self.worker.pause().into_iter().collect()
    }

    fn save(&self) -> Value {
        state::to_value(&BlockState {
            sectors: self.backend.info().sectors,
        })
    }

    /// A guest that has the disk in use knows its size, and what it wrote there must not land elsewhere.
    fn restore(&mut self, state: Value) -> Result<(), RestoreError> {
        let BlockState { sectors } = state::from_value(state)?;
        let info = self.backend.info();
        if sectors != info.sectors {
            return Err(RestoreError::mismatch(format!(
                "the disk '{}' has {} sectors, and had {sectors}",
                info.name, info.sectors
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
