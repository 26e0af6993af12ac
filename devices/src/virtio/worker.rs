//! The thread that serves the one queue of a device: one request after the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, Malformed};
use super::queue::{Broken, DeviceQueue};
use super::{ActiveQueue, Interrupt};

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
        handler: impl Handler,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let kick = Arc::clone(&queue.kick);
        let thread = std::thread::Builder::new().name(name).spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut server = Server {
                    queue: DeviceQueue::new(&memory, queue.queue),
                    interrupt: &interrupt,
                    handler,
                    stop: &stop,
                    chain: Chain::default(),
                };
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

/// What a device does with its requests.
pub(super) trait Handler: Send + 'static {
    /// Carries out the request in `chain`. Returns how many bytes from the start of its writable buffers on are written.
    ///
    /// # Errors
    /// If there is no request in it, which stops the device.
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<u32, Malformed>;
}

/// The queue and what is needed to serve it.
struct Server<'m, H> {
    queue: DeviceQueue<'m>,
    interrupt: &'m Interrupt,
    handler: H,
    stop: &'m AtomicBool,
    chain: Chain<'m>,
}

impl<H: Handler> Server<'_, H> {
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
    fn serve(&mut self) -> Result<(), Broken> {
        loop {
            self.queue.disable_notification()?;
            let served = self.serve_batch()?;
            if served > 0 && self.queue.wants_interrupt()? {
                self.interrupt.notify_used();
            }
            if self.stopped() {
                return Ok(());
            }
            if !self.queue.enable_notification()? {
                return Ok(());
            }
        }
    }

    /// Serves up to a whole ring of requests and returns how many. The limit keeps a driver that polls, and refills the
    /// ring meanwhile, from putting off the interrupt for ever.
    fn serve_batch(&mut self) -> Result<u16, Broken> {
        let mut served = 0;
        while served < self.queue.size() && !self.stopped() {
            let Some(head) = self.queue.next(&mut self.chain)? else {
                break;
            };
            let used = self.handler.handle(&mut self.chain)?;
            self.queue.add_used(&[(head, used)])?;
            served = served.saturating_add(1);
        }
        Ok(served)
    }
}
