//! The machine around the vCPUs: its interrupt chip, its clock, and what lasts one boot of it.

pub mod alarm;
pub mod board;
pub mod irqchip;
pub mod restarts;
