//! hvrun in nested hosts of both kinds, as its users run it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod boot;
mod device_tree;
mod disk;
mod ends;
mod fixture;
mod network;
mod program;
mod test_kernel;
mod user_errors;
mod virtio;
