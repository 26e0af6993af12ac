//! The machine around the vCPUs: its memory, interrupt chip and devices, what lasts one boot of it, and how a boot ends.

pub mod alarm;
pub mod board;
pub mod ending;
pub mod irqchip;
pub mod memory;
pub mod restarts;
pub mod wakeup;
