//! What this host can give a guest.

pub mod capabilities;
pub mod host;
