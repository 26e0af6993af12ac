//! A hart of the host and the guest's hart that runs on it permanently: what its guest, other harts and the host's interrupts
//! have it do. The loop is in [`super::run`].

use core::sync::atomic::Ordering;

use hv_bare::lifecycle::{Order, Start};
use hv_core::bus;
use hv_core::ending::End;
use hv_core::sbi::pmu;
use hv_core::trap::sstatus;

use super::csr::{self, interrupt, number};
use super::guest::{Bus, Guest, Link, mail};
use super::state::state;
use super::vcpu::{self, Vcpu};
use super::{clock, ending, firmware, guests, monitor, vector};

/// What traps within the guest, without the hypervisor: everything that a hart without the H extension would trap to S-mode
/// (privileged specification, section 21.2.2). What is left are the guest's calls and the second stage.
const DELEGATED_EXCEPTIONS: u64 = 0b1011_0001_1111_1111;

/// The interrupts that are the guest's own.
const DELEGATED_INTERRUPTS: u64 =
    interrupt::VS_SOFTWARE | interrupt::VS_TIMER | interrupt::VS_EXTERNAL;

/// `hstateen0`: `senvcfg`, and `sstateen0` itself.
const STATE_ENABLED: u64 = 1 << 63 | 1 << 62;

/// What a hart does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// It enters its guest.
    Run,
    /// It waits for an interrupt.
    Wait,
    /// Its guest ends.
    End(End),
}

/// The hart.
#[derive(Debug)]
pub struct Vhart {
    /// What it is to its guest. It is loaded while the hart runs.
    pub vcpu: Vcpu,
    /// The devices that it reaches.
    pub bus: Bus,
    /// Its guest.
    pub guest: &'static Guest,
    /// Its number in the guest.
    pub id: u32,
    /// What others know of it.
    pub link: &'static Link,
    /// Whether it is to be entered.
    running: bool,
    /// Its firmware counters.
    pub counters: pmu::Counters,
    /// When the alarm of the guest's real-time clock is due, in ticks.
    alarm: u64,
}

impl Vhart {
    /// The guest's hart with this id, which others know by `link`, not started.
    ///
    /// # Errors
    /// If devices of the guest's are in each other's way.
    pub fn new(guest: &'static Guest, id: u32, link: &'static Link) -> Result<Self, bus::Error> {
        Ok(Self {
            vcpu: Vcpu::new(guest.parts),
            bus: Bus::new(guest, id)?,
            guest,
            id,
            link,
            running: false,
            counters: pmu::Counters::new(),
            alarm: u64::MAX,
        })
    }

    /// What it does next, unless its guest ends.
    pub const fn next(&self) -> Next {
        if self.running { Next::Run } else { Next::Wait }
    }

    /// Its guest ends, or begins again.
    pub fn end(&mut self, end: End) -> Next {
        let order = self.guest.lifecycle.lock().end(self.id, end);
        self.guest.alert_others(self.id);
        self.obey(order)
    }

    /// The user wants its guest to begin anew.
    fn restart(&mut self) -> Next {
        let order = self.guest.lifecycle.lock().restart(self.id);
        self.guest.alert_others(self.id);
        self.obey(order)
    }

    /// Sets the registers that never change afterwards.
    pub fn set_up(&mut self) {
        let guest = self.guest;
        set_up_host();
        self.vcpu.set_up();
        // SAFETY: all of these say how the guest runs, which is behind the second stage; the hypervisor's own memory is not
        // translated.
        unsafe {
            csr::write::<{ number::HEDELEG }>(DELEGATED_EXCEPTIONS);
            csr::write::<{ number::HIDELEG }>(DELEGATED_INTERRUPTS);
            csr::write::<{ number::HCOUNTEREN }>(vcpu::COUNTERS);
            csr::write::<{ number::HTIMEDELTA }>(0);
            csr::write::<{ number::HENVCFG }>(guest.henvcfg);
            csr::write::<{ number::HGATP }>(guest.hgatp);
            let host = state().host.harts.get(self.link.place);
            if host.is_some_and(|host| host.hart.isa.contains("smstateen")) {
                csr::write::<{ number::HSTATEEN0 }>(STATE_ENABLED);
            }
        }
        let chip = &state().chip;
        chip.enable_hart(self.link.place);
        if self.link.place == guest.home() {
            // Not before the hart runs: the firmware, as it has the hart going, disables all sources that are its.
            for device in &guest.passthrough {
                chip.route(device.host_irq, self.link.place);
            }
        }
    }

    /// Goes on as a hart does that SBI starts or resumes. It is not loaded.
    fn enter_at(&mut self, start: Start) {
        self.vcpu.restart(self.id, start.pc, start.opaque);
        csr::forget_translations();
        // The kernel may have been written by this or another hart.
        csr::fence_i();
        self.go_on();
    }

    /// Goes on as it was stored.
    fn go_on(&mut self) {
        self.follow_external();
        self.vcpu.load();
        self.program_timer();
        self.running = true;
    }

    /// The external interrupt is pending if the guest's interrupt chip asserts it.
    fn follow_external(&mut self) {
        let asserted = self.link.external.load(Ordering::Acquire);
        self.vcpu.set_pending(interrupt::VS_EXTERNAL, asserted);
    }

    /// Does as the guest's lifecycle has it do.
    pub fn obey(&mut self, order: Order) -> Next {
        match order {
            Order::Continue => {}
            // Nothing is pending and no timer set, whatever ran on it before.
            Order::Begin(start) => self.enter_at(start),
            Order::Halt => self.halt(),
            Order::Finish(end) => {
                self.halt();
                ending::finish(self.guest, end);
            }
        }
        self.next()
    }

    /// Does not run any more.
    fn halt(&mut self) {
        self.running = false;
        self.vcpu.stop();
        self.program_timer();
    }

    /// Sleeps until an interrupt is there for the guest, or until the hart is told to halt. Returns whether it goes on: where it
    /// was, or at `resume` as after a suspension that kept no registers. What woke the hart is pending still, and its timer set: no
    /// interrupt is lost by sleeping.
    pub fn sleep(&mut self, resume: Option<Start>) -> bool {
        self.vcpu.store();
        self.program_timer();
        self.wait_for_guest_interrupt();
        if self.running {
            match resume {
                Some(start) => self.enter_at(start),
                None => self.go_on(),
            }
        }
        self.running
    }

    /// Waits until an interrupt is there for the guest, which is not loaded, or until the hart is told to halt.
    fn wait_for_guest_interrupt(&mut self) {
        loop {
            self.follow_external();
            if !self.running || self.vcpu.is_woken(clock::ticks()) {
                return;
            }
            csr::wait_for_interrupt();
            // An end has halted the hart.
            let _ = self.serve();
        }
    }

    /// Sees to all interrupts that are there for the hypervisor.
    pub fn serve(&mut self) -> Next {
        let pending = csr::read::<{ number::SIP }>() & csr::read::<{ number::SIE }>();
        if pending & interrupt::SOFTWARE != 0 {
            let _ = self.serve_software();
        }
        if pending & interrupt::EXTERNAL != 0 {
            self.serve_external();
        }
        if pending & interrupt::TIMER != 0 {
            self.serve_timer();
        }
        self.next()
    }

    /// Another hart has posted something.
    pub fn serve_software(&mut self) -> Next {
        // SAFETY: it is the interrupt that is being served.
        unsafe { csr::clear::<{ number::SIP }>(interrupt::SOFTWARE) };
        let mail = self.link.take_mail();
        if mail & mail::ATTEND != 0 {
            let order = self.guest.lifecycle.lock().attend(self.id);
            let _ = self.obey(order);
        }
        if mail & mail::ALARM != 0 {
            self.set_alarm();
        }
        if mail & mail::END != 0 {
            let _ = self.end(End::PowerOff);
        }
        if mail & mail::RESTART != 0 {
            let _ = self.restart();
        }
        if !self.running {
            return Next::Wait;
        }
        if mail & mail::SOFTWARE_INTERRUPT != 0 {
            self.counters.count(pmu::Event::IpiReceived, 1);
            self.vcpu.set_pending(interrupt::VS_SOFTWARE, true);
        }
        if mail & mail::EXTERNAL_INTERRUPT != 0 {
            self.follow_external();
        }
        Next::Run
    }

    /// A device of the host has interrupted.
    pub fn serve_external(&self) {
        serve_external(self.link.place, Some((self.guest, self.id)));
    }

    /// The timer is due: the guest's, or the alarm.
    pub fn serve_timer(&mut self) {
        let now = clock::ticks();
        self.vcpu.expire(now);
        if self.alarm <= now {
            self.guest.poll_alarm(self.id);
            self.set_alarm();
        } else {
            self.program_timer();
        }
    }

    /// The guest sets its timer, in ticks.
    pub fn set_timer(&mut self, deadline: u64) {
        self.vcpu.set_timer(deadline);
        if !self.guest.parts.timer {
            self.program_timer();
        }
    }

    /// Asks to be interrupted when the alarm of the guest's real-time clock is due.
    pub fn set_alarm(&mut self) {
        self.alarm = self.guest.alarm_ticks();
        self.program_timer();
    }

    fn program_timer(&self) {
        firmware::set_timer(self.vcpu.deadline().min(self.alarm));
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
pub fn serve_external(place: usize, running: Option<(&Guest, u32)>) {
    let chip = &state().chip;
    while let Some(source) = chip.claim(place) {
        match guests::owner(source) {
            Some((guest, device)) => {
                let same = running.filter(|(other, _)| core::ptr::eq(*other, guest));
                guest.forward(device, same.map(|(_, id)| id));
            }
            None => {
                monitor::serve(running);
                chip.complete(source, place);
            }
        }
    }
}
