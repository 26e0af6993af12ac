//! Who serves what, and that nothing is served twice or forgotten.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use hv_test_limit::LIMIT;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{
    DATA, Ring, TestLine, USED, chain, memory, queue, readable, until, wait_asleep, writable,
};

const SIZE: u16 = 16;
/// Each takes two descriptors.
const REQUESTS: u16 = SIZE / 2;

/// The byte in a request, and what it means.
const QUICK: u8 = 0;
const SLOW: u8 = 1;
/// Not even a request.
const NONSENSE: u8 = 2;

/// Who served a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Worker,
    Vcpu,
}

/// Says who served what.
struct Witness(Sender<By>);

fn byte(chain: &mut Chain<'_>) -> Result<u8, Malformed> {
    match chain.readable.take_front() {
        Some([NONSENSE]) | None => Err(Malformed::NoStatus),
        Some([byte]) => Ok(byte),
    }
}

impl Witness {
    fn answer(&self, by: By, chain: &Chain<'_>) -> u32 {
        self.0.send(by).unwrap();
        chain.writable.copy_from(&[0xa5]).try_into().unwrap()
    }
}

impl Handler for Witness {
    fn handle(
        &mut self,
        chain: &mut Chain<'_>,
        _stop: &AtomicBool,
    ) -> Result<Option<u32>, Malformed> {
        byte(chain)?;
        Ok(Some(self.answer(By::Worker, chain)))
    }

    fn handle_now(&mut self, chain: &mut Chain<'_>) -> Result<Option<u32>, Malformed> {
        let quick = byte(chain)? == QUICK;
        Ok(quick.then(|| self.answer(By::Vcpu, chain)))
    }
}

/// A service without its thread: the test takes the worker's turns.
struct Bench<'a> {
    ring: Ring<'a>,
    service: Service<Witness>,
    line: Arc<TestLine>,
    served: Receiver<By>,
}

impl<'a> Bench<'a> {
    fn new(memory: &'a Arc<GuestMemoryMmap>, event_idx: bool) -> Self {
        let line = Arc::<TestLine>::default();
        let (sender, served) = channel();
        let bench = Self {
            ring: Ring::new(memory, SIZE),
            service: Service {
                memory: memory.clone(),
                index: 0,
                notifier: line.clone(),
                stop: Arc::default(),
                turn: Mutex::new(Turn {
                    queue: Some(Parked::new(queue(SIZE, event_idx, 0))),
                    handler: Witness(sender),
                    pace: Pace::default(),
                    held: false,
                }),
            },
            line,
            served,
        };
        bench.service.serve().unwrap();
        bench
    }

    fn offer(&mut self, byte: u8) {
        let slot = self.ring.available % REQUESTS;
        let address = DATA + 16 * u64::from(slot);
        let memory = self.ring.memory;
        memory.write_obj(byte, GuestAddress(address)).unwrap();
        let buffers = [readable(address, 1), writable(address + 8, 1)];
        self.ring.describe(2 * slot, &chain(2 * slot, &buffers));
        self.ring.offer(2 * slot);
    }

    /// The driver notifies, as it does where the device has asked for it.
    fn notify(&self) {
        if !self.service.notify() {
            self.service.serve();
        }
    }

    fn served(&self) -> Vec<By> {
        self.served.try_iter().collect()
    }

    fn request(&mut self, byte: u8) -> Vec<By> {
        self.offer(byte);
        self.notify();
        assert_eq!(self.ring.used_index(), self.ring.available, "all is done");
        self.served()
    }
}

#[test]
fn single_quick_requests_are_served_where_they_come_from() {
    let memory = Arc::new(memory());
    let mut bench = Bench::new(&memory, false);
    for _ in 0..3 {
        assert_eq!(bench.request(QUICK), [By::Worker], "what comes with it?");
        for _ in 0..STRETCH {
            let interrupts = bench.line.assertions();
            assert_eq!(bench.request(QUICK), [By::Vcpu]);
            assert_eq!(bench.line.assertions(), interrupts + 1);
        }
    }
}

#[test]
fn requests_that_come_together_are_the_workers() {
    let memory = Arc::new(memory());
    let mut bench = Bench::new(&memory, false);
    bench.request(QUICK);
    for _ in 0..3 {
        bench.offer(QUICK);
        bench.offer(QUICK);
        bench.notify();
        assert_eq!(bench.served(), [By::Worker; 2]);
    }
    assert_eq!(bench.request(QUICK), [By::Worker], "as before it");
    assert_eq!(bench.request(QUICK), [By::Vcpu]);
}

#[test]
fn what_is_not_quick_is_the_workers() {
    let memory = Arc::new(memory());
    let mut bench = Bench::new(&memory, false);
    bench.request(QUICK);
    for _ in 0..2 {
        assert_eq!(bench.request(SLOW), [By::Worker], "and served once");
        for _ in 0..STRETCH {
            assert_eq!(bench.request(QUICK), [By::Worker], "not tried again soon");
        }
        assert_eq!(bench.request(QUICK), [By::Vcpu]);
    }
}

#[test]
fn nonsense_breaks_the_queue_wherever_it_is_found() {
    for before in [0, 1] {
        let memory = Arc::new(memory());
        let mut bench = Bench::new(&memory, false);
        for _ in 0..before {
            bench.request(QUICK);
        }
        bench.offer(NONSENSE);
        bench.notify();
        assert!(bench.line.needs_reset());
        bench.offer(QUICK);
        bench.notify();
        assert_eq!(bench.service.serve(), None);
        assert!(bench.served().is_empty(), "nothing more is served");
    }
}

#[test]
fn while_the_worker_serves_it_is_told_to_look_again() {
    let memory = Arc::new(memory());
    let mut bench = Bench::new(&memory, false);
    bench.request(QUICK);
    bench.offer(QUICK);
    let turn = lock(&bench.service.turn);
    assert!(!bench.service.notify());
    drop(turn);
    assert!(bench.served().is_empty());
}

#[test]
fn without_a_service_nobody_hears_of_a_notification() {
    assert!(!AttachedService::default().notify());
}

/// A worker with its thread, and requests that are a byte each.
struct Threaded<'a> {
    ring: Ring<'a>,
    worker: Worker,
    kick: Arc<EventFd>,
    line: Arc<TestLine>,
    name: String,
}

impl<'a> Threaded<'a> {
    fn new(memory: &'a Arc<GuestMemoryMmap>, handler: impl Handler, kick: EventFd) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Other tests have devices of low numbers.
        let number = 1000 + NEXT.fetch_add(1, Ordering::Relaxed);
        let line = Arc::<TestLine>::default();
        let mut worker = Worker::new(Role::Block(number)).unwrap();
        let kick = Arc::new(kick);
        let queue = ActiveQueue {
            index: 0,
            queue: queue(SIZE, false, 0),
            kick: kick.clone(),
        };
        worker.start(memory.clone(), queue, line.clone(), handler);
        Self {
            ring: Ring::new(memory, SIZE),
            worker,
            kick,
            line,
            name: format!("virtio-blk-{number}"),
        }
    }

    fn offer(&mut self, slot: u16) {
        let address = DATA + 16 * u64::from(slot);
        let buffers = [readable(address, 1), writable(address + 8, 1)];
        self.ring.describe(2 * slot, &chain(2 * slot, &buffers));
        self.ring.offer(2 * slot);
    }
}

/// By a signal, too, which is no request.
#[test]
fn a_worker_that_sleeps_is_woken() {
    extern "C" fn nothing(_: libc::c_int) {}
    // Without SA_RESTART, so that system calls are interrupted.
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(nothing),
        nix::sys::signal::SaFlags::empty(),
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler does nothing, and nobody else here uses this signal, which is ignored otherwise.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::SIGURG, &action) }.unwrap();
    let memory = Arc::new(memory());
    let (sender, served) = channel();
    let mut threaded = Threaded::new(&memory, Witness(sender), EventFd::new(0).unwrap());
    for round in 0..3 {
        let thread = wait_asleep(&threaded.name);
        // SAFETY: a system call with three numbers; the thread is one of this process.
        let result = unsafe {
            libc::syscall(
                libc::SYS_tgkill,
                std::process::id(),
                thread[0],
                libc::SIGURG,
            )
        };
        assert_eq!(result, 0);
        wait_asleep(&threaded.name);
        assert!(!threaded.line.needs_reset());
        threaded.offer(round);
        threaded.kick.write(1).unwrap();
        let ring = &threaded.ring;
        threaded.line.wait(|| ring.used_index() == ring.available);
        assert_eq!(served.recv_timeout(LIMIT), Ok(By::Worker));
    }
}

#[test]
fn a_worker_that_cannot_wait_says_so() {
    let memory = Arc::new(memory());
    let (sender, _served) = channel();
    let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let threaded = Threaded::new(&memory, Witness(sender), kick);
    until(|| threaded.line.needs_reset());
}

#[test]
fn nothing_of_a_worker_is_left_when_it_was_dropped() {
    let memory = Arc::new(memory());
    let (sender, served) = channel();
    let threaded = Threaded::new(&memory, Witness(sender), EventFd::new(0).unwrap());
    wait_asleep(&threaded.name);
    drop(threaded.worker);
    assert!(
        served.recv_timeout(LIMIT) == Err(RecvTimeoutError::Disconnected),
        "its handler is gone"
    );
}

/// Takes until the device is reset.
struct Endless(Sender<()>);

impl Handler for Endless {
    fn handle(
        &mut self,
        _chain: &mut Chain<'_>,
        stop: &AtomicBool,
    ) -> Result<Option<u32>, Malformed> {
        self.0.send(()).unwrap();
        until(|| stop.load(Ordering::Acquire));
        Ok(None)
    }
}

#[test]
fn a_reset_does_not_wait_for_a_long_request() {
    let memory = Arc::new(memory());
    let (sender, begun) = channel();
    let mut threaded = Threaded::new(&memory, Endless(sender), EventFd::new(0).unwrap());
    threaded.offer(0);
    threaded.offer(1);
    threaded.kick.write(1).unwrap();
    begun.recv_timeout(LIMIT).unwrap();
    drop(threaded.worker);
    assert_eq!(threaded.ring.used_index(), 0, "it is not done");
    assert!(
        begun.recv_timeout(LIMIT) == Err(RecvTimeoutError::Disconnected),
        "nor is the next one begun"
    );
}

#[test]
fn nothing_is_quick_unless_a_device_says_so() {
    let (sender, _) = channel();
    let none = Endless(sender).handle_now(&mut Chain::default());
    assert_eq!(none, Ok(None));
}

#[test]
fn a_worker_that_is_stopped_begins_nothing() {
    let memory = Arc::new(memory());
    let mut bench = Bench::new(&memory, false);
    bench.offer(QUICK);
    bench.service.stop.store(true, Ordering::Release);
    bench.service.serve();
    assert_eq!(bench.served(), []);
}

#[test]
fn an_empty_ring_is_no_reason_for_an_interrupt() {
    let memory = Arc::new(memory());
    let mut bench = Bench::new(&memory, false);
    bench.service.serve().unwrap();
    assert_eq!(bench.line.assertions(), 0);
    bench.request(QUICK);
    let interrupts = bench.line.assertions();
    bench.service.serve().unwrap();
    assert_eq!(bench.line.assertions(), interrupts);
}

#[test]
fn the_worker_sleeps_on_when_a_vcpu_has_emptied_the_ring() {
    let memory = Arc::new(memory());
    let mut bench = Bench::new(&memory, false);
    bench.request(QUICK);
    bench.offer(QUICK);
    assert!(bench.service.notify());
    assert_eq!(bench.served(), [By::Vcpu]);
}

proptest! {
    /// Batches of any size, with a driver that notifies only when it is asked to (VIRTIO 1.3, section 2.7.10).
    #[test]
    fn every_request_is_served_once(
        batches in proptest::collection::vec(proptest::collection::vec(0..=1_u8, 1..=REQUESTS.into()), 1..200),
        event_idx: bool,
    ) {
        let memory = Arc::new(memory());
        let mut bench = Bench::new(&memory, event_idx);
        for batch in batches {
            let before = bench.ring.available;
            for &byte in &batch {
                bench.offer(byte);
            }
            let now = bench.ring.available;
            let asked = if event_idx {
                // avail_event, behind the used ring.
                let event: u16 = memory.read_obj(GuestAddress(USED + 4 + 8 * u64::from(SIZE))).unwrap();
                now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
            } else {
                memory.read_obj::<u16>(GuestAddress(USED)).unwrap() == 0
            };
            prop_assert!(asked, "an idle device asks to be notified");
            bench.notify();
            prop_assert_eq!(bench.ring.used_index(), now);
            prop_assert_eq!(bench.served().len(), batch.len());
        }
    }
}
