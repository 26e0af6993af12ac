//! The state of devices as plain data: what a snapshot of a machine keeps of them.
//!
//! Each device has a `*State` structure beside its handles (threads, descriptors, what it is connected to), and two
//! methods: `save` takes the state of a device that is paused, and `restore` puts one into a device that was made with
//! the same configuration. Nothing of the host is in a state, and none of what the configuration says, but for what shows
//! that the two belong together.
//!
//! A state comes from a file, so it is checked before anything of it is used. What a guest could have brought about by
//! writing registers is possible, and handled like that; anything else is a [`RestoreError`], and the device is as it was.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a state cannot be put into a device, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is that of a device with another configuration.
    #[error(
        "the saved state does not fit this machine: {0}; use the configuration that it was saved with"
    )]
    Mismatch(String),
    /// No device has this state.
    #[error("the saved state is damaged: {0}; save the machine again")]
    Damaged(String),
}

impl RestoreError {
    pub(crate) fn mismatch(what: impl Into<String>) -> Self {
        Self::Mismatch(what.into())
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// The error of a state that is damaged unless `possible`.
    pub(crate) fn unless(possible: bool, what: &'static str) -> Result<(), Self> {
        if possible {
            Ok(())
        } else {
            Err(Self::damaged(what))
        }
    }
}

/// The state of a device whose kind is not known to who keeps it. See
/// [`VirtioDevice::save`](crate::virtio::VirtioDevice::save).
pub(crate) fn to_value(state: &impl Serialize) -> Value {
    // Structures of numbers, texts and lists always are a value.
    serde_json::to_value(state).unwrap_or_default()
}

/// The same the other way round.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, RestoreError> {
    serde_json::from_value(value).map_err(|error| RestoreError::damaged(error.to_string()))
}
