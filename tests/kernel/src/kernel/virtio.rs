//! Virtio over MMIO, in both versions of its registers (VIRTIO 1.3, sections 4.2.2 and 4.2.4).

pub mod block;
pub mod console;
pub mod queue;
pub mod requests;
pub mod slots;
pub mod transport;
