//! The same types as in `host.rs`, on a machine that is not RISC-V: opening fails with the reason, and no value of the other types can exist.

use vmm_sys_util::eventfd::EventFd;

use super::aia::{AiaError, AiaShape};
use super::isa::ReadRegister;
use super::register::Register;
use super::{Access, Errno, Exit, OpenError};

/// `/dev/kvm`, which cannot be had.
#[derive(Debug)]
pub enum Kvm {}

/// A virtual machine, which cannot be had.
#[derive(Debug)]
pub enum Vm {}

/// A vCPU, which cannot be had.
#[derive(Debug)]
pub enum Vcpu {}

/// A vCPU's external interrupt, which cannot be had.
#[derive(Debug)]
pub enum InterruptPin {}

#[allow(missing_docs, clippy::missing_errors_doc)] // described in host.rs
impl Kvm {
    pub fn open() -> Result<Kvm, OpenError> {
        Err(OpenError::NotRiscv)
    }
    pub fn create_vm(&self) -> Result<Vm, Errno> {
        match *self {}
    }
    pub fn max_vcpus(&self) -> u32 {
        match *self {}
    }
}

#[allow(missing_docs, clippy::missing_errors_doc, clippy::missing_safety_doc)] // described in host.rs
impl Vm {
    pub fn guest_physical_bits(&self) -> u32 {
        match *self {}
    }
    pub fn has_aia(&self) -> bool {
        match *self {}
    }
    /// # Safety
    /// There is no value to call this on.
    pub unsafe fn add_memory(
        &self,
        _: u32,
        _: Access,
        _: u64,
        _: *mut u8,
        _: u64,
    ) -> Result<(), Errno> {
        match *self {}
    }
    pub fn has_read_only_memory(&self) -> bool {
        match *self {}
    }
    pub fn create_vcpu(&self, _: u32) -> Result<Vcpu, Errno> {
        match *self {}
    }
    pub fn create_aia(&self, _: u32) -> Result<AiaShape, AiaError> {
        match *self {}
    }
    pub fn aia_uses_guest_interrupt_files(&self) -> Result<bool, AiaError> {
        match *self {}
    }
    pub fn signal_on_write(&self, _: u64, _: u32, _: &EventFd) -> Result<(), Errno> {
        match *self {}
    }
    pub fn inject_on_event(&self, _: &EventFd, _: u32) -> Result<(), Errno> {
        match *self {}
    }
    pub fn set_line(&self, _: u32, _: bool) -> Result<(), Errno> {
        match *self {}
    }
}

#[allow(missing_docs, clippy::missing_errors_doc)] // described in host.rs
impl Vcpu {
    pub fn interrupt_pin(&self) -> Result<InterruptPin, Errno> {
        match *self {}
    }
    pub fn write(&self, _: Register, _: u64) -> Result<(), Errno> {
        match *self {}
    }
    pub fn finish_exit(&mut self) {
        match *self {}
    }
    pub fn run(&mut self) -> Exit<'_> {
        match *self {}
    }
    pub fn load(&mut self) -> nix::Result<()> {
        match *self {}
    }
    pub fn is_stopped(&self) -> bool {
        match *self {}
    }
    pub fn pc(&self) -> u64 {
        match *self {}
    }
}

impl ReadRegister for Vcpu {
    fn read(&self, _: Register) -> Option<u64> {
        match *self {}
    }
}

#[allow(missing_docs, clippy::missing_errors_doc)] // described in host.rs
impl InterruptPin {
    pub fn set(&self, _: bool) -> Result<(), Errno> {
        match *self {}
    }
}
