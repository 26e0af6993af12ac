//! The thread that serves a block device's queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::request::{Chain, Executor, Malformed};
use crate::virtio::{ActiveQueue, Interrupt};

/// A running worker. Ends when dropped.
pub(super) struct Worker {
    stop: Arc<AtomicBool>,
    kick: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    pub fn spawn(
        name: String,
        memory: Arc<GuestMemoryMmap>,
        queue: ActiveQueue,
        interrupt: Arc<Interrupt>,
        executor: Executor,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let kick = Arc::clone(&queue.kick);
        let thread = std::thread::Builder::new().name(name).spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut server = Server::new(&memory, queue.queue, &interrupt, &executor, &stop);
                server.run(&queue.kick);
            }
        })?;
        Ok(Self {
            stop,
            kick,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    /// Waits for the request at hand; those behind it stay undone.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The kick doubles as the wake-up, so that the worker waits with one system call on one descriptor. It stays
        // readable if the worker has ended already, which costs the next one a look at its ring.
        let _ = self.kick.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why a device stops serving its queue until it is reset.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Request(#[from] Malformed),
    #[error("{0}")]
    Queue(virtio_queue::Error),
    #[error("available ring: descriptor {0} is not in the table")]
    Head(u16),
    #[error("available ring: cannot be read")]
    Unreadable,
}

/// The queue and what is needed to serve it.
pub(super) struct Server<'m> {
    memory: &'m GuestMemoryMmap,
    queue: Queue,
    interrupt: &'m Interrupt,
    executor: &'m Executor,
    stop: &'m AtomicBool,
    chain: Chain<'m>,
}

impl<'m> Server<'m> {
    pub fn new(
        memory: &'m GuestMemoryMmap,
        queue: Queue,
        interrupt: &'m Interrupt,
        executor: &'m Executor,
        stop: &'m AtomicBool,
    ) -> Self {
        Self {
            memory,
            queue,
            interrupt,
            executor,
            stop,
            chain: Chain::default(),
        }
    }

    fn run(&mut self, kick: &EventFd) {
        while !self.stopped() {
            // First a look, then the wait: what was made available before the driver was ready comes without a kick.
            if let Err(reason) = self.serve() {
                self.interrupt.needs_reset(&reason);
                return;
            }
            match kick.read() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.interrupt.needs_reset(&error);
                    return;
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Serves all requests in the ring. Returns when it is empty and the driver has been asked to notify the next one.
    pub fn serve(&mut self) -> Result<(), Broken> {
        // The ring was found to hold something, so the next look must find it too.
        let mut promised = false;
        loop {
            self.queue
                .disable_notification(self.memory)
                .map_err(Broken::Queue)?;
            let served = self.serve_batch()?;
            if served > 0 && self.wants_interrupt()? {
                self.interrupt.notify_used();
            }
            if self.stopped() {
                return Ok(());
            }
            if served == 0 && promised {
                // It holds something that cannot be got. Without this, the loop would not end.
                return Err(Broken::Unreadable);
            }
            promised = self
                .queue
                .enable_notification(self.memory)
                .map_err(Broken::Queue)?;
            if !promised {
                return Ok(());
            }
        }
    }

    /// Serves up to a whole ring of requests and returns how many. The limit keeps a driver that polls, and refills the
    /// ring meanwhile, from putting off the interrupt for ever.
    fn serve_batch(&mut self) -> Result<u16, Broken> {
        let mut served = 0;
        while served < self.queue.size() && !self.stopped() {
            let next = self.queue.iter(self.memory).map_err(Broken::Queue)?.next();
            let Some(descriptors) = next else { break };
            let head = descriptors.head_index();
            if head >= self.queue.size() {
                return Err(Broken::Head(head));
            }
            self.chain.load(self.memory, descriptors)?;
            let used = self.executor.execute(&mut self.chain)?;
            self.queue
                .add_used(self.memory, head, used)
                .map_err(Broken::Queue)?;
            served = served.saturating_add(1);
        }
        Ok(served)
    }

    /// Whether the driver wants to hear of the used buffers (VIRTIO 1.3, section 2.7.7).
    fn wants_interrupt(&mut self) -> Result<bool, Broken> {
        if !self.queue.event_idx_enabled() {
            // The driver clears its flag and then looks at the used ring; here the ring is written and then the flag
            // read. Without a full barrier each could miss the other.
            fence(Ordering::SeqCst);
            let flags: u16 = self
                .memory
                .read_obj(GuestAddress(self.queue.avail_ring()))
                .map_err(|_| Broken::Unreadable)?;
            return Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        self.queue
            .needs_notification(self.memory)
            .map_err(Broken::Queue)
    }
}
