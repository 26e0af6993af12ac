//! Calls of the SBI firmware below the hypervisor.

use hv_core::sbi;
use sbi_rt::{HartMask, Physical};

use super::csr::word;

/// Writes to the firmware's console, for before there is another and after there is none.
pub fn write(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let address = bytes.as_ptr() as usize;
        let written = sbi_rt::console_write(Physical::new(bytes.len(), address, 0));
        match written.ok() {
            Some(count) if count > 0 => bytes = bytes.get(count..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// Starts a hart of the host at `entry` with `argument` in `a1`. Whether it succeeded.
pub fn start_hart(hart: u64, entry: usize, argument: usize) -> bool {
    sbi_rt::hart_start(word(hart), entry, argument).is_ok()
}

/// Raises the supervisor software interrupt of a hart.
pub fn interrupt_hart(hart: u64) {
    let _ = sbi_rt::send_ipi(HartMask::from_mask_base(1, word(hart)));
}

/// Raises this hart's supervisor timer interrupt when `time` reaches `deadline`; the largest number is never.
pub fn set_timer(deadline: u64) {
    let _ = sbi_rt::set_timer(deadline);
}

/// Has harts fetch instructions anew.
pub fn remote_fence_i(mask: usize, base: usize) {
    let _ = sbi_rt::remote_fence_i(HartMask::from_mask_base(mask, base));
}

/// Has harts forget translations of the guest's own tables. They are those of the calling hart's guest, by its id in `hgatp`.
pub fn remote_hfence_vvma(mask: usize, base: usize, start: u64, size: u64, asid: Option<u64>) {
    let harts = HartMask::from_mask_base(mask, base);
    let (start, size) = (word(start), word(size));
    let _ = match asid {
        None => sbi_rt::remote_hfence_vvma(harts, start, size),
        Some(asid) => sbi_rt::remote_hfence_vvma_asid(harts, start, size, word(asid)),
    };
}

/// Asks the firmware to have hardware set accessed and dirty bits, in guests as well (SBI 3.0, "Firmware Features
/// Extension", `PTE_AD_HW_UPDATING`). Whether it does.
pub fn update_page_table_bits() -> bool {
    const SET: usize = 0;
    const PTE_AD_HW_UPDATING: usize = 4;
    let error: usize;
    // SAFETY: an SBI call changes no register but a0 and a1, and this one nothing of the program's.
    unsafe {
        core::arch::asm!(
            "ecall",
            inlateout("a0") PTE_AD_HW_UPDATING => error,
            inlateout("a1") 1_usize => _,
            in("a2") 0_usize,
            in("a6") SET,
            in("a7") word(sbi::FWFT_EID),
            options(nostack),
        );
    }
    error == 0
}

/// The three numbers that tell harts apart: vendor, architecture, implementation.
pub fn identity() -> [u64; 3] {
    [
        sbi_rt::get_mvendorid(),
        sbi_rt::get_marchid(),
        sbi_rt::get_mimpid(),
    ]
    .map(|number| number as u64)
}

/// Switches the machine off, as a failure or not.
pub fn shut_down(failed: bool) {
    let _ = if failed {
        sbi_rt::system_reset(sbi_rt::Shutdown, sbi_rt::SystemFailure)
    } else {
        sbi_rt::system_reset(sbi_rt::Shutdown, sbi_rt::NoReason)
    };
}
