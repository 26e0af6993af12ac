//! hvrun in nested hosts of both kinds, as its users run it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod boot;
mod console;
mod device_tree;
mod disk;
mod doctor;
mod ends;
mod fixture;
mod legacy_console;
mod network;
mod payloads;
mod program;
mod suspend;
mod test_kernel;
mod user_errors;
mod virtio;
