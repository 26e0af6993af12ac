//! Control of a machine from any thread: a [`Handle`] makes requests, which the event loop of [`Vm::run`](crate::Vm::run)
//! carries out one after the other, and hears of events.

pub mod ending;
pub mod stop;

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv_devices::virtio::block::RequestError;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::stop::Stop;
use crate::{Error, Outcome};

/// How many events may wait for a listener. A guest that resets itself all the time causes as many as it likes.
const MAX_EVENTS: usize = 256;

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has been made, and its guest has not run yet.
    Created,
    /// Its guest runs.
    Running,
    /// Its guest does not run, and goes on when it is resumed.
    Paused,
    /// It has ended.
    Ended,
}

/// What has become of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The guest begins, for the first time or after a reset.
    Booted,
    /// The guest has stopped for now, and no device touches its memory.
    Paused,
    /// The guest goes on.
    Resumed,
    /// The guest was reset, by itself or by [`Handle::reset`].
    Reset,
    /// A virtio device has stopped until the guest's driver resets it (DEVICE_NEEDS_RESET), for the first time since the guest
    /// began. What follows until its next reset is not told of.
    DeviceNeedsReset {
        /// The device's id, such as `net0`.
        id: String,
        /// Why, for people: mostly what the guest did wrong.
        reason: String,
    },
    /// The host could not carry out a request of a disk's that is held then ([`OnError`](crate::OnError)), and the machine is about
    /// to be paused. When it is resumed, the request is carried out again.
    DiskError {
        /// The disk's id, such as `disk0`.
        id: String,
        /// What failed.
        error: RequestError,
    },
    /// The run is over.
    Ended(Outcome),
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The machine has ended, or ended before it came to the request.
    #[error("the machine has ended")]
    Ended,
    /// No device of the machine has this id.
    #[error("the machine has no device with this id")]
    NoSuchDevice,
    /// The device with this id is another one.
    #[error("this device is no network interface")]
    NoNetworkInterface,
}

/// A handle on a machine, for any thread. It may outlive the machine.
///
/// Requests wait for [`Vm::run`](crate::Vm::run) to carry them out, and are made before as well as during it. The thread that
/// runs the machine, such as in an [`InputFilter`](crate::InputFilter), makes none that waits: it would wait for itself.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Control>);

impl Handle {
    /// What the machine is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.lock().status
    }

    /// Stops the guest for now, and returns when no hart of it runs and no device touches its memory. What a device has
    /// taken from a virtqueue is also done then. The guest's `time` goes on, as the host's does: timers that are due
    /// meanwhile interrupt when the guest is resumed. Nothing happens to a machine that is paused.
    ///
    /// A hart that waits for a reader of its console is waited for.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn pause(&self) -> Result<(), Refused> {
        self.ask(Request::Pause)
    }

    /// Has the guest go on. Nothing happens to a machine that runs.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn resume(&self) -> Result<(), Refused> {
        self.ask(Request::Resume)
    }

    /// The same as [`pause`](Self::pause), or as [`resume`](Self::resume) if the machine is paused or about to be, without waiting
    /// for it. Returns what it leads to: [`Status::Paused`] or [`Status::Running`].
    ///
    /// # Errors
    /// The machine has ended.
    pub fn toggle_pause(&self) -> Result<Status, Refused> {
        let mut state = self.0.lock();
        let (request, leads_to) = match state.pauses {
            false => (Request::Pause, Status::Paused),
            true => (Request::Resume, Status::Running),
        };
        state.request(request)?;
        drop(state);
        self.0.wake();
        Ok(leads_to)
    }

    /// Resets the machine: its guest begins anew, as after a reset of its own. A paused machine stays paused.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn reset(&self) -> Result<(), Refused> {
        self.ask(Request::Reset)
    }

    /// Plugs a network interface's cable in or out. The guest sees that its link is up or down (VIRTIO 1.3, section 5.1.4), and no
    /// packet passes in either direction while it is down. It stays so when the guest is reset, and can be changed while the
    /// machine is paused.
    ///
    /// `id` is the device's ([`DeviceConfig::id`](crate::DeviceConfig::id)), which is `net0` for the first interface unless it has
    /// been given another.
    ///
    /// # Errors
    /// The machine has ended, or it has no such device, or that is no network interface.
    pub fn set_link(&self, id: &str, up: bool) -> Result<(), Refused> {
        let id = id.to_owned();
        self.ask(Request::SetLink { id, up })
    }

    /// Ends the machine, with [`Outcome::Stopped`], before any other request that waits. Does not wait for it.
    pub fn stop(&self) {
        // It fails only if the counter overflows, and then the event is signalled already.
        let _ = self.0.stop.write(1);
    }

    /// What becomes of the machine from now on. The channel ends with the machine. A listener that falls behind by more than
    /// 256 events misses those that come meanwhile; [`status`](Self::status) is always up to date.
    #[must_use]
    pub fn events(&self) -> Receiver<Event> {
        let (sender, events) = sync_channel(MAX_EVENTS);
        let mut state = self.0.lock();
        if state.status != Status::Ended {
            state.listeners.push(sender);
        }
        events
    }

    fn ask(&self, request: Request) -> Result<(), Refused> {
        // The sender is dropped unanswered when the machine ends.
        let answer = self.0.request(request)?.recv();
        answer.unwrap_or(Err(Refused::Ended))
    }
}

/// The machine's own end of it. Whoever waits for a machine that never ran, or could not go on, hears of its end by the end
/// of this.
#[derive(Debug)]
pub(crate) struct Controlled(Arc<Control>);

impl Controlled {
    /// For a machine that has just been made, and whose handles end it by `stop`.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new(stop: &Stop) -> Result<Controlled, Error> {
        Control::new(stop).map(Controlled)
    }

    /// A handle on the machine.
    pub fn handle(&self) -> Handle {
        Handle(self.0.clone())
    }

    /// For the parts of the machine that tell of themselves.
    pub fn control(&self) -> &Arc<Control> {
        &self.0
    }
}

impl std::ops::Deref for Controlled {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.0
    }
}

impl Drop for Controlled {
    fn drop(&mut self) {
        self.0.lock().end();
    }
}

/// What a machine is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Pause,
    Resume,
    Reset,
    SetLink { id: String, up: bool },
}

/// What has become of a request.
pub(crate) type Answer = Result<(), Refused>;

/// A request, and whom to tell that it was carried out.
#[derive(Debug)]
pub(crate) struct Asked {
    pub request: Request,
    pub done: Sender<Answer>,
}

/// What a machine and its handles share.
#[derive(Debug)]
pub(crate) struct Control {
    state: Mutex<State>,
    /// Written for each request.
    event: EventFd,
    /// Ends the machine, whatever it is doing: [`Stop::asked`].
    stop: EventFd,
}

#[derive(Debug)]
struct State {
    status: Status,
    /// It is paused once all requests are carried out.
    pauses: bool,
    requests: VecDeque<Asked>,
    listeners: Vec<SyncSender<Event>>,
}

impl State {
    fn tell(&mut self, event: &Event) {
        self.listeners
            .retain(|listener| match listener.try_send(event.clone()) {
                Ok(()) | Err(TrySendError::Full(_)) => true,
                Err(TrySendError::Disconnected(_)) => false,
            });
    }

    /// Adds a request to those that wait.
    fn request(&mut self, request: Request) -> Result<Receiver<Answer>, Refused> {
        if self.status == Status::Ended {
            return Err(Refused::Ended);
        }
        match request {
            Request::Pause => self.pauses = true,
            Request::Resume => self.pauses = false,
            Request::Reset | Request::SetLink { .. } => {}
        }
        let (done, answer) = channel();
        self.requests.push_back(Asked { request, done });
        Ok(answer)
    }

    /// Whoever waits hears of it by the end of their channels.
    fn end(&mut self) {
        self.status = Status::Ended;
        self.listeners.clear();
        self.requests.clear();
    }
}

impl Control {
    fn new(stop: &Stop) -> Result<Arc<Control>, Error> {
        let copy = |event: &EventFd| event.try_clone().map_err(Error::host("copy an eventfd"));
        Ok(Arc::new(Control {
            state: Mutex::new(State {
                status: Status::Created,
                pauses: false,
                requests: VecDeque::new(),
                listeners: Vec::new(),
            }),
            event: EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?,
            stop: copy(&stop.asked)?,
        }))
    }

    /// Written for each request, and read by whoever takes them: before they look, as what comes later writes to it again.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// The next request.
    pub fn next(&self) -> Option<Asked> {
        self.lock().requests.pop_front()
    }

    /// The machine has come to this, and the event tells how.
    pub fn tell(&self, status: Status, event: Event) {
        let mut state = self.lock();
        state.status = status;
        state.tell(&event);
        if status == Status::Ended {
            state.end();
        }
    }

    /// Tells of a device that waits for its driver to reset it.
    pub fn device_needs_reset(&self, id: &str, reason: &dyn Display) {
        let event = Event::DeviceNeedsReset {
            id: id.to_owned(),
            reason: reason.to_string(),
        };
        self.lock().tell(&event);
    }

    /// Tells of a request that a disk holds, and has the machine paused.
    pub fn disk_error(&self, id: &str, error: RequestError) {
        let id = id.to_owned();
        self.lock().tell(&Event::DiskError { id, error });
        // A machine that has ended holds nothing any more.
        let _ = self.request(Request::Pause);
    }

    /// Has a paused machine go on, without waiting for it.
    pub fn resume(&self) {
        let _ = self.request(Request::Resume);
    }

    fn request(&self, request: Request) -> Result<Receiver<Answer>, Refused> {
        let answer = self.lock().request(request)?;
        self.wake();
        Ok(answer)
    }

    /// There is a request.
    fn wake(&self) {
        // It fails only if the counter overflows, and then the event is signalled already.
        let _ = self.event.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hv_test_limit::{until, wait_for, watch, within};

    use super::*;

    fn controlled() -> Controlled {
        Controlled::new(&Stop::new(None).unwrap()).unwrap()
    }

    #[test]
    fn requests_come_in_order_and_are_answered() {
        let _watch = watch();
        let control = controlled();
        let handle = control.handle();
        assert_eq!(handle.status(), Status::Created);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                handle.pause()?;
                handle.resume()
            });
            for expected in [Request::Pause, Request::Resume] {
                let asked = wait_for(|| control.next());
                assert_eq!(asked.request, expected);
                asked.done.send(Ok(())).unwrap();
            }
            until(|| asking.is_finished());
            assert_eq!(asking.join().unwrap(), Ok(()));
        });
        assert!(control.event().read().is_ok(), "there was something");
        assert!(control.next().is_none());
        assert!(control.event().read().is_err(), "and no more");
    }

    #[test]
    fn the_end_answers_who_waits() {
        let _watch = watch();
        let control = controlled();
        let handle = control.handle();
        let events = handle.events();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| handle.pause());
            until(|| !control.lock().requests.is_empty());
            control.tell(Status::Ended, Event::Ended(Outcome::PowerOff));
            until(|| asking.is_finished());
            assert_eq!(asking.join().unwrap(), Err(Refused::Ended));
        });
        assert_eq!(handle.reset(), Err(Refused::Ended));
        assert_eq!(handle.status(), Status::Ended);
        let told = within(move || events.iter().collect::<Vec<_>>());
        assert_eq!(told, [Event::Ended(Outcome::PowerOff)]);
        let late = handle.events();
        assert_eq!(within(move || late.iter().count()), 0);
    }

    #[test]
    fn a_listener_that_does_not_listen_costs_little() {
        let _watch = watch();
        let control = controlled();
        let events = control.handle().events();
        for _ in 0..10 * MAX_EVENTS {
            control.tell(Status::Running, Event::Reset);
        }
        assert_eq!(events.try_iter().count(), MAX_EVENTS);
        control.tell(Status::Paused, Event::Paused);
        assert_eq!(events.try_recv(), Ok(Event::Paused), "it listens again");
        assert_eq!(control.lock().listeners.len(), 1);
        drop(events);
        control.tell(Status::Running, Event::Resumed);
        assert!(control.lock().listeners.is_empty());
    }

    #[test]
    fn a_device_that_fails_changes_nothing_but_is_told_of() {
        let _watch = watch();
        let control = controlled();
        let handle = control.handle();
        let events = handle.events();
        control.device_needs_reset("net0", &"test");
        assert_eq!(handle.status(), Status::Created);
        let expected = Event::DeviceNeedsReset {
            id: "net0".into(),
            reason: "test".into(),
        };
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [expected]);
        // A guest that fails and resets itself all the time fills no more than one channel.
        for _ in 0..10 * MAX_EVENTS {
            control.device_needs_reset("net0", &"test");
        }
        assert_eq!(events.try_iter().count(), MAX_EVENTS);
    }

    #[test]
    fn a_disk_error_is_told_and_asks_for_a_pause() {
        let control = controlled();
        let handle = control.handle();
        let events = handle.events();
        let error = RequestError {
            operation: "write",
            offset: 512,
            length: 4096,
            kind: std::io::ErrorKind::StorageFull,
            reason: "full".into(),
        };
        control.disk_error("disk0", error.clone());
        let id = "disk0".to_owned();
        assert_eq!(
            events.try_recv(),
            Ok(Event::DiskError {
                id,
                error: error.clone()
            })
        );
        let asked = control.next().unwrap();
        assert_eq!(asked.request, Request::Pause);
        assert!(asked.done.send(Ok(())).is_err(), "nobody waits for it");
        // Nor does who presses a key, on the thread that would carry it out.
        assert_eq!(handle.toggle_pause(), Ok(Status::Running));
        control.resume();
        let asked = || control.next().map(|asked| asked.request);
        assert_eq!(asked(), Some(Request::Resume));
        assert_eq!(asked(), Some(Request::Resume));
        // What it leads to is what was asked for last, although the machine has not come to it.
        assert_eq!(handle.status(), Status::Created);
        assert_eq!(handle.toggle_pause(), Ok(Status::Paused));
        assert_eq!(handle.toggle_pause(), Ok(Status::Running));
        control.disk_error("disk0", error);
        assert_eq!(handle.toggle_pause(), Ok(Status::Running));
        let expected = [
            Request::Pause,
            Request::Resume,
            Request::Pause,
            Request::Resume,
        ];
        assert_eq!([asked(), asked(), asked(), asked()], expected.map(Some));
        control.tell(Status::Ended, Event::Ended(Outcome::PowerOff));
        assert_eq!(handle.toggle_pause(), Err(Refused::Ended));
    }

    #[test]
    fn a_refusal_is_the_answer() {
        let _watch = watch();
        let control = controlled();
        let handle = control.handle();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| handle.set_link("net7", false));
            let asked = wait_for(|| control.next());
            let request = Request::SetLink {
                id: "net7".into(),
                up: false,
            };
            assert_eq!(asked.request, request);
            asked.done.send(Err(Refused::NoSuchDevice)).unwrap();
            until(|| asking.is_finished());
            assert_eq!(asking.join().unwrap(), Err(Refused::NoSuchDevice));
        });
    }

    #[test]
    fn a_machine_that_never_ran_ends_as_well() {
        let _watch = watch();
        let control = controlled();
        let handle = control.handle();
        let events = handle.events();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| handle.pause());
            until(|| !control.lock().requests.is_empty());
            drop(control);
            until(|| asking.is_finished());
            assert_eq!(asking.join().unwrap(), Err(Refused::Ended));
        });
        assert_eq!(within(move || events.iter().count()), 0);
        assert_eq!(handle.status(), Status::Ended);
    }
}
