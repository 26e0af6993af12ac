//! The thread that serves all queues of a console device.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::control::{Control, ControlState, MESSAGE_SIZE};
use super::device::feature;
use super::port::Port;
use crate::memory::GuestMemoryMmap;
use crate::state::RestoreError;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Broken, DeviceQueue, Stopped};
use crate::virtio::{Activation, ActiveQueue, Notifier, QueuePosition};

/// How many bytes go from a buffer to the output, or from the input to a buffer, at once.
const CHUNK: usize = 4096;

/// How often that happens before it is another queue's turn.
const TURN: u32 = 64;

/// What a device knows that no queue tells. It is there from the driver's start to the reset.
pub(super) struct State {
    pub control: Control,
    /// For each port, how many bytes of the chain that is next in its transmit queue are printed already: an output that
    /// had no room for all of it takes the rest later.
    printed: Vec<u64>,
    /// No driver has been served since the reset.
    is_new: bool,
}

impl State {
    /// As after a reset.
    pub fn new(ports: &[Arc<Port>]) -> Self {
        Self {
            control: Control::new(ports),
            printed: vec![0; ports.len()],
            is_new: true,
        }
    }
}

/// A [`State`] as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceState {
    control: ControlState,
    printed: Vec<u64>,
    is_new: bool,
}

impl State {
    pub fn save(&self) -> ServiceState {
        ServiceState {
            control: self.control.save(),
            printed: self.printed.clone(),
            is_new: self.is_new,
        }
    }

    /// What a device with these ports knew when it was saved.
    ///
    /// # Errors
    /// It had other ports.
    pub fn restored(ports: &[Arc<Port>], state: ServiceState) -> Result<Self, RestoreError> {
        let ServiceState {
            control,
            printed,
            is_new,
        } = state;
        // More than a chain has is as good as all of it.
        RestoreError::unless(printed.len() == ports.len(), "the ports of a console")?;
        Ok(Self {
            control: Control::restored(ports, control)?,
            printed,
            is_new,
        })
    }
}

/// Serves all queues until it is told to stop and woken by `wake`. Nothing that it does blocks. Returns how far it has
/// come in each queue that is not broken.
pub(super) fn serve(
    activation: Activation,
    ports: &[Arc<Port>],
    state: &mut State,
    stop: &AtomicBool,
    wake: &EventFd,
) -> Vec<QueuePosition> {
    let Activation {
        memory,
        features,
        queues,
        notifier,
    } = activation;
    let mut server = Server::new(&memory, features, queues, ports, state, notifier.as_ref());
    match server.run(stop, wake) {
        Ok(()) => server.stop(),
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
    /// The chain that was taken and is not used up.
    held: Option<u16>,
    /// Bytes of it that are printed, or of the chain that is taken next.
    printed: u64,
}

impl<'m> Line<'m> {
    fn new(memory: &'m GuestMemoryMmap, queue: ActiveQueue) -> Self {
        Self {
            index: queue.index,
            queue: DeviceQueue::new(memory, queue.queue),
            kick: queue.kick,
            chain: Chain::default(),
            held: None,
            printed: 0,
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
            self.take()?;
        }
        if self.held.is_none() && self.queue.enable_notification()? {
            self.take()?;
        }
        Ok(self.held)
    }

    fn take(&mut self) -> Result<(), Broken> {
        self.held = self.queue.next(&mut self.chain)?;
        if self.held.is_some() {
            self.chain.readable.advance(self.printed);
        }
        Ok(())
    }

    /// The chain at hand is used up.
    fn finish(&mut self, head: u16, length: u32) -> Result<(), Broken> {
        self.held = None;
        self.printed = 0;
        self.queue.add_used(&[(head, length)])
    }
}

/// Two queues, called as the driver calls them. It need not set them up.
struct Pair<'m> {
    receive: Option<Line<'m>>,
    transmit: Option<Line<'m>>,
}

struct Server<'m> {
    ports: Vec<(Arc<Port>, Pair<'m>)>,
    control: Option<(&'m mut Control, Pair<'m>)>,
    printed: &'m mut [u64],
    sized: bool,
    notifier: &'m dyn Notifier,
    /// What is on its way, on either.
    chunk: [u8; CHUNK],
}

impl<'m> Server<'m> {
    fn new(
        memory: &'m GuestMemoryMmap,
        features: u64,
        queues: Vec<ActiveQueue>,
        ports: &[Arc<Port>],
        state: &'m mut State,
        notifier: &'m dyn Notifier,
    ) -> Self {
        let mut lines: Vec<_> = queues
            .into_iter()
            .map(|queue| (usize::from(queue.index), Line::new(memory, queue)))
            .collect();
        let mut take = |index| {
            let position = lines.iter().position(|(number, _)| *number == index)?;
            Some(lines.swap_remove(position).1)
        };
        let mut pair = |receive: usize| Pair {
            receive: take(receive),
            transmit: take(receive.saturating_add(1)),
        };
        // Queues 2 and 3 are for control, and those of port 1 follow them (VIRTIO 1.3, section 5.3.2).
        let several = features & feature::MULTIPORT != 0;
        let State {
            control,
            printed,
            is_new,
        } = state;
        let is_new = std::mem::take(is_new);
        let control = several.then(|| (control, pair(2)));
        let count = if several { ports.len() } else { 1 };
        let ports = ports.iter().take(count).zip(printed.iter());
        let ports = ports.enumerate().map(|(number, (port, printed))| {
            if is_new {
                port.driver_is_ready();
            }
            let first = match number {
                0 => 0,
                _ => number.saturating_mul(2).saturating_add(2),
            };
            let mut pair = pair(first);
            if let Some(transmit) = &mut pair.transmit {
                transmit.printed = *printed;
            }
            (Arc::clone(port), pair)
        });
        Self {
            ports: ports.collect(),
            control,
            printed,
            sized: features & feature::SIZE != 0,
            notifier,
            chunk: [0; CHUNK],
        }
    }

    /// Where it has come to in each queue. What of a chain is printed is kept for who goes on.
    fn stop(mut self) -> Vec<QueuePosition> {
        for (printed, (_, pair)) in self.printed.iter_mut().zip(&self.ports) {
            *printed = pair.transmit.as_ref().map_or(0, |line| line.printed);
        }
        self.lines().map(|line| line.position()).collect()
    }

    fn run(&mut self, stop: &AtomicBool, wake: &EventFd) -> Result<(), Stopped> {
        let events = self.events(wake).map_err(Stopped::Host)?;
        while !stop.load(Ordering::Acquire) {
            // First a look, then the wait: what was made available before the driver was ready comes without a kick.
            let more = self.serve()?;
            if !more {
                wait(&events).map_err(Stopped::Host)?;
            }
        }
        Ok(())
    }

    /// Serves each queue for a while. Returns whether there is more to do right now.
    fn serve(&mut self) -> Result<bool, Broken> {
        self.tell_sizes();
        let mut more = false;
        if let Some((control, queues)) = &mut self.control {
            more |= queues.control(control)?;
        }
        for (number, (port, queues)) in self.ports.iter_mut().enumerate() {
            more |= queues.transmit(port, &mut self.chunk)?;
            let is_open = match &self.control {
                Some((control, _)) => control.is_open(number),
                None => true,
            };
            // For who opens it later the input is kept.
            if is_open {
                more |= queues.receive(port, &mut self.chunk)?;
            }
        }
        let notifier = self.notifier;
        for line in self.lines() {
            if line.queue.has_used() && line.queue.wants_interrupt()? {
                notifier.used(line.index);
            }
        }
        Ok(more)
    }

    fn tell_sizes(&mut self) {
        for (number, (port, _)) in (0..).zip(&self.ports) {
            let Some(size) = port.take_resized() else {
                continue;
            };
            if let Some((control, _)) = &mut self.control {
                control.resized(number, size);
            }
            if number == 0 && self.sized {
                self.notifier.config(0, &size.to_bytes());
            }
        }
    }

    fn lines(&mut self) -> impl Iterator<Item = &mut Line<'m>> {
        let control = self.control.iter_mut().map(|(_, queues)| queues);
        let ports = self.ports.iter_mut().map(|(_, queues)| queues);
        control
            .chain(ports)
            .flat_map(|queues| queues.receive.iter_mut().chain(&mut queues.transmit))
    }

    /// Everything that there is to wait for. By its edges, for each notification is one: so none has to be read, and what
    /// was notified before shows at once.
    fn events(&mut self, wake: &EventFd) -> io::Result<Epoll> {
        let epoll = Epoll::new()?;
        let wanted = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        let add = |event: &EventFd| epoll.ctl(ControlOperation::Add, event.as_raw_fd(), wanted);
        add(wake)?;
        for line in self.lines() {
            add(&line.kick)?;
        }
        Ok(epoll)
    }
}

/// Sleeps until there is something to do.
fn wait(events: &Epoll) -> io::Result<()> {
    // Which they are makes no difference; who is not among them shows the next time.
    is_over(events.wait(-1, &mut [EpollEvent::default(); 4]))
}

/// What a wait came to. A signal is no reason to stop.
fn is_over(waited: io::Result<usize>) -> io::Result<()> {
    match waited {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

impl Pair<'_> {
    /// Brings what the guest writes to the output, as much as fits into a turn. Returns whether there is more that can
    /// go.
    fn transmit(&mut self, port: &Port, chunk: &mut [u8; CHUNK]) -> Result<bool, Broken> {
        let Some(line) = &mut self.transmit else {
            return Ok(false);
        };
        line.queue.disable_notification()?;
        for _ in 0..TURN {
            let Some(head) = line.head()? else {
                return Ok(false);
            };
            let count = line.chain.readable.peek(chunk);
            let taken = port
                .output
                .try_write(chunk.get(..count).unwrap_or_default());
            line.chain.readable.advance(taken as u64);
            line.printed = line.printed.saturating_add(taken as u64);
            if taken < count {
                // The output says when there is room.
                return Ok(false);
            }
            if line.chain.readable.length() == 0 {
                line.finish(head, 0)?;
            }
        }
        Ok(true)
    }

    /// Brings input to the guest, as much as fits into a turn. Returns whether there is more that it has buffers for.
    fn receive(&mut self, port: &Port, chunk: &mut [u8; CHUNK]) -> Result<bool, Broken> {
        let Some(line) = &mut self.receive else {
            return Ok(false);
        };
        line.queue.disable_notification()?;
        for _ in 0..TURN {
            if !port.has_input() {
                return Ok(false);
            }
            let Some(head) = line.head()? else {
                return Ok(false);
            };
            let room = usize::try_from(line.chain.writable.length()).unwrap_or(usize::MAX);
            let room = chunk.get_mut(..room.min(CHUNK)).unwrap_or_default();
            let wanted = room.len();
            let count = port.take_input(room);
            if count == 0 && wanted > 0 {
                // Somebody else has taken it.
                return Ok(false);
            }
            let length = line
                .chain
                .writable
                .copy_from(chunk.get(..count).unwrap_or_default());
            line.finish(head, u32::try_from(length).unwrap_or(u32::MAX))?;
        }
        Ok(true)
    }

    /// Hears the driver, and tells it what it is to be told. Returns whether there is more to hear.
    fn control(&mut self, control: &mut Control) -> Result<bool, Broken> {
        let mut more = false;
        if let Some(line) = &mut self.transmit {
            line.queue.disable_notification()?;
            more = true;
            for _ in 0..TURN {
                let Some(head) = line.head()? else {
                    more = false;
                    break;
                };
                if let Some(message) = line.chain.readable.take_front::<MESSAGE_SIZE>() {
                    control.receive(message);
                }
                line.finish(head, 0)?;
            }
        }
        if let Some(line) = &mut self.receive {
            line.queue.disable_notification()?;
            while let Some(message) = control.next() {
                let Some(head) = line.head()? else { break };
                let length = line.chain.writable.copy_from(message);
                control.sent();
                line.finish(head, u32::try_from(length).unwrap_or(u32::MAX))?;
            }
        }
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_a_wait_and_an_error_the_device() {
        let error = |number| Err(io::Error::from_raw_os_error(number));
        assert!(is_over(Ok(1)).is_ok());
        assert!(is_over(error(libc::EINTR)).is_ok());
        assert!(is_over(error(libc::EBADF)).is_err());
    }
}
