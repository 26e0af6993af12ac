//! Work on other harts: started for it by SBI, and stopped after it.

use core::cell::UnsafeCell;
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use sbi_spec::hsm::hart_state::STOPPED;

use super::boot::{self, STACK, Stack};
use super::machine::Machine;
use super::report::Outcome;
use super::trap::{self, MAX_HARTS};
use super::{sbi, time};

/// What a hart is started with. The stack's top comes first, where the entry looks for it.
#[repr(C)]
pub struct Start {
    stack: UnsafeCell<usize>,
    work: UnsafeCell<Option<Work<'static>>>,
    result: UnsafeCell<Outcome>,
    done: AtomicBool,
}

/// What to do, on the hart with this index.
type Work<'a> = &'a (dyn Fn(usize) -> Outcome + Sync);

// SAFETY: the starter fills it in before the hart runs, and looks at it again when `done` says that the hart is through.
unsafe impl Sync for Start {}

static STARTS: [Start; MAX_HARTS] = [const {
    Start {
        stack: UnsafeCell::new(0),
        work: UnsafeCell::new(None),
        result: UnsafeCell::new(Ok(())),
        done: AtomicBool::new(false),
    }
}; MAX_HARTS];

static mut STACKS: [Stack; MAX_HARTS] = [const { Stack::new() }; MAX_HARTS];

/// A hart that was started and is to be waited for, with its index.
#[must_use]
struct Running(usize);

/// Starts the hart with this index, which is stopped.
///
/// # Safety
/// `work` must not end before [`finish`] has returned.
unsafe fn start(machine: &Machine, index: usize, work: Work<'_>) -> Outcome<Running> {
    let start = &STARTS[index];
    // SAFETY: only the address is taken.
    let stack = unsafe { &raw mut STACKS[index] };
    start.done.store(false, Ordering::Relaxed);
    // SAFETY: the hart is stopped, so nothing else looks at these. The caller keeps the work for as long as it is used.
    unsafe {
        *start.stack.get() = stack as usize + STACK;
        *start.work.get() = Some(mem::transmute::<Work<'_>, Work<'static>>(work));
    }
    let id = machine.harts[index];
    let answer = sbi::hsm::start(id, boot::secondary_entry(), ptr::from_ref(start) as usize);
    check!(
        answer.error == 0,
        "starting hart {id} failed with {}",
        answer.error
    );
    Ok(Running(index))
}

/// Where a hart arrives that was started.
pub extern "C" fn enter(id: usize, start: *const Start) -> ! {
    // SAFETY: `start` gave the address of one of STARTS.
    let start = unsafe { &*start };
    let offset = ptr::from_ref(start) as usize - ptr::from_ref(&STARTS) as usize;
    let index = offset / size_of::<Start>();
    trap::enter(index, id);
    // SAFETY: the starter filled it in, and waits.
    if let Some(work) = unsafe { *start.work.get() } {
        let result = work(index);
        trap::quiet();
        // SAFETY: as above.
        unsafe { *start.result.get() = result };
    }
    start.done.store(true, Ordering::Release);
    let answer = sbi::hsm::stop();
    panic!("hart {id} is not stopped: {}", answer.error)
}

/// Waits until a hart is through and stopped. One that never is ends all, because it has what the starter owns.
fn finish(machine: &Machine, running: Running) -> Outcome {
    let Running(index) = running;
    let start = &STARTS[index];
    let id = machine.harts[index];
    assert!(
        time::wait_longer_for(|| start.done.load(Ordering::Acquire)),
        "hart {id} does not come to an end"
    );
    // SAFETY: the hart is through.
    let result = unsafe { mem::replace(&mut *start.result.get(), Ok(())) };
    assert!(
        time::wait_for(|| sbi::hsm::status(id).value == STOPPED),
        "hart {id} does not stop"
    );
    result
}

/// Runs `work` on the hart with this index, which is not the one that this runs on, while this one does `meanwhile`.
pub fn beside(
    machine: &Machine,
    index: usize,
    work: &(dyn Fn(usize) -> Outcome + Sync),
    meanwhile: impl FnOnce() -> Outcome,
) -> Outcome {
    // SAFETY: this function waits for its end.
    let running = unsafe { start(machine, index, work) }?;
    let here = meanwhile();
    let there = finish(machine, running);
    here.and(there)
}

/// Runs `work` on every hart at the same time. It is given the hart's index.
pub fn everywhere(machine: &Machine, work: &(dyn Fn(usize) -> Outcome + Sync)) -> Outcome {
    on_first(machine, machine.harts.len(), work)
}

/// Runs `work` on the first `harts` of them at the same time.
pub fn on_first(
    machine: &Machine,
    harts: usize,
    work: &(dyn Fn(usize) -> Outcome + Sync),
) -> Outcome {
    let mut outcome = Ok(());
    let mut running = ArrayVec::<Running, MAX_HARTS>::new();
    for index in 1..harts {
        // SAFETY: all that were started are waited for.
        match unsafe { start(machine, index, work) } {
            Ok(hart) => running.push(hart),
            Err(stop) => outcome = Err(stop),
        }
    }
    if outcome.is_ok() {
        outcome = work(0);
    }
    for hart in running {
        let there = finish(machine, hart);
        outcome = outcome.and(there);
    }
    outcome
}

/// What a test begins with that needs more than one hart.
pub fn several(machine: &Machine) -> Outcome {
    if machine.harts.len() < 2 {
        skip!("there is one hart");
    }
    Ok(())
}

/// A place where all harts wait for one another, again and again.
pub struct Barrier {
    arrived: AtomicUsize,
    harts: usize,
}

impl Barrier {
    /// For all harts of the machine.
    pub fn new(machine: &Machine) -> Self {
        Self {
            arrived: AtomicUsize::new(0),
            harts: machine.harts.len(),
        }
    }

    /// Waits until all have come here once more.
    pub fn wait(&self) -> Outcome {
        let before = self.arrived.fetch_add(1, Ordering::AcqRel);
        let all = (before / self.harts + 1) * self.harts;
        if time::wait_for(|| self.arrived.load(Ordering::Acquire) >= all) {
            Ok(())
        } else {
            fail!("another hart does not come along")
        }
    }
}
