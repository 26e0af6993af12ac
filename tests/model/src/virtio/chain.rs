//! A request: no buffers, but the ring and the entry that it is in.

use std::marker::PhantomData;
use std::sync::Arc;

use super::queue::Ring;

/// What a driver did wrong: nothing, here.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {}

impl std::fmt::Display for Malformed {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

/// The request that is being served.
#[derive(Debug, Default)]
pub struct Chain<'m> {
    pub(super) request: Option<(Arc<Ring>, u16)>,
    memory: PhantomData<&'m ()>,
}

impl Chain<'_> {
    pub(super) fn recycle<'n>(self) -> Chain<'n> {
        Chain::default()
    }

    /// Carries out the request.
    pub(super) fn serve(&self) -> u32 {
        if let Some((ring, head)) = &self.request {
            ring.serve(*head);
        }
        1
    }
}
