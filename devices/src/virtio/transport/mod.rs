//! How a guest reaches a virtio device (VIRTIO 1.3, section 4).

pub mod mmio;
