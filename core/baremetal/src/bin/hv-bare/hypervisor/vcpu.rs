//! All that a virtual hart is to its guest, as a value.
//!
//! The value is valid while the hart is not loaded: [`Vcpu::load`] puts it into the hart of the host that it is to run on, and
//! [`Vcpu::store`] takes it from there. Between the two, general registers and pc are in the value whenever the hypervisor runs;
//! everything else is in the hart. What the guest's interrupt chip asserts is kept by [`super::guest::Link`] as well, which is the one
//! to believe: it changes while the hart does something else.

mod vector_registers;

use core::arch::asm;

use hv_bare::exit::TrapCsrs;
use hv_core::trap::{cause, sstatus};

use super::csr::{self, hstatus, interrupt, number};
use super::vector::{self, Context};
use vector_registers::Vector;

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
    /// `sstateen0` (Smstateen).
    pub state_enable: bool,
}

/// A virtual hart.
///
/// It stays on the hart of the host that [`Vcpu::set_up`] ran on.
#[derive(Debug)]
pub struct Vcpu {
    /// General registers and the program counter.
    pub context: Context,
    /// The time at which its timer interrupt is due, in ticks; the largest number for never. With [`Parts::timer`] the hart's
    /// `vstimecmp` is in its place while it is loaded.
    timer: u64,
    /// The interrupts that others have made pending, as `hvip` has them, which is in its place while it is loaded.
    pending: u64,
    csrs: VsCsrs,
    /// The mode that the next sret enters: of `sstatus` the bit SPP, and `hstatus`.
    spp: u64,
    hstatus: u64,
    float: Float,
    vector: Vector,
    parts: Parts,
    is_loaded: bool,
}

/// The CSRs that are the guest's S-mode ones, by their names there, and those that it shares with the hypervisor.
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
    stateen0: u64,
}

/// Floating-point registers.
#[repr(C)]
#[derive(Debug, Default)]
struct Float {
    registers: [u64; 32],
    fcsr: u64,
}

impl Vcpu {
    /// A hart that is not loaded, and that [`Vcpu::restart`] has not said of where it begins.
    pub fn new(parts: Parts) -> Self {
        Self {
            context: Context::new(),
            timer: u64::MAX,
            pending: 0,
            csrs: VsCsrs::default(),
            spp: 0,
            hstatus: 0,
            float: Float::default(),
            vector: Vector::default(),
            parts,
            is_loaded: false,
        }
    }

    /// Gets it ready to be loaded into this hart of the host, for good.
    pub fn set_up(&mut self) {
        if self.parts.vector {
            self.vector = Vector::of_this_hart();
        }
    }

    /// Makes it one as SBI starts or resumes it at `pc`: with its number in a0, `opaque` in a1, and without translation and
    /// interrupts (SBI 3.0, "Hart start" and "Hart suspend"). Its timer and what is pending stay. It is not loaded.
    pub fn restart(&mut self, id: u32, pc: u64, opaque: u64) {
        self.context = Context::new();
        self.context.pc = pc;
        let [_, _, _, _, _, _, _, _, _, _, a0, a1, ..] = &mut self.context.registers;
        *a0 = id.into();
        *a1 = opaque;
        let mut status = 0;
        if self.parts.float {
            status |= FLOAT_INITIAL;
        }
        // Not without the registers: some harts keep the bits all the same, and a guest believes them.
        if self.parts.vector {
            status |= VECTOR_INITIAL;
        }
        self.csrs = VsCsrs {
            status,
            counteren: COUNTERS,
            ..VsCsrs::default()
        };
        self.spp = sstatus::SPP;
        self.hstatus = hstatus::VSXL_64 | hstatus::SPV | hstatus::SPVP;
        self.float = Float::default();
        self.vector.reset();
    }

    /// Puts everything into this hart. It can be entered after that.
    pub fn load(&mut self) {
        self.enable_registers();
        self.csrs.load(self.parts);
        // SAFETY: the guest's interrupts and timer; and sstatus and hstatus, which say that the next sret enters it in the mode in
        // which it was left, as `vector` wants it.
        unsafe {
            csr::write::<{ number::HVIP }>(self.pending);
            if self.parts.timer {
                csr::write::<{ number::VSTIMECMP }>(self.timer);
            }
            csr::clear::<{ number::SSTATUS }>(sstatus::SPP);
            csr::set::<{ number::SSTATUS }>(self.spp);
            csr::write::<{ number::HSTATUS }>(self.hstatus);
        }
        if self.parts.float {
            self.float.load();
        }
        if self.parts.vector {
            self.vector.load();
        }
        self.is_loaded = true;
    }

    /// Takes everything from this hart, in which nothing of the guest is left: neither what it knows, nor an interrupt or a timer of
    /// its own that could go off there.
    pub fn store(&mut self) {
        self.enable_registers();
        self.csrs = VsCsrs::stored(self.parts);
        self.pending = csr::read::<{ number::HVIP }>();
        self.spp = csr::read::<{ number::SSTATUS }>() & sstatus::SPP;
        self.hstatus = csr::read::<{ number::HSTATUS }>();
        VsCsrs::default().load(self.parts);
        // SAFETY: they are the guest's.
        unsafe { csr::write::<{ number::HVIP }>(0) };
        if self.parts.timer {
            self.timer = csr::read::<{ number::VSTIMECMP }>();
            // SAFETY: it is the guest's.
            unsafe { csr::write::<{ number::VSTIMECMP }>(u64::MAX) };
        }
        if self.parts.float {
            self.float.store();
            Float::default().load();
        }
        if self.parts.vector {
            self.vector.store();
            Vector::clear();
        }
        self.is_loaded = false;
    }

    /// Takes it from this hart, if it is there, for one that does not go on: nothing is pending any more, and no timer set.
    pub fn stop(&mut self) {
        if self.is_loaded {
            self.store();
        }
        self.pending = 0;
        self.timer = u64::MAX;
    }

    /// Makes the registers of the hart's parts accessible, to the hypervisor and, as far as `vsstatus` has it, to the guest.
    fn enable_registers(&self) {
        let mut available = 0;
        if self.parts.float {
            available |= sstatus::FS;
        }
        if self.parts.vector {
            available |= sstatus::VS;
        }
        // SAFETY: this program is compiled without these registers.
        unsafe { csr::set::<{ number::SSTATUS }>(available) };
    }

    /// Makes interrupts pending, by their bits in `hvip`, or takes them back.
    pub fn set_pending(&mut self, interrupts: u64, pending: bool) {
        match (self.is_loaded, pending) {
            // SAFETY: they are the guest's.
            (true, true) => unsafe { csr::set::<{ number::HVIP }>(interrupts) },
            // SAFETY: they are the guest's.
            (true, false) => unsafe { csr::clear::<{ number::HVIP }>(interrupts) },
            (false, true) => self.pending |= interrupts,
            (false, false) => self.pending &= !interrupts,
        }
    }

    /// Whether one of these interrupts is pending that [`Vcpu::set_pending`] makes so.
    pub fn is_pending(&self, interrupts: u64) -> bool {
        let pending = match self.is_loaded {
            true => csr::read::<{ number::HVIP }>(),
            false => self.pending,
        };
        pending & interrupts != 0
    }

    /// The guest sets its timer, in ticks.
    pub fn set_timer(&mut self, deadline: u64) {
        self.timer = deadline;
        if !self.parts.timer {
            self.set_pending(interrupt::VS_TIMER, false);
        } else if self.is_loaded {
            // SAFETY: it is the guest's.
            unsafe { csr::write::<{ number::VSTIMECMP }>(deadline) };
        }
    }

    /// When the host has to interrupt for its timer, in ticks: the largest number if the hart's own does, or if nobody would be
    /// woken.
    pub fn deadline(&self) -> u64 {
        match (self.parts.timer, self.is_loaded) {
            (false, _) => self.timer,
            (true, false) if self.enabled() & interrupt::VS_TIMER != 0 => self.timer,
            (true, _) => u64::MAX,
        }
    }

    /// The time is `now`, in ticks: its timer may be due.
    pub fn expire(&mut self, now: u64) {
        if !self.parts.timer && self.timer <= now {
            self.timer = u64::MAX;
            self.set_pending(interrupt::VS_TIMER, true);
        }
    }

    /// Whether an interrupt is pending at this time, in ticks, that the guest has enabled. It is not loaded.
    pub fn is_woken(&self, now: u64) -> bool {
        let mut pending = self.pending;
        if self.parts.timer && self.timer <= now {
            pending |= interrupt::VS_TIMER;
        }
        pending & self.enabled() != 0
    }

    /// The interrupts that the guest has enabled, by their bits in `hvip`. It is not loaded.
    fn enabled(&self) -> u64 {
        self.csrs.ie << interrupt::VS_SHIFT
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

impl VsCsrs {
    fn load(&self, parts: Parts) {
        // SAFETY: all of these are the guest's; those that are the hypervisor's as well concern U-mode, which it does not use.
        unsafe {
            csr::write::<{ number::VSSTATUS }>(self.status);
            csr::write::<{ number::VSIE }>(self.ie);
            csr::write::<{ number::VSTVEC }>(self.tvec);
            csr::write::<{ number::VSSCRATCH }>(self.scratch);
            csr::write::<{ number::VSEPC }>(self.epc);
            csr::write::<{ number::VSCAUSE }>(self.cause);
            csr::write::<{ number::VSTVAL }>(self.tval);
            csr::write::<{ number::VSATP }>(self.atp);
            csr::write::<{ number::SCOUNTEREN }>(self.counteren);
            csr::write::<{ number::SENVCFG }>(self.envcfg);
            if parts.state_enable {
                csr::write::<{ number::SSTATEEN0 }>(self.stateen0);
            }
        }
    }

    fn stored(parts: Parts) -> Self {
        Self {
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
            stateen0: match parts.state_enable {
                true => csr::read::<{ number::SSTATEEN0 }>(),
                false => 0,
            },
        }
    }
}

impl Float {
    fn load(&self) {
        // SAFETY: this program has no use for these registers, being compiled without them; the hart has them, they are enabled, and
        // the value has room for what is read.
        unsafe {
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

/// The external interrupt of the guest's hart that is loaded here.
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
