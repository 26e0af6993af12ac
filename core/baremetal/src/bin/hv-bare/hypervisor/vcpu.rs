//! All that a virtual hart is to its guest, as a value.
//!
//! The value is valid while the hart does not run: [`Vcpu::load`] puts it into the hart of the host that it is to run on, and
//! [`Vcpu::store`] takes it from there. Between the two, general registers and pc are in the value whenever the hypervisor runs;
//! everything else is in the hart. Pending interrupts are not part of it: they belong to whoever raises them, the guest's
//! interrupt chip and other harts ([`super::guest::Link`]).

use core::arch::asm;

use hv_bare::exit::TrapCsrs;
use hv_core::trap::{cause, sstatus};

use super::csr::{self, hstatus, interrupt, number};
use super::vector::{self, Context};

/// The counters that a guest reads without an exit: `cycle`, `time`, `instret`.
pub const COUNTERS: u64 = 0b111;

/// State that the guest can use, and that it has not used yet, in `vsstatus`: as firmware hands a hart over.
const FLOAT_INITIAL: u64 = 1 << 13;
const VECTOR_INITIAL: u64 = 1 << 9;

/// What a hart has beside the base ISA.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// A timer of the guest's own (Sstc).
    pub timer: bool,
    /// Floating-point registers.
    pub float: bool,
    /// Vector registers.
    pub vector: bool,
}

/// A virtual hart.
#[derive(Debug)]
pub struct Vcpu {
    /// General registers and the program counter.
    pub context: Context,
    /// The time at which its timer interrupt is due, in ticks; the largest number for never. With [`Parts::timer`] the hart's
    /// `vstimecmp` is in its place while it is loaded.
    pub timer: u64,
    csrs: VsCsrs,
    /// The mode that the next sret enters: of `sstatus` the bit SPP, and `hstatus`.
    spp: u64,
    hstatus: u64,
    float: Float,
    parts: Parts,
}

/// The CSRs that are the guest's S-mode ones, by their names there, and two that it shares with the hypervisor.
#[derive(Debug, Default)]
struct VsCsrs {
    status: u64,
    ie: u64,
    tvec: u64,
    scratch: u64,
    epc: u64,
    cause: u64,
    tval: u64,
    atp: u64,
    counteren: u64,
    envcfg: u64,
}

/// Floating-point registers.
#[repr(C)]
#[derive(Debug, Default)]
struct Float {
    registers: [u64; 32],
    fcsr: u64,
}

impl Vcpu {
    /// A hart as SBI starts or resumes it at `pc`: with its number in a0, `opaque` in a1, and without translation and interrupts
    /// (SBI 3.0, "Hart start" and "Hart suspend"). Its timer is not set.
    pub fn new(id: u32, pc: u64, opaque: u64, parts: Parts) -> Self {
        let mut context = Context::new();
        context.pc = pc;
        let [_, _, _, _, _, _, _, _, _, _, a0, a1, ..] = &mut context.registers;
        *a0 = id.into();
        *a1 = opaque;
        let mut status = 0;
        if parts.float {
            status |= FLOAT_INITIAL;
        }
        // Not without the registers: some harts keep the bits all the same, and a guest believes them.
        if parts.vector {
            status |= VECTOR_INITIAL;
        }
        Self {
            context,
            timer: u64::MAX,
            csrs: VsCsrs {
                status,
                counteren: COUNTERS,
                ..VsCsrs::default()
            },
            spp: sstatus::SPP,
            hstatus: hstatus::VSXL_64 | hstatus::SPV | hstatus::SPVP,
            float: Float::default(),
            parts,
        }
    }

    /// Puts everything into this hart. It can be entered after that.
    pub fn load(&self) {
        let mut available = 0;
        if self.parts.float {
            available |= sstatus::FS;
        }
        if self.parts.vector {
            available |= sstatus::VS;
        }
        let csrs = &self.csrs;
        // SAFETY: all of these are the guest's, but for sstatus and hstatus, which say that the next sret enters it in VS-mode,
        // as `vector` wants it.
        unsafe {
            csr::write::<{ number::VSSTATUS }>(csrs.status);
            csr::write::<{ number::VSIE }>(csrs.ie);
            csr::write::<{ number::VSTVEC }>(csrs.tvec);
            csr::write::<{ number::VSSCRATCH }>(csrs.scratch);
            csr::write::<{ number::VSEPC }>(csrs.epc);
            csr::write::<{ number::VSCAUSE }>(csrs.cause);
            csr::write::<{ number::VSTVAL }>(csrs.tval);
            csr::write::<{ number::VSATP }>(csrs.atp);
            csr::write::<{ number::SCOUNTEREN }>(csrs.counteren);
            csr::write::<{ number::SENVCFG }>(csrs.envcfg);
            if self.parts.timer {
                csr::write::<{ number::VSTIMECMP }>(self.timer);
            }
            csr::clear::<{ number::SSTATUS }>(sstatus::SPP);
            csr::set::<{ number::SSTATUS }>(self.spp | available);
            csr::write::<{ number::HSTATUS }>(self.hstatus);
        }
        if self.parts.float {
            self.float.load();
        }
    }
    /// Takes everything from this hart, which goes on with other things after that. What is in the hart stays there.
    pub fn store(&mut self) {
        self.csrs = VsCsrs {
            status: csr::read::<{ number::VSSTATUS }>(),
            ie: csr::read::<{ number::VSIE }>(),
            tvec: csr::read::<{ number::VSTVEC }>(),
            scratch: csr::read::<{ number::VSSCRATCH }>(),
            epc: csr::read::<{ number::VSEPC }>(),
            cause: csr::read::<{ number::VSCAUSE }>(),
            tval: csr::read::<{ number::VSTVAL }>(),
            atp: csr::read::<{ number::VSATP }>(),
            counteren: csr::read::<{ number::SCOUNTEREN }>(),
            envcfg: csr::read::<{ number::SENVCFG }>(),
        };
        self.spp = csr::read::<{ number::SSTATUS }>() & sstatus::SPP;
        self.hstatus = csr::read::<{ number::HSTATUS }>();
        if self.parts.timer {
            self.timer = csr::read::<{ number::VSTIMECMP }>();
        }
        if self.parts.float {
            self.float.store();
        }
    }

    /// Runs the guest, which is loaded, until it traps into the hypervisor, and answers what the trap left in the CSRs. Those that
    /// only a guest-page fault writes are not read without one.
    #[inline]
    pub fn enter(&mut self) -> TrapCsrs {
        vector::enter(&mut self.context);
        let scause = csr::read::<{ number::SCAUSE }>();
        let mut csrs = TrapCsrs {
            scause,
            stval: csr::read::<{ number::STVAL }>(),
            ..TrapCsrs::default()
        };
        if let cause::LOAD_GUEST_PAGE_FAULT | cause::STORE_GUEST_PAGE_FAULT = scause {
            csrs.htval = csr::read::<{ number::HTVAL }>();
            csrs.htinst = csr::read::<{ number::HTINST }>();
        }
        csrs
    }
}

impl Float {
    fn load(&self) {
        // SAFETY: this program has no use for these registers, being compiled without them; the hart has them, and the value has
        // room for what is read.
        unsafe {
            csr::set::<{ number::SSTATUS }>(sstatus::FS);
            asm!(
                ".option push",
                ".option arch, +d",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "fld f\\n, 8*\\n({registers})",
                ".endr",
                "fscsr {fcsr}",
                ".option pop",
                registers = in(reg) self.registers.as_ptr(),
                fcsr = in(reg) self.fcsr,
                options(readonly, nostack)
            );
        }
    }

    fn store(&mut self) {
        // SAFETY: as in `load`; what is written is the value's own.
        unsafe {
            csr::set::<{ number::SSTATUS }>(sstatus::FS);
            asm!(
                ".option push",
                ".option arch, +d",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "fsd f\\n, 8*\\n({registers})",
                ".endr",
                "frcsr {fcsr}",
                ".option pop",
                registers = in(reg) self.registers.as_mut_ptr(),
                fcsr = out(reg) self.fcsr,
                options(nostack)
            );
        }
    }
}

/// The external interrupt of the guest's hart that is running here.
pub fn set_external(asserted: bool) {
    // SAFETY: it is the guest's.
    unsafe {
        if asserted {
            csr::set::<{ number::HVIP }>(interrupt::VS_EXTERNAL);
        } else {
            csr::clear::<{ number::HVIP }>(interrupt::VS_EXTERNAL);
        }
    }
}
