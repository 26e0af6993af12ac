//! hvrun in nested hosts of both kinds, as its users run it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod boot;
mod console;
mod device_tree;
mod disk;
mod doctor;
mod ends;
mod fixture;
#[path = "../shared/guest_disk.rs"]
mod guest_disk;
mod legacy_console;
mod memory;
mod network;
mod output;
mod payloads;
mod program;
#[path = "../shared/report.rs"]
mod report;
mod suspend;
mod test_kernel;
mod user_errors;
mod virtio;
