//! Vector registers ("V" Extension, section 30.3), of whatever length a hart has them.

use alloc::boxed::Box;
use alloc::vec;
use core::arch::asm;

use hv_core::trap::sstatus;

use crate::hypervisor::csr::{self, number, word};

/// `vtype` of a hart on which nobody has used them ("State of Vector Extension at Reset").
const VILL: u64 = 1 << 63;

/// How many registers one of the instructions below moves.
const GROUP: usize = 8;

/// The registers.
#[derive(Debug, Default)]
pub struct Vector {
    /// v0 to v31, one after the other.
    registers: Box<[u8]>,
    start: u64,
    csr: u64,
    length: u64,
    vtype: u64,
}

/// One instruction, with the address of a group of registers.
macro_rules! move_group {
    ($instruction:literal, $bytes:expr) => {
        asm!(
            ".option push",
            ".option arch, +v",
            $instruction,
            ".option pop",
            bytes = in(reg) $bytes,
            options(nostack)
        )
    };
}

impl Vector {
    /// Room for the registers of this hart, which has some.
    pub fn of_this_hart() -> Self {
        // SAFETY: this program is compiled without these registers.
        unsafe { csr::set::<{ number::SSTATUS }>(sstatus::VS) };
        Self {
            registers: vec![0; 4 * group_size()].into(),
            vtype: VILL,
            ..Self::default()
        }
    }

    /// All zero, and as after a reset.
    pub fn reset(&mut self) {
        self.registers.fill(0);
        self.start = 0;
        self.csr = 0;
        self.length = 0;
        self.vtype = VILL;
    }

    /// Puts them into this hart.
    pub fn load(&self) {
        let mut groups = self.registers.chunks_exact(group_size());
        let mut next = || groups.next().map(<[u8]>::as_ptr);
        // SAFETY: the hart has these registers, they are enabled, and this program, which is compiled without them, has no use for
        // them. What is read is the size of a group, and lies in the value. `vstart` is where the moves begin.
        unsafe {
            csr::write::<{ number::VSTART }>(0);
            if let Some(bytes) = next() {
                move_group!("vl8re8.v v0, ({bytes})", bytes);
            }
            if let Some(bytes) = next() {
                move_group!("vl8re8.v v8, ({bytes})", bytes);
            }
            if let Some(bytes) = next() {
                move_group!("vl8re8.v v16, ({bytes})", bytes);
            }
            if let Some(bytes) = next() {
                move_group!("vl8re8.v v24, ({bytes})", bytes);
            }
        }
        set_length_and_type(self.length, self.vtype);
        // SAFETY: they are the guest's. The one that is written last is what all other vector instructions clear.
        unsafe {
            csr::write::<{ number::VCSR }>(self.csr);
            csr::write::<{ number::VSTART }>(self.start);
        }
    }

    /// Takes them from this hart.
    pub fn store(&mut self) {
        self.start = csr::read::<{ number::VSTART }>();
        self.csr = csr::read::<{ number::VCSR }>();
        self.length = csr::read::<{ number::VL }>();
        self.vtype = csr::read::<{ number::VTYPE }>();
        let mut groups = self.registers.chunks_exact_mut(group_size());
        let mut next = || groups.next().map(<[u8]>::as_mut_ptr);
        // SAFETY: as in `load`; what is written is the value's own.
        unsafe {
            csr::write::<{ number::VSTART }>(0);
            if let Some(bytes) = next() {
                move_group!("vs8r.v v0, ({bytes})", bytes);
            }
            if let Some(bytes) = next() {
                move_group!("vs8r.v v8, ({bytes})", bytes);
            }
            if let Some(bytes) = next() {
                move_group!("vs8r.v v16, ({bytes})", bytes);
            }
            if let Some(bytes) = next() {
                move_group!("vs8r.v v24, ({bytes})", bytes);
            }
        }
    }

    /// Leaves nothing of them in this hart.
    pub fn clear() {
        // SAFETY: as in `load`, without memory.
        unsafe {
            asm!(
                ".option push",
                ".option arch, +v",
                "vsetvli {all}, zero, e8, m8, ta, ma",
                ".irp n, 0, 8, 16, 24",
                "vmv.v.i v\\n, 0",
                ".endr",
                ".option pop",
                all = out(reg) _,
                options(nomem, nostack)
            );
            csr::write::<{ number::VCSR }>(0);
        }
        set_length_and_type(0, VILL);
    }
}

/// Bytes of a group of this hart's registers, which are enabled.
fn group_size() -> usize {
    GROUP.saturating_mul(word(csr::read::<{ number::VLENB }>()))
}

/// `vl` and `vtype`, which no other instruction writes. A length that goes with the type is taken as it is.
fn set_length_and_type(length: u64, vtype: u64) {
    // SAFETY: they are the guest's; the hart has them, and they are enabled.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +v",
            "vsetvl zero, {length}, {vtype}",
            ".option pop",
            length = in(reg) length,
            vtype = in(reg) vtype,
            options(nomem, nostack)
        );
    }
}
