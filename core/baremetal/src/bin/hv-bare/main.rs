//! The bare-metal flavor: a type-1 hypervisor that runs in HS-mode under SBI firmware and gives each guest a part of the
//! machine for its own.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod hypervisor;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "hv-bare: this runs on a machine without a system; cargo hvrun --bare builds and starts it in QEMU"
    );
    std::process::ExitCode::FAILURE
}
