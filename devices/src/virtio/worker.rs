//! Serves the single queue of a device: by a thread, one request after the other, or, for a request that arrives alone and
//! is quick, by the notifying vCPU's thread.
//!
//! Waking a thread, letting the guest idle meanwhile and waking it again takes several times as long as a small request
//! itself. But requests that arrive in quick succession are better batched for the thread, and a request that may wait
//! for the host's storage must not block a vCPU.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, PoisonError};

use super::chain::{Chain, Malformed};
use super::queue::{Broken, DeviceQueue, Parked};
use super::{ActiveQueue, Notifier, NotifyHandler, QueuePosition};
use crate::lock;
use crate::memory::GuestMemoryMmap;
use crate::sync::{AtomicBool, EventFd, Mutex, Ordering, RwLock};
use crate::thread::{Job, Role, WorkerThread};

/// How many requests are served on vCPUs' threads before the worker gets one, to see whether more come with it; and how many
/// the worker gets by itself after one that was not quick.
const STRETCH: u8 = 32;

/// The thread of a device with one queue.
pub(super) struct Worker {
    thread: WorkerThread,
    notify_handler: Arc<AttachedService>,
    serving: Option<Serving>,
}

/// What is being served.
struct Serving {
    stop: Arc<AtomicBool>,
    queue: u16,
    kick: Arc<EventFd>,
    /// Ends with the position in the queue, or without if that is broken.
    job: Job<Option<u16>>,
}

impl Worker {
    /// The thread, with nothing to do yet.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn new(role: Role) -> io::Result<Self> {
        Ok(Self {
            thread: WorkerThread::spawn(role)?,
            notify_handler: Arc::default(),
            serving: None,
        })
    }

    /// Handles notifications on the vCPUs' threads that make them: what the handler can do at once is done there.
    pub fn notify_handler(&self) -> Arc<dyn NotifyHandler> {
        Arc::clone(&self.notify_handler) as Arc<dyn NotifyHandler>
    }

    /// Serves this queue from now on.
    pub fn start(
        &mut self,
        memory: Arc<GuestMemoryMmap>,
        queue: ActiveQueue,
        notifier: Arc<dyn Notifier>,
        handler: impl Handler,
    ) {
        self.pause();
        let stop = Arc::new(AtomicBool::new(false));
        let ActiveQueue { index, queue, kick } = queue;
        let service = Arc::new(Service {
            memory,
            index,
            notifier,
            stop: Arc::clone(&stop),
            turn: Mutex::new(Turn {
                queue: Some(Parked::new(queue)),
                handler,
                pace: Pace::default(),
                held: false,
            }),
        });
        self.notify_handler.attach(Some(service.clone()));
        let job = self.thread.run({
            let kick = Arc::clone(&kick);
            move || {
                service.run(&kick);
                let turn = lock(&service.turn);
                turn.queue.as_ref().map(Parked::position)
            }
        });
        self.serving = Some(Serving {
            stop,
            queue: index,
            kick,
            job,
        });
    }

    /// Waits for the request at hand, and serves no more; those behind it stay available.
    pub fn pause(&mut self) -> Option<QueuePosition> {
        let serving = self.serving.take()?;
        serving.stop.store(true, Ordering::Release);
        self.notify_handler.attach(None);
        // The kick doubles as the wake-up, so that the worker waits with one system call on one descriptor. It stays
        // readable if the worker has ended already, which costs the next one a look at its ring.
        let _ = serving.kick.write(1);
        let next = serving.job.wait().flatten()?;
        Some(QueuePosition {
            index: serving.queue,
            next,
        })
    }
}

impl Drop for Worker {
    /// Waits for the request at hand, or for what a long one is doing at the moment; those behind it stay undone.
    fn drop(&mut self) {
        self.pause();
    }
}

/// What a device does with its requests.
pub(super) trait Handler: Send + 'static {
    /// Carries out the request in `chain`. Returns how many bytes from the start of its writable buffers on are written.
    /// A long request looks at `stop` now and then; `None` if it was given up because that is set, or if it cannot be carried
    /// out for now. It stays available then, and no other is begun until the queue is paused and started again.
    ///
    /// # Errors
    /// If there is no request in it, which stops the device.
    fn handle(
        &mut self,
        chain: &mut Chain<'_>,
        stop: &AtomicBool,
    ) -> Result<Option<u32>, Malformed>;

    /// The same on a vCPU's thread, if it takes some microseconds and no waiting. `None` if not: then the request is handled
    /// once more, from its start.
    ///
    /// # Errors
    /// As [`handle`](Self::handle).
    fn handle_now(&mut self, chain: &mut Chain<'_>) -> Result<Option<u32>, Malformed> {
        let _ = chain;
        Ok(None)
    }
}

/// Passes a device's notifications to its service, which comes and goes.
#[derive(Default)]
struct AttachedService(RwLock<Option<Arc<dyn NotifyHandler>>>);

impl AttachedService {
    /// Attaches a service, or detaches the one there is. Each call of `notify` that was under way has returned then.
    fn attach(&self, service: Option<Arc<dyn NotifyHandler>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = service;
    }
}

impl NotifyHandler for AttachedService {
    fn notify(&self) -> bool {
        // Whoever is changing it does not want to be disturbed.
        self.0
            .try_read()
            .is_ok_and(|service| service.as_ref().is_some_and(|service| service.notify()))
    }
}

thread_local! {
    /// Space for the buffers of the request that this thread is serving.
    static CHAIN: Cell<Chain<'static>> = Cell::default();
}

/// The queue, and what is needed to serve it.
struct Service<H> {
    memory: Arc<GuestMemoryMmap>,
    /// The queue's.
    index: u16,
    notifier: Arc<dyn Notifier>,
    stop: Arc<AtomicBool>,
    turn: Mutex<Turn<H>>,
}

/// The state of the thread that is serving.
struct Turn<H> {
    /// `None` if it is broken.
    queue: Option<Parked>,
    handler: H,
    pace: Pace,
    /// The next request has been given up, and waits for the queue to be paused and started again.
    held: bool,
}

/// Where the next request that comes alone is to be served.
#[derive(Default)]
struct Pace {
    /// How many more on vCPUs' threads.
    direct: u8,
    /// How many more by the worker, before another is tried on a vCPU's thread.
    indirect: u8,
}

impl Pace {
    /// The worker has served this many requests since it woke.
    fn worker_served(&mut self, count: u64) {
        match count {
            0 => {}
            1 if self.indirect == 0 => self.direct = STRETCH,
            1 => self.indirect = self.indirect.saturating_sub(1),
            // They come together.
            _ => self.direct = 0,
        }
    }

    fn not_quick(&mut self) {
        *self = Self {
            direct: 0,
            indirect: STRETCH,
        };
    }
}

impl<H: Handler> Service<H> {
    /// What the thread does.
    fn run(&self, kick: &EventFd) {
        while !self.stop.load(Ordering::Acquire) {
            // First a look, then the wait: what was made available before the driver was ready comes without a kick.
            if self.serve().is_none() {
                return;
            }
            // It goes on where a signal interrupts it.
            if let Err(error) = kick.read() {
                self.notifier.needs_reset(&error);
                return;
            }
        }
    }

    /// Serves all requests in the ring, or up to one that is held. `None` if the ring is broken.
    fn serve(&self) -> Option<()> {
        let turn = &mut lock(&self.turn);
        if turn.held {
            return Some(());
        }
        turn.held = self.take_turn(turn, |server, pace| {
            let served = server.serve()?;
            pace.worker_served(served.count);
            Ok(served.held)
        })?;
        Some(())
    }

    /// Lets `serve` have the queue. `None` if that is broken.
    fn take_turn<T>(
        &self,
        turn: &mut Turn<H>,
        serve: impl FnOnce(&mut Server<'_, H>, &mut Pace) -> Result<T, Broken>,
    ) -> Option<T> {
        let mut server = Server {
            queue: DeviceQueue::resume(&self.memory, turn.queue.take()?),
            index: self.index,
            notifier: self.notifier.as_ref(),
            handler: &mut turn.handler,
            stop: &self.stop,
            chain: CHAIN.take().recycle(),
        };
        let result = serve(&mut server, &mut turn.pace);
        CHAIN.set(server.chain.recycle());
        match result {
            Ok(value) => {
                turn.queue = Some(server.queue.park());
                Some(value)
            }
            Err(reason) => {
                self.notifier.needs_reset(&reason);
                None
            }
        }
    }
}

impl<H: Handler> NotifyHandler for Service<H> {
    fn notify(&self) -> bool {
        // While the worker serves it sees by itself what comes, or is told to look once more.
        let Ok(mut turn) = self.turn.try_lock() else {
            return false;
        };
        if turn.held || turn.pace.direct == 0 {
            return false;
        }
        let served = self.take_turn(&mut turn, |server, pace| server.serve_one(pace));
        // There is nothing to be done for a queue that is broken.
        served.unwrap_or(true)
    }
}

/// What a worker has served without a pause.
#[derive(Clone, Copy, Default)]
struct Served {
    count: u64,
    /// The next one was given up.
    held: bool,
}

/// A queue that is being served.
struct Server<'m, H> {
    index: u16,
    queue: DeviceQueue<'m>,
    notifier: &'m dyn Notifier,
    handler: &'m mut H,
    stop: &'m AtomicBool,
    chain: Chain<'m>,
}

impl<H: Handler> Server<'_, H> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Serves the one request in the ring on a vCPU's thread, if it is alone and quick. Returns whether the ring is empty
    /// then; the driver notifies the next request in any case.
    fn serve_one(&mut self, pace: &mut Pace) -> Result<bool, Broken> {
        if self.queue.waiting()? != 1 {
            return Ok(false);
        }
        let Some(head) = self.queue.next(&mut self.chain)? else {
            return Ok(false);
        };
        let Some(used) = self.handler.handle_now(&mut self.chain)? else {
            self.queue.put_back();
            pace.not_quick();
            return Ok(false);
        };
        pace.direct = pace.direct.saturating_sub(1);
        self.queue.add_used(&[(head, used)])?;
        self.notify_used()?;
        Ok(!self.queue.enable_notification()?)
    }

    /// Serves all requests in the ring, up to one that is given up. Otherwise the ring is empty then, and the driver has been
    /// asked to notify the next one.
    fn serve(&mut self) -> Result<Served, Broken> {
        let mut total = Served::default();
        loop {
            self.queue.disable_notification()?;
            let served = self.serve_batch()?;
            total.count = total.count.saturating_add(served.count);
            total.held = served.held;
            if served.count > 0 {
                self.notify_used()?;
            }
            if total.held || self.stopped() || !self.queue.enable_notification()? {
                return Ok(total);
            }
        }
    }

    fn notify_used(&mut self) -> Result<(), Broken> {
        if self.queue.wants_interrupt()? {
            self.notifier.used(self.index);
        }
        Ok(())
    }

    /// Serves up to a whole ring of requests. The limit keeps a driver that polls, and refills the
    /// ring meanwhile, from putting off the interrupt for ever.
    fn serve_batch(&mut self) -> Result<Served, Broken> {
        let mut served = Served::default();
        while served.count < self.queue.size().into() && !self.stopped() {
            let Some(head) = self.queue.next(&mut self.chain)? else {
                break;
            };
            let Some(used) = self.handler.handle(&mut self.chain, self.stop)? else {
                self.queue.put_back();
                served.held = true;
                break;
            };
            self.queue.add_used(&[(head, used)])?;
            served.count = served.count.saturating_add(1);
        }
        Ok(served)
    }
}

#[cfg(test)]
mod tests;
