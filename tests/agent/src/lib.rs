//! The lab's agent: what runs as `/init` in the nested RISC-V host, and the protocol by which the developer's machine
//! tells it what to do.
//!
//! The two ends share one byte stream, a virtio-serial port. [`protocol`] says what goes over it; [`server`] is the
//! nested host's end: it starts processes, carries their input and output, and mounts file systems. The other end is
//! `hv_lab::host`.
//!
//! The server is Linux code of no particular architecture, so that its tests run without QEMU.

pub mod protocol;
pub mod server;
