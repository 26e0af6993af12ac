//! The two interrupt chips that a guest can have, behind one small interface.

mod aia;
mod plic;

use std::sync::Arc;

use hv_core::addr::GuestPhysAddr;
use hv_core::machine::InterruptController;
use hv_devices::bus::MmioDevice;
use hv_devices::interrupt::IrqLine;

use crate::Error;

pub use aia::Aia;
pub use plic::PlicChip;

/// How a device's wire is to be understood; as the device tree tells the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Each assertion is one interrupt. On an AIA it costs no more than an eventfd; a PLIC knows levels alone.
    Edge,
    /// The interrupt stays until the device lowers its wire.
    Level,
}

/// An interrupt chip.
pub trait Irqchip {
    /// What the guest's device tree says of it.
    fn describe(&self) -> InterruptController;

    /// The wire of interrupt `source`.
    ///
    /// # Errors
    /// KVM or the host refuse.
    fn line(&self, source: u32, trigger: Trigger) -> Result<Arc<dyn IrqLine>, Error>;

    /// Its registers, where they are served in userspace: base, size in bytes, and the device.
    fn registers(&self) -> Option<(GuestPhysAddr, u64, Arc<dyn MmioDevice>)>;
}
