//! hvrun in nested hosts of all kinds, as its users run it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod aia;
mod boot;
mod console;
mod control;
mod device_tree;
mod disk;
mod doctor;
mod embedding;
mod ends;
mod faults;
mod fixture;
#[path = "../shared/guest_disk.rs"]
mod guest_disk;
mod host_kernels;
mod hostile;
mod kills;
mod legacy_console;
mod memory;
mod network;
mod output;
mod pause;
mod payloads;
mod program;
mod refused;
mod sandbox;
mod suspend;
mod test_kernel;
mod user_errors;
mod virtio;
mod vsock;
