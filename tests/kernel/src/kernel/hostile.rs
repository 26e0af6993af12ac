//! The adversary: a guest that does what no driver and no kernel may, on all harts at once, for a time. That it comes to its end
//! shows that the hypervisor has survived it.
//!
//! `hostile=SECONDS[,seed=NUMBER][,boots=NUMBER][,without=KIND[+KIND…]]` has it do so for so many seconds, with so many reboots in
//! between, and without some kinds of attacks. What it does follows from the seed, but for what harts do to each other. At the end
//! of each boot it prints how often it did what; in the end `hostile: done, seed NUMBER`. Each of these lines ends with a semicolon, as neighbours on the same screen may break it.
//!
//! What it has devices write keeps away from the kernel itself ([`chance::Places`]), and what ends the machine is left out until the end.

mod calls;
mod chance;
mod instructions;
mod queues;
mod registers;

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use chance::{Chance, Places};
use queues::Driver;

use super::boot::{STACK, Stack};
use super::csr::{self, EXTERNAL, SOFTWARE, SSTATUS_SIE, TIMER};
use super::external::Claim;
use super::machine::{Chip, Machine};
use super::rtc::Alarm;
use super::trap::{self, MAX_HARTS};
use super::{console, mmio, plic, power, sbi, time};

/// A kind of attack.
struct Kind {
    /// By which it is left out, and counted.
    name: &'static str,
    /// How often it comes, in proportion.
    weight: usize,
    attack: fn(&mut Adversary),
}

const KINDS: [Kind; 20] = [
    kind("transport", 6, queues::transport),
    kind("setup", 10, queues::set_up),
    kind("requests", 40, queues::requests),
    kind("rings", 10, queues::disturb),
    kind("serial", 4, registers::serial),
    kind("clock", 3, registers::clock),
    kind("test-device", 1, registers::test_device),
    kind("chip", 8, registers::chip),
    kind("nothing", 3, registers::nothing),
    kind("pause", 4, registers::pause),
    kind("sbi", 6, calls::any),
    kind("harts", 6, calls::harts),
    kind("fences", 3, calls::fences),
    kind("debug-console", 2, calls::console),
    kind("counters", 2, calls::counters),
    kind("waits", 3, instructions::waits),
    kind("tables", 2, instructions::foreign_tables),
    kind("odd", 3, instructions::odd_accesses),
    kind("fetches", 2, instructions::fetches),
    kind("illegal", 3, instructions::illegal),
];

const fn kind(name: &'static str, weight: usize, attack: fn(&mut Adversary)) -> Kind {
    Kind {
        name,
        weight,
        attack,
    }
}

/// How often each kind came in this boot.
static COUNTS: [AtomicU64; KINDS.len()] = [const { AtomicU64::new(0) }; KINDS.len()];

/// What the command line asks for.
struct Plan {
    seconds: u64,
    seed: u64,
    boots: u64,
    without: &'static str,
}

impl Plan {
    fn parse(text: &'static str) -> Option<Self> {
        let mut words = text.split(',');
        let mut plan = Self {
            seconds: words.next()?.parse().ok()?,
            seed: 1,
            boots: 0,
            without: "",
        };
        for word in words {
            match word.split_once('=')? {
                ("seed", number) => plan.seed = number.parse().ok()?,
                ("boots", number) => plan.boots = number.parse().ok().filter(|n| *n < MAX_BOOTS)?,
                ("without", kinds) => plan.without = kinds,
                _ => return None,
            }
        }
        Some(plan)
    }

    fn has(&self, kind: &Kind) -> bool {
        !self.without.split('+').any(|name| name == kind.name)
    }
}

/// What all harts know.
struct World<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    places: &'a Places,
    boot: u64,
}

static WORLD: AtomicPtr<World<'static>> = AtomicPtr::new(ptr::null_mut());

/// What a hart is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It is stopped, suspended or asleep, or was never started.
    Out,
    /// It attacks.
    Attacks,
    /// It waits until it may again.
    Rests,
}

/// Harts are to rest.
static REST: AtomicBool = AtomicBool::new(false);

/// The clock says what the next boot has to know.
static CLOCK_KEPT: AtomicBool = AtomicBool::new(false);

/// Where a hart begins, over and over. The stack's top comes first, where the entry looks for it.
#[repr(C)]
struct Seat {
    stack: AtomicU64,
    state: AtomicU8,
    chance: AtomicU64,
    /// The number of the kind of attack that it makes, or made last.
    kind: AtomicUsize,
}

static SEATS: [Seat; MAX_HARTS] = [const {
    Seat {
        stack: AtomicU64::new(0),
        state: AtomicU8::new(State::Out as u8),
        chance: AtomicU64::new(0),
        kind: AtomicUsize::new(0),
    }
}; MAX_HARTS];

static mut STACKS: [Stack; MAX_HARTS] = [const { Stack::new() }; MAX_HARTS];

// a1 is a Seat, which begins with the stack.
global_asm!(
    ".pushsection .text.hostile, \"ax\"",
    ".globl hostile_start",
    "hostile_start:",
    ".option push",
    ".option norelax",
    "    la gp, __global_pointer$",
    ".option pop",
    "    ld sp, 0(a1)",
    "    mv ra, zero",
    "    tail {enter}",
    ".popsection",
    enter = sym enter,
);

unsafe extern "C" {
    safe fn hostile_start();
}

/// The address at which a hart starts to attack, and resumes.
fn entry() -> usize {
    hostile_start as *const () as usize
}

/// What the hart with this index is started with.
fn seat(index: usize) -> usize {
    (&raw const SEATS[index]) as usize
}

extern "C" fn enter(id: usize, seat: *const Seat) -> ! {
    let index = (seat as usize - SEATS.as_ptr() as usize) / size_of::<Seat>();
    // SAFETY: the boot hart stored it before it started others, and keeps what it points to for ever.
    let world = unsafe { &*WORLD.load(Ordering::Acquire) };
    trap::enter(index, id);
    let mut me = Adversary::new(world, index);
    me.come_back();
    loop {
        me.act();
    }
}

/// One hart, and what it knows.
pub struct Adversary<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    places: &'a Places,
    chance: Chance,
    index: usize,
    driver: Driver,
}

impl<'a> Adversary<'a> {
    fn new(world: &World<'a>, index: usize) -> Self {
        let before = SEATS[index].chance.load(Ordering::Relaxed);
        let seed = match before {
            0 => world.plan.seed << 20 ^ world.boot << 8 ^ index as u64,
            _ => before,
        };
        claim_interrupts(world.machine, index);
        Self {
            machine: world.machine,
            plan: world.plan,
            places: world.places,
            chance: Chance::new(seed),
            index,
            driver: Driver::default(),
        }
    }

    fn is_boot_hart(&self) -> bool {
        self.index == 0
    }

    /// Is about to be out.
    fn leave(&self, state: State) {
        let seat = &SEATS[self.index];
        seat.chance.store(self.chance.state(), Ordering::Relaxed);
        seat.state.store(state as u8, Ordering::Release);
    }

    /// Is here again, and attacks.
    fn come_back(&self) {
        SEATS[self.index]
            .state
            .store(State::Attacks as u8, Ordering::Release);
    }

    /// The next attack, or rest.
    fn act(&mut self) {
        if !self.is_boot_hart() && REST.load(Ordering::Acquire) {
            self.leave(State::Rests);
            while REST.load(Ordering::Acquire) {
                core::hint::spin_loop();
            }
            self.come_back();
        }
        if self.chance.one_in(8) {
            csr_write!(
                "sie",
                self.chance.any() as usize & (SOFTWARE | TIMER | EXTERNAL)
            );
            match self.chance.one_in(2) {
                true => csr_set!("sstatus", SSTATUS_SIE),
                false => csr_clear!("sstatus", SSTATUS_SIE),
            }
        }
        let mut at = self
            .chance
            .below(KINDS.iter().map(|kind| kind.weight).sum());
        for (number, kind) in KINDS.iter().enumerate() {
            if at < kind.weight {
                self.attack(number);
                return;
            }
            at -= kind.weight;
        }
    }

    /// An attack of the kind with this number, if that is not left out.
    fn attack(&mut self, number: usize) {
        let kind = &KINDS[number];
        if self.plan.has(kind) {
            SEATS[self.index].kind.store(number, Ordering::Relaxed);
            (kind.attack)(self);
            COUNTS[number].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Says how the trap's handler claims interrupts on this hart.
fn claim_interrupts(machine: &Machine, index: usize) {
    let claim = match &machine.chip {
        Chip::Plic(plic) => Claim::Register(plic::claim_register(plic, index)),
        Chip::Aia(_) => {
            csr::claim_top();
            Claim::Stopei
        }
    };
    trap::this_hart().set_claim(claim);
}

/// Has all other harts rest: until then, whatever they do to it, the serial port and the clock are not this hart's.
fn rest(machine: &Machine) {
    REST.store(true, Ordering::Release);
    let attacks = |seat: &Seat| seat.state.load(Ordering::Acquire) == State::Attacks as u8;
    let others = 1..machine.harts.len();
    let all_rest = time::wait_longer_for(|| !SEATS[others.clone()].iter().any(attacks));
    console::recover();
    if !all_rest {
        for seat in SEATS[others].iter().filter(|seat| attacks(seat)) {
            let kind = &KINDS[seat.kind.load(Ordering::Relaxed)];
            println!("\nhostile: no rest from {};", kind.name);
        }
    }
}

/// What the clock tells the next boot: a mark, the number of boots, and the time since the first one began, nanoseconds. It counts
/// the last by itself.
const MARK: u64 = 0x3a << 56;
const MARK_BITS: u64 = 0xff << 56;
const BOOT_SHIFT: u32 = 44;
const MAX_BOOTS: u64 = 1 << 12;

/// The number of this boot, and the nanoseconds since the first.
fn remembered(clock: &Alarm) -> (u64, u64) {
    let now = clock.time();
    if now & MARK_BITS != MARK {
        return (0, 0);
    }
    (
        now >> BOOT_SHIFT & (MAX_BOOTS - 1),
        now & ((1 << BOOT_SHIFT) - 1),
    )
}

/// As many the boot hart makes in each boot, on however slow a machine.
const MIN_ATTACKS: u32 = 50;

/// Attacks as the command line says.
pub fn run(machine: &Machine, how: &'static str) -> ! {
    let Some(plan) = Plan::parse(how) else {
        println!("hostile= is to be SECONDS[,seed=NUMBER][,boots=NUMBER][,without=KIND[+KIND...]]");
        power::fail(1)
    };
    let Some(places) = Places::new(machine) else {
        println!("hostile: there is too little RAM; it takes 64 MiB");
        power::fail(1)
    };
    let clock = machine.rtc.map(|rtc| Alarm::new(rtc.base));
    let (boot, elapsed) = clock.as_ref().map_or((0, 0), remembered);
    if let (0, Some(clock)) = (boot, &clock) {
        clock.set_time(MARK);
    }
    let began = time::now();
    let world = World {
        machine,
        plan: &plan,
        places: &places,
        boot,
    };
    // SAFETY: this function does not return, so all that the world refers to is there for ever.
    let world: &World<'static> = unsafe { &*(&raw const world).cast() };
    println!(
        "hostile: boot {boot} of {}, seed {};",
        plan.boots + 1,
        plan.seed
    );
    WORLD.store(ptr::from_ref(world).cast_mut(), Ordering::Release);
    trap::tolerate();
    for (index, seat) in SEATS.iter().enumerate() {
        // SAFETY: only the address is taken.
        let stack = unsafe { &raw mut STACKS[index] } as usize + STACK;
        seat.stack.store(stack as u64, Ordering::Release);
    }
    let others = machine.harts.iter().enumerate().skip(1);
    for (index, hart) in others {
        sbi::hsm::start(*hart, entry(), seat(index));
    }
    let total = 1_000_000 * plan.seconds * (boot + 1) / (plan.boots + 1);
    let end = began + time::ticks(total.saturating_sub(elapsed / 1000));
    let mut me = Adversary::new(world, 0);
    // Each kind once, on however slow a machine.
    for number in 0..KINDS.len() {
        me.attack(number);
    }
    let mut made = 0;
    while time::now() < end || made < MIN_ATTACKS {
        me.act();
        made += 1;
    }
    trap::quiet();
    rest(machine);
    print_counts(boot, &plan);
    let is_last = boot >= plan.boots || clock.is_none();
    if let Some(clock) = &clock {
        CLOCK_KEPT.store(true, Ordering::Release);
        let microseconds = time::microseconds(time::now() - began);
        let elapsed = elapsed + 1000 * microseconds;
        clock.set_time(MARK | (boot + 1) << BOOT_SHIFT | elapsed);
    }
    if is_last {
        println!("hostile: done, seed {};", plan.seed);
    }
    // The end comes while others attack.
    REST.store(false, Ordering::Release);
    registers::pause(&mut me);
    if is_last {
        power::off()
    }
    reboot(&mut me)
}

fn print_counts(boot: u64, plan: &Plan) {
    println!();
    println!("hostile: boot {boot} of {} did;", plan.boots + 1);
    for (kind, count) in KINDS.iter().zip(&COUNTS) {
        println!("hostile: {} {};", count.load(Ordering::Relaxed), kind.name);
    }
}

/// Begins anew, by any of the ways there are.
fn reboot(me: &mut Adversary) -> ! {
    const RESET: u32 = 0x7777;
    const COLD: usize = 1;
    const WARM: usize = 2;
    match (me.machine.test_device, me.chance.below(3)) {
        (Some(device), 0) => mmio::write32(device, RESET),
        (_, 1) => drop(sbi::call(
            sbi_spec::srst::EID_SRST,
            0,
            &[WARM, me.chance.below(2)],
        )),
        _ => drop(sbi::call(sbi_spec::srst::EID_SRST, 0, &[COLD, 0])),
    }
    // Whatever was refused.
    sbi::srst::reboot()
}
