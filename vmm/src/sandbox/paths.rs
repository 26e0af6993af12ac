//! Landlock: no file is opened, made or removed by its path, no TCP port is used, and no abstract Unix socket is reached. What is
//! open stays usable.
//!
//! Source: Linux, Documentation/userspace-api/landlock.rst.

use std::collections::BTreeSet;
use std::path::Path;

use hv_devices::thread::Role;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::Sockets;
use crate::Error;

/// What is asked for. A kernel that knows less enforces what it knows.
const NEWEST: ABI = ABI::V10;

/// The rules for the threads of a machine.
#[derive(Debug)]
pub struct Paths {
    /// Removes the machine's sockets, and nothing else.
    event_loop: RulesetCreated,
    /// Connects to sockets in one directory, and nothing else.
    vsock: RulesetCreated,
    others: RulesetCreated,
}

impl Paths {
    /// Rules by which only the event loop may remove files, in the directories of the machine's own sockets, and only the vsock's thread
    /// connect to sockets, in the directory of the vsock's. Kernels before Linux 7.1 have no rule for the latter: any thread may that has
    /// the system calls for it.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new(sockets: &Sockets) -> Result<Paths, Error> {
        let failed = |error: landlock::RulesetError| {
            Error::host("make a Landlock ruleset")(std::io::Error::other(error))
        };
        let nothing = || {
            Ruleset::default()
                .handle_access(AccessFs::from_all(NEWEST))?
                .handle_access(AccessNet::from_all(NEWEST))?
                .scope(Scope::AbstractUnixSocket)?
                .create()
        };
        let mut event_loop = nothing().map_err(failed)?;
        let directories: BTreeSet<&Path> =
            (sockets.own.iter()).map(|path| directory(path)).collect();
        for directory in directories {
            // One that is gone meanwhile has no socket to remove.
            if let Ok(directory) = PathFd::new(directory) {
                let rule = PathBeneath::new(directory, AccessFs::RemoveFile);
                event_loop = event_loop.add_rule(rule).map_err(failed)?;
            }
        }
        let mut vsock = nothing().map_err(failed)?;
        if let Some(Ok(directory)) = sockets.vsock.as_deref().map(directory).map(PathFd::new) {
            let rule = PathBeneath::new(directory, AccessFs::ResolveUnix);
            vsock = vsock.add_rule(rule).map_err(failed)?;
        }
        Ok(Paths {
            event_loop,
            vsock,
            others: nothing().map_err(failed)?,
        })
    }

    /// Has the calling thread obey from now on, and says in words which part of it the host's kernel knows.
    ///
    /// # Errors
    /// What it cannot do, in words.
    pub fn enter(&self, role: Role) -> Result<&'static str, String> {
        let rules = match role {
            Role::EventLoop => &self.event_loop,
            Role::Vsock => &self.vsock,
            _ => &self.others,
        };
        let rules = rules
            .try_clone()
            .map_err(|error| format!("copy its Landlock rules: {error}"))?;
        match rules.restrict_self() {
            Ok(status) => Ok(match status.ruleset {
                RulesetStatus::FullyEnforced => "Landlock",
                RulesetStatus::PartiallyEnforced => "as much of Landlock as the host's kernel has",
                RulesetStatus::NotEnforced => "no Landlock, which the host's kernel does not have",
            }),
            Err(error) => Err(format!("obey its Landlock rules: {error}")),
        }
    }
}

/// The directory of the file at this path.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
