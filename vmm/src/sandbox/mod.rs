//! What is left of this process's rights once a guest runs, so that a guest that takes over a thread gains little.
//!
//! | module | what it takes away |
//! |---|---|
//! | `privileges` | capabilities, and the gain of new ones (`no_new_privs`) |
//! | `paths` | opening files by their paths, by Landlock, where the kernel has it |
//! | `calls` | which system calls the threads of each role make: a seccomp filter for each |
//! | `violation` | what happens at a call that is not among them |
//! | `refusals` | what is said of such a call when nothing is taken away |
//!
//! A thread does this to itself before it does anything else ([`Confinement`]), and the thread that runs the machine just before the
//! guest starts, when everything is open. A thread that is made later, at a reboot, has the filter of its maker as well as its own.
//!
//! **What is done after the start is designed for this**: what a machine needs of the host's files is opened at its creation, and
//! stays open. A feature that needs more has three ways: to open it early, to be handed a descriptor, or to have a process of its
//! own outside of the sandbox that does it.

mod calls;
mod paths;
mod privileges;
mod refusals;
mod violation;

use std::path::PathBuf;
use std::sync::Arc;

use hv_devices::thread::{Confinement, Role};

use crate::Error;

pub use calls::allowed;
pub use violation::on_violation;

/// Whether the threads of a machine give up what they do not need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// They keep the rights of the process. It is the default of the library, because what a thread has given up it never
    /// gets back: not after the machine's end, either.
    #[default]
    Off,
    /// They keep them, and each system call that would be refused is logged as a warning with its name and that of its thread, the
    /// first time that the thread makes it.
    Log,
    /// They give them up. A system call that a thread of its role never makes ends the process.
    On,
}

impl Sandbox {
    /// How the program's own threads are confined that do nothing but compute and write to what is open: for
    /// [`confine`](hv_devices::thread::confine). `None` if they are not.
    ///
    /// # Errors
    /// The host's kernel has no seccomp filters, or the host no file descriptor left.
    pub fn confinement(self) -> Result<Option<Arc<dyn Confinement>>, Error> {
        self.confinement_with(&Sockets::default())
    }

    /// How the threads of a machine with these sockets are confined. `None` if they are not.
    pub(crate) fn confinement_with(
        self,
        sockets: &Sockets,
    ) -> Result<Option<Arc<dyn Confinement>>, Error> {
        if self == Sandbox::Off {
            return Ok(None);
        }
        calls::require_filters()?;
        let only_log = self == Sandbox::Log;
        match only_log {
            true => refusals::listen().map_err(Error::host("log what the sandbox refuses"))?,
            false => violation::catch().map_err(Error::host("handle SIGSYS"))?,
        }
        let paths = match only_log {
            true => None,
            false => Some(paths::Paths::new(sockets)?),
        };
        Ok(Some(Arc::new(Cage { paths })))
    }
}

/// The Unix sockets that a machine has to do with after its start.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Its own, which the event loop removes at the end.
    pub own: Vec<PathBuf>,
    /// That of its vsock, whose thread connects to others beside it.
    pub vsock: Option<PathBuf>,
}

/// How the threads of one machine are confined.
#[derive(Debug)]
struct Cage {
    /// `None`: nothing is taken away, and what would have been refused is logged.
    paths: Option<paths::Paths>,
}

impl Cage {
    fn try_enter(&self, role: Role) -> Result<(), String> {
        violation::name_thread(role);
        let in_force = match &self.paths {
            None => {
                calls::ask(role)?;
                "off; each system call that it would refuse is logged".to_owned()
            }
            Some(paths) => {
                let dropped = privileges::drop_all();
                dropped.map_err(|error| format!("drop its capabilities: {error}"))?;
                let landlock = paths.enter(role)?;
                calls::filter(role)?;
                format!("seccomp, no capabilities, {landlock}")
            }
        };
        if role == Role::EventLoop {
            log::info!("sandbox: {in_force}");
        }
        Ok(())
    }
}

impl Confinement for Cage {
    fn enter(&self, role: Role) {
        if let Err(what) = self.try_enter(role) {
            violation::end_process(&format!("error: the thread {} cannot {what}", role.name()));
        }
    }
}

#[cfg(test)]
mod tests;
