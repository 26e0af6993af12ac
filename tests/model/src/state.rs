//! Saved states, which no model has.

/// Why a state cannot be restored.
#[derive(Debug)]
pub struct RestoreError;

impl RestoreError {
    pub(crate) fn mismatch(_: impl Into<String>) -> Self {
        Self
    }

    pub(crate) fn unless(possible: bool, _: &'static str) -> Result<(), Self> {
        possible.then_some(()).ok_or(Self)
    }
}
