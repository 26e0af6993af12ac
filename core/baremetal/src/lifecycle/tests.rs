//! Every interleaving of what the harts of a small machine can do, followed to its end.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::format;
use std::hash::Hash;
use std::string::String;
use std::vec;
use std::vec::Vec;

use hv_core::sbi::Error;

use super::*;

/// A machine whose harts take one step at a time, in any order.
trait Model: Clone + Debug + Eq + Hash {
    /// What can happen next because the hypervisor goes on.
    fn hypervisor_steps(&self) -> Vec<Self>;
    /// What can happen next because a guest's hart, or the user, wants something.
    fn guest_steps(&self) -> Vec<Self>;
    /// What may not be, at any time.
    fn check(&self) -> Result<(), String>;
    /// What may not be when the hypervisor has nothing more to do: something was forgotten.
    fn check_at_rest(&self) -> Result<(), String>;
}

/// Looks at everything that can come of `first`: how many states there are, or what is wrong and how it comes to that.
fn explore<M: Model>(first: M) -> Result<usize, String> {
    let mut origins: HashMap<M, Option<M>> = HashMap::from([(first.clone(), None)]);
    let mut queue = VecDeque::from([first]);
    while let Some(state) = queue.pop_front() {
        let mut next = state.hypervisor_steps();
        let at_rest = if next.is_empty() {
            state.check_at_rest()
        } else {
            Ok(())
        };
        if let Err(what) = state.check().and(at_rest) {
            let mut way = format!("{state:#?}\n{what}");
            let mut at = &state;
            while let Some(Some(origin)) = origins.get(at) {
                way = format!("{origin:?}\n{way}");
                at = origin;
            }
            return Err(way);
        }
        next.extend(state.guest_steps());
        for next in next {
            if !origins.contains_key(&next) {
                origins.insert(next.clone(), Some(state.clone()));
                queue.push_back(next);
            }
        }
    }
    Ok(origins.len())
}

const ATTEND: u8 = 1;
const END: u8 = 2;
const RESTART: u8 = 4;

/// What a hart of the host is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// To interrupt these harts, by bits.
    Post(u8),
    /// To do as it was told.
    Obey(Order),
    /// To handle the bits of its IPI mailbox.
    Serve(u8),
    /// To reset the devices and to load the guest, or to leave it.
    Finish(End),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hart {
    /// It is to be entered.
    running: bool,
    /// It waits in the hypervisor for an interrupt of the guest's.
    suspended: bool,
    /// Which beginning of the guest it belongs to.
    boot: u64,
    mail: u8,
    /// The last one first.
    tasks: Vec<Task>,
}

impl Hart {
    fn is_in_guest(&self) -> bool {
        self.running && self.tasks.is_empty() && !self.suspended
    }

    /// Does something next, if it is anything.
    fn plan(&mut self, task: Task) {
        if !matches!(task, Task::Post(0) | Task::Serve(0)) {
            self.tasks.push(task);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Continue => return,
            Order::Begin(start) => {
                self.running = true;
                self.boot = start.opaque;
                return;
            }
            Order::Halt => {}
            Order::Finish(end) => self.tasks.push(Task::Finish(end)),
        }
        self.running = false;
        self.suspended = false;
    }
}

/// The program's harts around a [`Lifecycle`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Machine {
    life: Lifecycle,
    harts: Vec<Hart>,
    /// How often the guest began.
    boots: u64,
    /// How often it can.
    max_boots: u64,
    /// What the user may still ask for.
    wishes: u8,
    /// Whether its harts suspend themselves.
    sleeps: bool,
}

impl Machine {
    /// A machine at its start, where the boot hart loads the guest.
    fn new(harts: u32, max_boots: u64, wishes: u8, sleeps: bool) -> Self {
        let mut all = vec![
            Hart {
                running: false,
                suspended: false,
                boot: 0,
                mail: 0,
                tasks: Vec::new(),
            };
            harts as usize
        ];
        all[0].tasks.push(Task::Finish(End::Reset));
        Self {
            life: Lifecycle::new(harts),
            harts: all,
            boots: 0,
            max_boots,
            wishes,
            sleeps,
        }
    }

    /// The machine after `change` by a hart, for which this is the number.
    fn after(&self, hart: usize, change: impl FnOnce(&mut Self, &mut Hart, u32)) -> Self {
        let mut next = self.clone();
        let mut changed = next.harts[hart].clone();
        change(&mut next, &mut changed, u32::try_from(hart).unwrap());
        // What others posted to it meanwhile is not in the copy; nobody else does anything meanwhile.
        changed.mail |= next.harts[hart].mail & !self.harts[hart].mail;
        next.harts[hart] = changed;
        next
    }

    fn step(&self, hart: usize) -> Option<Self> {
        let Some(task) = self.harts[hart].tasks.last().copied() else {
            // It leaves its guest, or its sleep, for an interrupt.
            return (self.harts[hart].mail != 0).then(|| {
                self.after(hart, |_, hart, _| {
                    let mail = core::mem::take(&mut hart.mail);
                    hart.tasks.push(Task::Serve(mail));
                })
            });
        };
        Some(self.after(hart, |machine, hart, id| {
            hart.tasks.pop();
            match task {
                Task::Post(to) => {
                    hart.plan(Task::Post(to & to.wrapping_sub(1)));
                    let other = to.trailing_zeros();
                    if other == id {
                        hart.mail |= ATTEND;
                    } else {
                        machine.harts[other as usize].mail |= ATTEND;
                    }
                }
                Task::Obey(order) => hart.obey(order),
                Task::Serve(mail) => {
                    let bit = mail & mail.wrapping_neg();
                    hart.plan(Task::Serve(mail & !bit));
                    match bit {
                        ATTEND => hart.obey(machine.life.attend(id)),
                        END => machine.end(hart, id, |life| life.end(id, End::PowerOff)),
                        _ => machine.end(hart, id, |life| life.restart(id)),
                    }
                }
                Task::Finish(End::Reset) if machine.boots < machine.max_boots => {
                    machine.boots += 1;
                    let opaque = machine.boots;
                    machine.life.run(Start { pc: 0, opaque });
                    hart.plan(Task::Post(1));
                }
                Task::Finish(_) => machine.life.over(0),
            }
        }))
    }

    /// Something ends the guest: the others are interrupted, and then the hart does as it was told.
    fn end(&mut self, hart: &mut Hart, id: u32, end: impl FnOnce(&mut Lifecycle) -> Order) {
        let order = end(&mut self.life);
        hart.plan(Task::Obey(order));
        let all = (1 << self.harts.len()) - 1;
        hart.plan(Task::Post(all & !(1 << id)));
    }
}

impl Model for Machine {
    fn hypervisor_steps(&self) -> Vec<Self> {
        let harts = 0..self.harts.len();
        harts.filter_map(|hart| self.step(hart)).collect()
    }

    fn guest_steps(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for wish in [END, RESTART] {
            if self.wishes & wish != 0 {
                let mut asked = self.clone();
                asked.wishes &= !wish;
                asked.harts[0].mail |= wish;
                next.push(asked);
            }
        }
        for (at, hart) in self.harts.iter().enumerate() {
            if hart.suspended && hart.tasks.is_empty() {
                next.push(self.after(at, |machine, hart, id| {
                    machine.life.resume(id).unwrap();
                    hart.suspended = false;
                }));
            }
            if !hart.is_in_guest() {
                continue;
            }
            for other in 0..u32::try_from(self.harts.len()).unwrap() {
                next.push(self.after(at, |machine, hart, _| {
                    let opaque = hart.boot;
                    if machine.life.start(other, Start { pc: 0, opaque }).is_ok() {
                        hart.plan(Task::Post(1 << other));
                    }
                }));
            }
            next.push(self.after(at, |machine, hart, id| {
                let order = machine.life.stop(id).unwrap();
                hart.obey(order);
            }));
            if self.sleeps {
                next.push(self.after(at, |machine, hart, id| {
                    machine.life.suspend(id).unwrap();
                    hart.suspended = true;
                }));
            }
            for end in [End::PowerOff, End::Reset] {
                next.push(self.after(at, |machine, hart, id| {
                    machine.end(hart, id, |life| life.end(id, end));
                }));
            }
        }
        next
    }

    fn check(&self) -> Result<(), String> {
        let finishing = |hart: &&Hart| {
            let mut tasks = hart.tasks.iter();
            tasks.any(|task| matches!(task, Task::Finish(_) | Task::Obey(Order::Finish(_))))
        };
        let finishing = self.harts.iter().filter(finishing).count();
        let expected = usize::from(self.life.phase() == Phase::Halted);
        if finishing != expected {
            return Err(format!("{finishing} harts see to the guest's end"));
        }
        for (id, hart) in self.harts.iter().enumerate() {
            let active = hart.running && hart.tasks.is_empty();
            let over = matches!(self.life.phase(), Phase::Halted | Phase::Ended(_));
            if active && over {
                return Err(format!("hart {id} outlives its guest"));
            }
            if active && hart.boot != self.boots {
                return Err(format!("hart {id} runs what was before"));
            }
        }
        Ok(())
    }

    fn check_at_rest(&self) -> Result<(), String> {
        if !matches!(self.life.phase(), Phase::Running | Phase::Ended(_)) {
            return Err("the guest's end never comes".into());
        }
        for (id, hart) in (0..).zip(&self.harts) {
            let state = self.life.hart(id).unwrap();
            let expected = match (hart.running, hart.suspended) {
                (false, _) => hsm::State::Stopped,
                (true, false) => hsm::State::Started,
                (true, true) => hsm::State::Suspended,
            };
            if state != expected {
                return Err(format!("hart {id} is {expected:?} and not {state:?}"));
            }
        }
        Ok(())
    }
}

fn holds(first: Machine) {
    match explore(first) {
        Ok(states) => assert!(states > 1000, "{states}"),
        Err(way) => panic!("{way}"),
    }
}

#[test]
fn two_harts_end_and_begin_again_whatever_they_do() {
    holds(Machine::new(2, 3, END | RESTART, true));
}

#[test]
fn so_do_three() {
    holds(Machine::new(3, 2, 0, false));
}

#[test]
fn so_do_three_beside_a_user() {
    holds(Machine::new(3, 1, RESTART, false));
}

#[test]
fn so_do_three_that_suspend() {
    holds(Machine::new(3, 1, 0, true));
}

/// What there was before: a word to halt and a word to start, flags of who has halted, and a hart that waits for all flags.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flags {
    states: hsm::Harts,
    ending: bool,
    mail: [u8; 3],
    halted: [bool; 3],
    running: [bool; 3],
    /// Whom each hart still has to tell, and what.
    tells: [(u8, u8); 3],
    /// The harts that each hart waits for while it carries out the end.
    waits: [u8; 3],
}

const START: u8 = 1;
const HALT: u8 = 2;

impl Flags {
    fn step(&self, me: usize) -> Option<Self> {
        let mut next = self.clone();
        let (to, what) = self.tells[me];
        if to != 0 {
            let other = to.trailing_zeros() as usize;
            next.tells[me].0 &= to - 1;
            if what == HALT {
                next.halted[other] = false;
            }
            next.mail[other] |= what;
        } else if self.waits[me] != 0 {
            let other = self.waits[me].trailing_zeros() as usize;
            if !self.halted[other] {
                return None;
            }
            next.waits[me] &= self.waits[me] - 1;
            next.ending = next.waits[me] != 0;
        } else {
            let mail = core::mem::take(&mut next.mail[me]);
            if mail == 0 {
                return None;
            }
            if mail & HALT != 0 {
                next.running[me] = false;
                next.halted[me] = true;
            }
            if mail & START != 0 && next.states.started(u32::try_from(me).unwrap()).is_ok() {
                next.halted[me] = false;
                next.running[me] = true;
            }
        }
        Some(next)
    }
}

impl Model for Flags {
    fn hypervisor_steps(&self) -> Vec<Self> {
        (0..3).filter_map(|hart| self.step(hart)).collect()
    }

    fn guest_steps(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for me in 0..3 {
            if !self.running[me] || self.tells[me].0 != 0 || self.waits[me] != 0 {
                continue;
            }
            let id = u32::try_from(me).unwrap();
            for other in 0..3 {
                let mut started = self.clone();
                if started.states.start(other).is_ok() {
                    started.tells[me] = (1 << other, START);
                    next.push(started);
                }
            }
            let mut stopped = self.clone();
            stopped.states.halt(id);
            stopped.running[me] = false;
            next.push(stopped);
            let mut ended = self.clone();
            ended.running[me] = false;
            if !self.ending {
                ended.ending = true;
                ended.halted[me] = true;
                ended.tells[me] = (0b111 & !(1 << id), HALT);
                ended.waits[me] = 0b111 & !(1 << id);
            }
            next.push(ended);
        }
        next
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn check_at_rest(&self) -> Result<(), String> {
        if self.ending {
            return Err("the guest's end never comes".into());
        }
        Ok(())
    }
}

/// The explorer finds the deadlock that an earlier protocol had.
#[test]
fn words_and_flags_would_hang() {
    let mut states = hsm::Harts::new(3, 0);
    states.start(1).unwrap();
    let first = Flags {
        states,
        ending: false,
        mail: [0, START, 0],
        halted: [true; 3],
        running: [true, false, false],
        tells: [(0, 0); 3],
        waits: [0; 3],
    };
    assert!(explore(first).is_err_and(|way| way.ends_with("the guest's end never comes")));
}

#[test]
fn a_hart_begins_where_it_was_last_told() {
    let mut life = Lifecycle::new(2);
    assert_eq!(life.start(1, Start::default()), Err(Error::Denied));
    assert_eq!(life.attend(0), Order::Continue);
    let first = Start { pc: 1, opaque: 2 };
    life.run(first);
    assert_eq!(life.phase(), Phase::Running);
    assert_eq!(life.attend(0), Order::Begin(first));
    assert_eq!(life.attend(0), Order::Continue);
    for pc in 3..5 {
        let start = Start { pc, opaque: pc };
        assert_eq!(life.start(1, start), Ok(()));
        let again = life.start(1, Start::default());
        assert_eq!(again, Err(Error::AlreadyAvailable));
        assert_eq!(life.hart(1), Some(hsm::State::StartPending));
        assert!(!life.is_alone(0));
        assert_eq!(life.attend(1), Order::Begin(start));
        assert_eq!(life.stop(1), Ok(Order::Halt));
        assert_eq!(life.stop(1), Err(Error::Failed));
        assert!(life.is_alone(0));
    }
    assert_eq!(life.start(2, first), Err(Error::InvalidParam));
    assert_eq!(life.hart(2), None);
}

/// A start that its hart has not seen when the guest ends is none any more, and nobody waits for that hart.
#[test]
fn a_start_does_not_outlive_the_guest() {
    let mut life = Lifecycle::new(2);
    life.run(Start::default());
    assert!(matches!(life.attend(0), Order::Begin(_)));
    assert_eq!(life.start(1, Start::default()), Ok(()));
    assert_eq!(life.end(0, End::Reset), Order::Finish(End::Reset));
    assert_eq!(life.attend(1), Order::Continue);
    assert_eq!(life.start(1, Start::default()), Err(Error::Denied));
}

/// The first hart to end determines how the guest ends; the last one to halt carries it out, also if it meant to stop.
#[test]
fn the_last_hart_sees_to_the_end() {
    for stops in [false, true] {
        let mut life = Lifecycle::new(3);
        life.run(Start::default());
        assert!(matches!(life.attend(0), Order::Begin(_)));
        for hart in [1, 2] {
            assert_eq!(life.start(hart, Start::default()), Ok(()));
            assert!(matches!(life.attend(hart), Order::Begin(_)));
        }
        assert_eq!(life.suspend(2), Ok(()));
        assert_eq!(life.end(0, End::TestFailed(7)), Order::Halt);
        assert_eq!(life.end(0, End::Reset), Order::Continue);
        assert_eq!(life.phase(), Phase::Ending(End::TestFailed(7)));
        assert_eq!(life.attend(2), Order::Halt);
        let last = if stops {
            life.stop(1).unwrap()
        } else {
            life.end(1, End::PowerOff)
        };
        assert_eq!(last, Order::Finish(End::TestFailed(7)));
        assert_eq!(life.phase(), Phase::Halted);
        life.over(7);
        assert_eq!(life.phase(), Phase::Ended(7));
        assert_eq!(life.end(0, End::Reset), Order::Continue);
        assert_eq!(life.restart(0), Order::Finish(End::Reset));
        assert_eq!(life.restart(0), Order::Continue);
    }
}

/// A guest whose harts have all stopped themselves can be ended by the user.
#[test]
fn a_guest_without_a_running_hart_can_end() {
    let mut life = Lifecycle::new(1);
    life.run(Start::default());
    assert!(matches!(life.attend(0), Order::Begin(_)));
    assert_eq!(life.stop(0), Ok(Order::Halt));
    assert_eq!(life.end(0, End::PowerOff), Order::Finish(End::PowerOff));
}
