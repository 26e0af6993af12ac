//! What becomes of a request that the host cannot carry out: QEMU's `werror` and `rerror`.

use std::io;
use std::sync::Arc;

/// Which failed requests are held instead of reported.
///
/// A request that is held has no status yet. Those behind it wait, and the device begins no other until it is paused and goes on:
/// then the request is carried out from its start, so the guest sees no error if the cause is gone by then.
///
/// A flush is never held. When it fails, the host has already given up what it could not write, so a repetition proves
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// None: the guest sees an I/O error.
    #[default]
    Report,
    /// Those for which the host has no space left, or the user no quota.
    HoldNoSpace,
    /// All but flushes.
    Hold,
}

impl OnError {
    fn holds(self, error: &io::Error) -> bool {
        match self {
            Self::Report => false,
            Self::HoldNoSpace => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Hold => true,
        }
    }
}

/// A request, or a piece of a long one, that the host could not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// What was asked for: `read`, `write`, `discard` or `write zeroes`.
    pub operation: &'static str,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How many bytes of it.
    pub length: u64,
    /// The host's error.
    pub kind: io::ErrorKind,
    /// The host's error, in words.
    pub reason: String,
}

/// Is told of each request that is held. Called on the device's thread, which it does not hold up; it sees to it that the
/// device is paused.
pub type HoldListener = Arc<dyn Fn(RequestError) + Send + Sync>;

/// The policy of a device, and who is told of what it holds.
#[derive(Clone, Default)]
pub(super) struct Policy(Option<(OnError, HoldListener)>);

impl Policy {
    pub fn new(on_error: OnError, listener: HoldListener) -> Self {
        Self(Some((on_error, listener)))
    }

    /// Tells of the request and returns `true` if it is held.
    pub fn hold(
        &self,
        operation: &'static str,
        (offset, length): (u64, u64),
        error: &io::Error,
    ) -> bool {
        let Some((_, listener)) = self.0.as_ref().filter(|(policy, _)| policy.holds(error)) else {
            return false;
        };
        listener(RequestError {
            operation,
            offset,
            length,
            kind: error.kind(),
            reason: match error.raw_os_error() {
                Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
                None => error.to_string(),
            },
        });
        true
    }
}
