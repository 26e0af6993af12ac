//! The thread that serves the queues of a vsock device.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::muxer::{LISTENER, Muxer};
use super::packet::{HEADER_SIZE, Header};
use crate::memory::GuestMemoryMmap;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, DeviceQueue, Stopped};
use crate::virtio::{Activation, ActiveQueue, QueuePosition};

/// The queues (VIRTIO 1.3, section 5.10.2), from the driver's point of view.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;

/// The event that tells a driver that its connections are gone (section 5.10.6.7, `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`), as
/// `struct virtio_vsock_event`.
const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();

/// Packets in one direction before it is the other's turn.
const TURN: u32 = 64;

/// What names the events that need nothing but a look.
const LOOK: u64 = 0;

/// What a device knows that no queue tells. It is there from the driver's start to the reset.
pub(super) struct State {
    pub muxer: Muxer,
    /// The driver is to be told that its connections are gone.
    pub transport_reset: bool,
}

/// Serves all queues until it is told to stop and woken by `wake`. Nothing that it does blocks. Returns how far it has come in each
/// queue that is not broken.
pub(super) fn serve(
    activation: Activation,
    state: &mut State,
    stop: &AtomicBool,
    wake: &EventFd,
) -> Vec<QueuePosition> {
    let Activation {
        memory,
        mut queues,
        notifier,
        ..
    } = activation;
    let mut take = |index| {
        let position = queues.iter().position(|queue| queue.index == index)?;
        Some(Line::new(&memory, queues.swap_remove(position)))
    };
    let mut server = Server {
        receive: take(RECEIVE),
        transmit: take(TRANSMIT),
        event: take(EVENT),
        state,
    };
    match server.run(stop, wake, |queue| notifier.used(queue)) {
        Ok(()) => server.lines().map(|line| line.position()).collect(),
        Err(reason) => {
            notifier.needs_reset(&reason);
            Vec::new()
        }
    }
}

/// A queue with what announces its buffers.
struct Line<'m> {
    index: u16,
    queue: DeviceQueue<'m>,
    kick: Arc<EventFd>,
    chain: Chain<'m>,
    /// The chain that was taken and is not used up. It stays available for who serves the queue next.
    held: Option<u16>,
}

impl<'m> Line<'m> {
    fn new(memory: &'m GuestMemoryMmap, queue: ActiveQueue) -> Self {
        Self {
            index: queue.index,
            queue: DeviceQueue::new(memory, queue.queue),
            kick: queue.kick,
            chain: Chain::default(),
            held: None,
        }
    }

    fn position(&self) -> QueuePosition {
        QueuePosition {
            index: self.index,
            next: self.queue.position(),
        }
    }

    /// The chain at hand, or the next one. Without one, the driver has been asked to notify it.
    fn head(&mut self) -> Result<Option<u16>, Broken> {
        if self.held.is_none() {
            self.held = self.queue.next(&mut self.chain)?;
        }
        if self.held.is_none() && self.queue.enable_notification()? {
            self.held = self.queue.next(&mut self.chain)?;
        }
        Ok(self.held)
    }

    /// The chain at hand is used up.
    fn finish(&mut self, head: u16, length: u32) -> Result<(), Broken> {
        self.held = None;
        self.queue.add_used(&[(head, length)])
    }
}

/// The queues, which a driver need not set up.
struct Server<'m> {
    receive: Option<Line<'m>>,
    transmit: Option<Line<'m>>,
    event: Option<Line<'m>>,
    state: &'m mut State,
}

impl<'m> Server<'m> {
    fn run(
        &mut self,
        stop: &AtomicBool,
        wake: &EventFd,
        interrupt: impl Fn(u16),
    ) -> Result<(), Stopped> {
        let events = self.events(wake).map_err(Stopped::Host)?;
        while !stop.load(Ordering::Acquire) {
            // First a look, then the wait: what was made available before the driver was ready comes without a kick.
            self.state.muxer.accept(&events);
            let mut more = self.transmit(&events)?;
            more |= self.receive()?;
            // One of the connections may have made room by its end.
            more |= self.state.muxer.may_accept();
            self.tell_of_a_reset()?;
            for line in self.lines() {
                if line.queue.has_used() && line.queue.wants_interrupt()? {
                    interrupt(line.index);
                }
            }
            self.wait(&events, more).map_err(Stopped::Host)?;
        }
        Ok(())
    }

    fn lines(&mut self) -> impl Iterator<Item = &mut Line<'m>> {
        let queues = [&mut self.receive, &mut self.transmit, &mut self.event];
        queues.into_iter().flatten()
    }

    /// Everything that there is to wait for. By its edges, for each notification is one: so none has to be read, and what was notified
    /// before shows at once.
    fn events(&mut self, wake: &EventFd) -> io::Result<Epoll> {
        let epoll = Epoll::new()?;
        let look = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, LOOK);
        let add = |event: &EventFd| epoll.ctl(ControlOperation::Add, event.as_raw_fd(), look);
        add(wake)?;
        for line in self.lines() {
            add(&line.kick)?;
        }
        self.state.muxer.watch(&epoll)?;
        Ok(epoll)
    }

    /// Takes what has happened. If there is nothing more to do, waits for it.
    fn wait(&mut self, events: &Epoll, more: bool) -> io::Result<()> {
        let mut happened = [EpollEvent::default(); 64];
        let timeout = if more { 0 } else { -1 };
        let count = match events.wait(timeout, &mut happened) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            result => result.unwrap_or(0),
        };
        let muxer = &mut self.state.muxer;
        for event in happened.iter().take(count) {
            match event.data() {
                // Who it is makes no difference, as all are looked at.
                LOOK => {}
                LISTENER => muxer.clients_came(),
                token => muxer.look(token, event.event_set()),
            }
        }
        Ok(())
    }

    /// Takes packets from the guest, as many as fit into a turn. Returns whether there are more that can be taken.
    fn transmit(&mut self, events: &Epoll) -> Result<bool, Broken> {
        let Some(line) = &mut self.transmit else {
            return Ok(false);
        };
        let muxer = &mut self.state.muxer;
        line.queue.disable_notification()?;
        for _ in 0..TURN {
            if !muxer.can_receive() {
                // Until the guest has taken some of the answers.
                return Ok(false);
            }
            let Some(head) = line.head()? else {
                return Ok(false);
            };
            // What is shorter than a header says nothing, not even to whom an answer would go.
            if let Some(header) = line.chain.readable.take_front::<HEADER_SIZE>() {
                muxer.receive(events, &Header::from_bytes(header), &line.chain.readable);
            }
            line.finish(head, 0)?;
        }
        Ok(true)
    }

    /// Brings packets to the guest, as many as fit into a turn. Returns whether there may be more to do at once.
    fn receive(&mut self) -> Result<bool, Broken> {
        let Some(line) = &mut self.receive else {
            return Ok(false);
        };
        let muxer = &mut self.state.muxer;
        let was_full = !muxer.can_receive();
        line.queue.disable_notification()?;
        for _ in 0..TURN {
            // Answers that had to wait for room have some: packets that were left can be taken.
            let freed = was_full && muxer.can_receive();
            if !muxer.may_send() {
                return Ok(freed);
            }
            let Some(head) = line.head()? else {
                return Ok(freed);
            };
            let buffers = &line.chain.writable;
            if buffers.length() <= HEADER_SIZE as u64 {
                // No use for anything.
                line.finish(head, 0)?;
                continue;
            }
            let Some(header) = muxer.send(buffers) else {
                return Ok(freed);
            };
            buffers.copy_from(&header.to_bytes());
            let length = u32::try_from(HEADER_SIZE).unwrap_or(u32::MAX);
            line.finish(head, length.saturating_add(header.len))?;
        }
        Ok(true)
    }

    /// Tells the driver that its connections are gone, if they are, as soon as it has a buffer for that.
    fn tell_of_a_reset(&mut self) -> Result<(), Broken> {
        let Some(line) = &mut self.event else {
            return Ok(());
        };
        line.queue.disable_notification()?;
        for _ in 0..TURN {
            if !self.state.transport_reset {
                break;
            }
            let Some(head) = line.head()? else { break };
            let length = line.chain.writable.copy_from(&TRANSPORT_RESET);
            self.state.transport_reset = length < TRANSPORT_RESET.len() as u64;
            line.finish(head, u32::try_from(length).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }
}
