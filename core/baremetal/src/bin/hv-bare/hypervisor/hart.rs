//! A hart of the host and the guest's hart that runs on it permanently: it waits to be started, enters the guest, and handles
//! its exits.

use core::arch::asm;
use core::sync::atomic::Ordering;

use hv_bare::lifecycle::{Order, Start};
use hv_core::ending::End;
use hv_core::sbi::pmu;
use hv_core::trap::sstatus;

use super::boot::hypervisor;
use super::clock;
use super::console;
use super::csr::{self, hstatus, interrupt, number};
use super::ending;
use super::exit;
use super::firmware;
use super::guest::{Guest, Link, mail};
use super::vector::{self, Context};

/// What traps within the guest, without the hypervisor: everything that a hart without the H extension would trap to S-mode
/// (privileged specification, section 21.2.2). What is left are the guest's calls and the second stage.
const DELEGATED_EXCEPTIONS: u64 = 0b1011_0001_1111_1111;

/// The interrupts that are the guest's own.
const DELEGATED_INTERRUPTS: u64 =
    interrupt::VS_SOFTWARE | interrupt::VS_TIMER | interrupt::VS_EXTERNAL;

/// The counters that a guest reads without an exit: `cycle`, `time`, `instret`.
const COUNTERS: u64 = 0b111;

/// `hstateen0`: `senvcfg`, and `sstateen0` itself.
const STATE_ENABLED: u64 = 1 << 63 | 1 << 62;

/// State that the guest can use, and that it has not used yet, in `vsstatus`: as firmware hands a hart over.
const FLOAT_INITIAL: u64 = 1 << 13;
const VECTOR_INITIAL: u64 = 1 << 9;

/// The hart.
#[derive(Debug)]
pub struct Vhart {
    /// Its registers while it does not run.
    pub context: Context,
    /// Its guest.
    pub guest: &'static Guest,
    /// Its number in the guest.
    pub id: u32,
    /// What others know of it.
    pub link: &'static Link,
    /// Whether it is to be entered.
    pub running: bool,
    /// Its firmware counters.
    pub counters: pmu::Counters,
    /// When the guest's timer is due, in ticks, for guests without their own.
    deadline: u64,
    /// When the alarm of the guest's real-time clock is due, in ticks.
    alarm: u64,
}

impl Vhart {
    /// The guest's hart with this id, not started. `None` if the guest has no such hart.
    pub fn new(guest: &'static Guest, id: u32) -> Option<Self> {
        Some(Self {
            context: Context::new(),
            guest,
            id,
            link: guest.harts.get(id as usize)?,
            running: false,
            counters: pmu::Counters::new(),
            deadline: u64::MAX,
            alarm: u64::MAX,
        })
    }

    /// Runs the hart. Never returns.
    pub fn run(mut self) -> ! {
        self.set_up();
        // Requests that were posted before the firmware started this hart have interrupted nothing.
        self.serve_software();
        loop {
            if self.running {
                vector::enter(&mut self.context);
                exit::handle(&mut self);
            } else {
                csr::wait_for_interrupt();
                self.serve();
            }
        }
    }

    /// Sets the registers that never change afterwards.
    fn set_up(&self) {
        let guest = self.guest;
        set_up_host();
        // SAFETY: all of these say how the guest runs, which is behind the second stage; the hypervisor's own memory is not
        // translated.
        unsafe {
            csr::write::<{ number::HEDELEG }>(DELEGATED_EXCEPTIONS);
            csr::write::<{ number::HIDELEG }>(DELEGATED_INTERRUPTS);
            csr::write::<{ number::HCOUNTEREN }>(COUNTERS);
            csr::write::<{ number::HTIMEDELTA }>(0);
            csr::write::<{ number::HENVCFG }>(guest.henvcfg);
            csr::write::<{ number::HGATP }>(guest.hgatp);
            let host = hypervisor().host.harts.get(self.link.place);
            if host.is_some_and(|host| host.hart.isa.contains("smstateen")) {
                csr::write::<{ number::HSTATEEN0 }>(STATE_ENABLED);
            }
        }
        let chip = &hypervisor().chip;
        chip.enable_hart(self.link.place);
        if self.link.place == guest.home() {
            // Not before the hart runs: the firmware, as it has the hart going, disables all sources that are its.
            for device in &guest.passthrough {
                chip.route(device.host_irq, self.link.place);
            }
        }
    }

    /// Begins as a hart does that SBI starts ("Hart start"): nothing is pending and no timer set, whatever ran on it before.
    fn begin(&mut self, start: Start) {
        self.deadline = u64::MAX;
        // SAFETY: both are the guest's.
        unsafe {
            csr::write::<{ number::HVIP }>(0);
            if self.guest.has_timer {
                csr::write::<{ number::VSTIMECMP }>(u64::MAX);
            }
        }
        self.enter_at(start);
    }

    /// Goes on as a hart does that SBI starts or resumes: with its number in a0, and without translation and interrupts (SBI
    /// 3.0, "Hart start" and "Hart suspend").
    fn enter_at(&mut self, start: Start) {
        self.context = Context::new();
        self.context.pc = start.pc;
        let [_, _, _, _, _, _, _, _, _, _, a0, a1, ..] = &mut self.context.registers;
        *a0 = self.id.into();
        *a1 = start.opaque;
        let (mut initial, mut available) = (0, 0);
        if self.guest.has_float {
            initial |= FLOAT_INITIAL;
            available |= sstatus::FS;
            clear_float_registers();
        }
        // Not without the registers: some harts keep the bits all the same, and a guest believes them.
        if self.guest.has_vector {
            initial |= VECTOR_INITIAL;
            available |= sstatus::VS;
        }
        // SAFETY: all of these are the guest's, but for sstatus and hstatus, which say that the next sret enters it in VS-mode,
        // as `vector` wants it.
        unsafe {
            csr::write::<{ number::VSSTATUS }>(initial);
            csr::write::<{ number::VSIE }>(0);
            csr::write::<{ number::VSTVEC }>(0);
            csr::write::<{ number::VSSCRATCH }>(0);
            csr::write::<{ number::VSEPC }>(0);
            csr::write::<{ number::VSCAUSE }>(0);
            csr::write::<{ number::VSTVAL }>(0);
            csr::write::<{ number::VSATP }>(0);
            csr::write::<{ number::SCOUNTEREN }>(COUNTERS);
            csr::write::<{ number::SENVCFG }>(0);
            csr::set::<{ number::SSTATUS }>(sstatus::SPP | available);
            csr::write::<{ number::HSTATUS }>(hstatus::VSXL_64 | hstatus::SPV | hstatus::SPVP);
        }
        csr::forget_translations();
        // The kernel may have been written by this or another hart.
        csr::fence_i();
        set_external(self.link.external.load(Ordering::Acquire));
        self.running = true;
    }

    /// Does as the guest's lifecycle has it do.
    pub fn obey(&mut self, order: Order) {
        match order {
            Order::Continue => {}
            Order::Begin(start) => self.begin(start),
            Order::Halt => self.halt(),
            Order::Finish(end) => {
                self.halt();
                ending::finish(self.guest, end);
            }
        }
    }

    /// Does not run any more.
    fn halt(&mut self) {
        self.running = false;
        self.set_timer(u64::MAX);
        // SAFETY: it is the guest's.
        unsafe { csr::write::<{ number::HVIP }>(0) };
    }

    /// Goes on at another place, as after a suspension that kept no registers. What woke the hart is pending still, and its
    /// timer set: no interrupt is lost by sleeping.
    pub fn resume(&mut self, pc: u64, opaque: u64) {
        self.enter_at(Start { pc, opaque });
    }

    /// Waits until an interrupt is there for the guest, or until the hart is told to halt.
    pub fn wait_for_guest_interrupt(&mut self) {
        while self.running && !guest_interrupt_pending() {
            csr::wait_for_interrupt();
            self.serve();
        }
    }

    /// Sees to all interrupts that are there for the hypervisor.
    pub fn serve(&mut self) {
        let pending = csr::read::<{ number::SIP }>() & csr::read::<{ number::SIE }>();
        if pending & interrupt::SOFTWARE != 0 {
            self.serve_software();
        }
        if pending & interrupt::EXTERNAL != 0 {
            self.serve_external();
        }
        if pending & interrupt::TIMER != 0 {
            self.serve_timer();
        }
    }

    /// Another hart has posted something.
    pub fn serve_software(&mut self) {
        // SAFETY: it is the interrupt that is being served.
        unsafe { csr::clear::<{ number::SIP }>(interrupt::SOFTWARE) };
        let mail = self.link.take_mail();
        if mail & mail::ATTEND != 0 {
            let order = self.guest.lifecycle.lock().attend(self.id);
            self.obey(order);
        }
        if mail & mail::ALARM != 0 {
            self.set_alarm();
        }
        if mail & mail::END != 0 {
            ending::end(self, End::PowerOff);
        }
        if mail & mail::RESTART != 0 {
            ending::restart(self);
        }
        if !self.running {
            return;
        }
        if mail & mail::SOFTWARE_INTERRUPT != 0 {
            self.counters.count(pmu::Event::IpiReceived, 1);
            // SAFETY: it is the guest's.
            unsafe { csr::set::<{ number::HVIP }>(interrupt::VS_SOFTWARE) };
        }
        if mail & mail::EXTERNAL_INTERRUPT != 0 {
            set_external(self.link.external.load(Ordering::Acquire));
        }
    }

    /// A device of the host has interrupted.
    pub fn serve_external(&self) {
        serve_external(self.link.place, Some((self.guest, self.id)));
    }

    /// The timer is due: the guest's, or the alarm.
    pub fn serve_timer(&mut self) {
        let now = clock::ticks();
        if self.deadline <= now {
            self.deadline = u64::MAX;
            // SAFETY: it is the guest's.
            unsafe { csr::set::<{ number::HVIP }>(interrupt::VS_TIMER) };
        }
        if self.alarm <= now {
            exit::mmio::poll_alarm(self);
            self.set_alarm();
        } else {
            self.program_timer();
        }
    }

    /// The guest sets its timer, in ticks.
    pub fn set_timer(&mut self, deadline: u64) {
        if self.guest.has_timer {
            // SAFETY: it is the guest's.
            unsafe { csr::write::<{ number::VSTIMECMP }>(deadline) };
        } else {
            // SAFETY: it is the guest's.
            unsafe { csr::clear::<{ number::HVIP }>(interrupt::VS_TIMER) };
            self.deadline = deadline;
            self.program_timer();
        }
    }

    /// Asks to be interrupted when the alarm of the guest's real-time clock is due.
    pub fn set_alarm(&mut self) {
        self.alarm = exit::mmio::alarm_ticks(self.guest);
        self.program_timer();
    }

    fn program_timer(&self) {
        firmware::set_timer(self.deadline.min(self.alarm));
    }
}

/// What every hart of the host has, whether it has a guest or not.
pub fn set_up_host() {
    // SAFETY: interrupts are disabled while the hypervisor runs, so these say only what a wfi waits for and what takes a hart
    // out of its guest; traps of the hypervisor's own go where they are reported.
    unsafe {
        csr::write::<{ number::STVEC }>(vector::own_trap_address());
        csr::clear::<{ number::SSTATUS }>(sstatus::SIE | sstatus::SPIE);
        csr::write::<{ number::SIE }>(interrupt::SOFTWARE | interrupt::TIMER | interrupt::EXTERNAL);
    }
    firmware::set_timer(u64::MAX);
}

/// A device of the host has interrupted the hart at `place`, on which the hart of a guest runs.
fn serve_external(place: usize, running: Option<(&Guest, u32)>) {
    let hypervisor = hypervisor();
    while let Some(source) = hypervisor.chip.claim(place) {
        match hypervisor.owner(source) {
            Some((guest, device)) => {
                let same = running.filter(|(other, _)| core::ptr::eq(*other, guest));
                guest.forward(device, same.map(|(_, id)| id));
            }
            None => {
                console::serve(running);
                hypervisor.chip.complete(source, place);
            }
        }
    }
}

/// Sees to the console for ever, on a hart that has no guest.
pub fn idle(place: usize) -> ! {
    set_up_host();
    hypervisor().chip.enable_hart(place);
    loop {
        csr::wait_for_interrupt();
        // SAFETY: nobody posts anything to a hart without a guest, and its timer is never set.
        unsafe { csr::clear::<{ number::SIP }>(interrupt::SOFTWARE) };
        serve_external(place, None);
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

/// Whether an interrupt is pending that the guest has enabled.
fn guest_interrupt_pending() -> bool {
    let pending = csr::read::<{ number::HIP }>() & csr::read::<{ number::HIE }>();
    pending & DELEGATED_INTERRUPTS != 0
}

/// Takes what another guest, or this one before its restart, left in the registers.
fn clear_float_registers() {
    // SAFETY: this program has no use for these registers, being compiled without them; the hart has them.
    unsafe {
        csr::set::<{ number::SSTATUS }>(sstatus::FS);
        asm!(
            ".option push",
            ".option arch, +d",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "fmv.d.x f\\n, zero",
            ".endr",
            "fscsr zero",
            ".option pop",
            options(nomem, nostack)
        );
    }
}
