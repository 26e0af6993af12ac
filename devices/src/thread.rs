//! The threads of a machine. All of them are started here, each in a role.
//!
//! A machine may confine them: each gives up the rights that its role does not need, before it does anything else. A thread
//! hands its machine's confinement on to those that it starts, as the kernel hands on a thread's seccomp filters.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The role of a thread. It determines the thread's name, as seen in `ps -L` and in a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs the vCPU with this number.
    Vcpu(u32),
    /// Serves the virtio block device with this number.
    Block(usize),
    /// Serves the virtio network device with this number.
    Net(usize),
    /// Serves the virtio console device.
    Console,
    /// Serves the virtio entropy device.
    Rng,
    /// Serves the virtio vsock device.
    Vsock,
    /// Writes what a guest prints.
    ConsoleOutput,
    /// Serves input, alarms and requests, and builds the machine anew at a reboot. It is the thread that runs the machine.
    EventLoop,
    /// Writes the program's own messages.
    Messages,
}

impl Role {
    /// The thread's name: at most 15 bytes, as Linux has it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Vcpu(number) => format!("vcpu{number}"),
            Self::Block(number) => format!("virtio-blk-{number}"),
            Self::Net(number) => format!("virtio-net-{number}"),
            Self::Console => "virtio-console".into(),
            Self::Rng => "virtio-rng".into(),
            Self::Vsock => "virtio-vsock".into(),
            Self::ConsoleOutput => "console-out".into(),
            Self::EventLoop => "event-loop".into(),
            Self::Messages => "messages".into(),
        }
    }
}

/// What threads give up when they start.
pub trait Confinement: Send + Sync {
    /// Takes from the calling thread what a thread of this role does not need. It does not return if that is impossible.
    fn enter(&self, role: Role);
}

thread_local! {
    /// Of the threads that this thread starts.
    static CONFINEMENT: RefCell<Option<Arc<dyn Confinement>>> = const { RefCell::new(None) };
}

/// The threads that the calling thread starts are confined for as long as this lives.
#[must_use]
pub struct Confined {
    before: Option<Arc<dyn Confinement>>,
}

/// Confines the threads that the calling thread starts from now on. The calling thread itself stays as it is. `None` confines none.
pub fn confine(confinement: Option<Arc<dyn Confinement>>) -> Confined {
    Confined {
        before: CONFINEMENT.replace(confinement),
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        CONFINEMENT.set(self.before.take());
    }
}

/// Starts a thread, confined as the calling thread says.
///
/// # Errors
/// The host has no thread left.
pub fn spawn<T: Send + 'static>(
    role: Role,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let confinement = CONFINEMENT.with_borrow(Clone::clone);
    let builder = std::thread::Builder::new().name(role.name());
    builder.spawn(move || {
        if let Some(confinement) = &confinement {
            confinement.enter(role);
        }
        CONFINEMENT.set(confinement);
        body()
    })
}

type Body = Box<dyn FnOnce() + Send>;

/// A thread that does one job after the other, and sleeps in between. It exists from power-on, so no
/// thread is created when a driver becomes ready. Dropping it waits for the current job.
#[derive(Debug)]
pub struct WorkerThread {
    /// `None` while it is dropped.
    jobs: Option<Sender<Body>>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn spawn(role: Role) -> io::Result<Self> {
        let (jobs, work) = channel::<Body>();
        let thread = spawn(role, move || work.into_iter().for_each(|job| job()))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Queues a job, to run after those that were queued before.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        let (result, waiting) = channel();
        let body: Body = Box::new(move || {
            // Nobody need wait for it.
            let _ = result.send(job());
        });
        if let Some(jobs) = &self.jobs {
            // It fails only if the thread has panicked, and then the job's sender is dropped with the job.
            let _ = jobs.send(body);
        }
        Job(waiting)
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            #[cfg(test)]
            if !tests::ends(&thread) {
                return;
            }
            let _ = thread.join();
        }
    }
}

/// A job that was given to a [`WorkerThread`].
#[derive(Debug)]
pub struct Job<T>(Receiver<T>);

impl<T> Job<T> {
    /// Waits for its end and returns its result: `None` if the thread has panicked.
    pub fn wait(self) -> Option<T> {
        #[cfg(not(test))]
        let result = self.0.recv().ok();
        #[cfg(test)]
        let result = tests::receive(&self.0);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;

    use hv_test_limit::LIMIT;

    use super::*;

    /// Receives the result of a job. A test whose thread does not come to its end fails, instead of waiting for it.
    pub(super) fn receive<T>(result: &Receiver<T>) -> Option<T> {
        let received = result.recv_timeout(LIMIT);
        let stuck = matches!(received, Err(RecvTimeoutError::Timeout));
        assert!(!stuck || std::thread::panicking(), "a job does not end");
        received.ok()
    }

    /// Whether a thread ends. If not, its test fails.
    pub(super) fn ends(thread: &JoinHandle<()>) -> bool {
        if std::thread::panicking() {
            return thread.is_finished();
        }
        hv_test_limit::until(|| thread.is_finished());
        true
    }

    #[test]
    fn names_are_of_the_length_that_linux_keeps() {
        for role in [Role::Vcpu(511), Role::Block(7), Role::Net(7), Role::Console] {
            assert!(role.name().len() <= 15, "{role:?}");
        }
    }

    #[test]
    fn threads_are_confined_in_their_role_before_they_do_anything() {
        struct Noted(Sender<(Role, Option<String>)>);

        impl Confinement for Noted {
            fn enter(&self, role: Role) {
                let name = std::thread::current().name().map(String::from);
                self.0.send((role, name)).unwrap();
            }
        }

        let (noted, entered) = channel();
        let confined = confine(Some(Arc::new(Noted(noted.clone()))));
        let role = Role::Block(3);
        // The second is started by a thread that is confined.
        let first = spawn(role, || spawn(Role::Rng, || ())).unwrap();
        first.join().unwrap().unwrap().join().unwrap();
        let entered: Vec<_> = entered.try_iter().collect();
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(
            entered,
            [
                (role, name("virtio-blk-3")),
                (Role::Rng, name("virtio-rng"))
            ]
        );
        drop(confined);
        let (free, none) = channel();
        drop(noted);
        let thread = spawn(Role::Rng, move || free.send(()).unwrap());
        thread.unwrap().join().unwrap();
        assert_eq!(none.try_recv(), Ok(()));
        assert!(CONFINEMENT.with_borrow(Option::is_none));
    }

    #[test]
    fn jobs_are_done_in_order_by_one_thread() {
        let worker = WorkerThread::spawn(Role::Rng).unwrap();
        let name = || std::thread::current().name().map(String::from);
        let jobs: Vec<_> = (0..3)
            .map(|number| worker.run(move || (number, name())))
            .collect();
        for (number, job) in (0..).zip(jobs) {
            assert_eq!(job.wait(), Some((number, Some("virtio-rng".to_owned()))));
        }
    }

    #[test]
    fn its_end_waits_for_the_job_at_hand() {
        let worker = WorkerThread::spawn(Role::Rng).unwrap();
        let (go, gone) = channel::<()>();
        let job = worker.run(move || gone.recv().is_err());
        drop(go);
        drop(worker);
        assert_eq!(job.0.try_recv(), Ok(true));
    }

    #[test]
    fn a_job_that_panics_has_no_result() {
        let worker = WorkerThread::spawn(Role::Rng).unwrap();
        let job = worker.run(|| -> u32 { panic!("this is a test") });
        assert_eq!(job.wait(), None);
        assert_eq!(worker.run(|| 1).wait(), None);
    }
}
