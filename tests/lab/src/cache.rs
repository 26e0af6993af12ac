//! The lab's cache: what was downloaded or built once, kept outside `target/` by name and version.
//!
//! Layout below [`root`]:
//!
//! ```text
//! NAME/VERSION-REQUEST/     a finished entry; it appears by one rename, so it is whole or absent
//! NAME/.staging-REQUEST/    an entry in the making; whoever holds the lock may throw it away
//! NAME/.download-REQUEST/   what was fetched for it, kept until it is finished so that an interrupted download resumes
//! NAME/.lock                held while an entry of this name is made
//! ```
//!
//! REQUEST is a hash of everything that decides what the entry holds, apart from the version that the package archive
//! turns out to offer. An entry that is there is never looked up again: with a filled cache the lab needs no network.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::provision::progress;
use crate::provision::{Error, Result};

/// The cache directory: `$HVRUN_LAB_CACHE`, else `hvrun` in the user's cache directory as the XDG Base Directory
/// Specification defines it (`$XDG_CACHE_HOME`, else `~/.cache`).
///
/// # Errors
/// When none of the variables is set, or when the path holds a character that cannot be passed on in a search path or
/// an apt configuration.
pub fn root() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value: &std::ffi::OsString| !value.is_empty());
    let root = if let Some(path) = set("HVRUN_LAB_CACHE") {
        std::path::absolute(&path).map_err(|error| Error::io("resolve", Path::new(&path), error))?
    } else if let Some(path) = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
    {
        path.join("hvrun")
    } else if let Some(home) = set("HOME") {
        Path::new(&home).join(".cache/hvrun")
    } else {
        return Err(Error::unavailable(
            "a cache directory",
            "neither HVRUN_LAB_CACHE, XDG_CACHE_HOME nor HOME is set",
            "set HVRUN_LAB_CACHE to a directory with 3 GB of room",
        ));
    };
    match root.to_str() {
        Some(text) if !text.contains([':', '"', '\n', '\'']) => Ok(root),
        _ => Err(Error::unavailable(
            "a cache directory",
            format!(
                "{} has a colon, a quote or a character that is not UTF-8 in its name",
                root.display()
            ),
            "set HVRUN_LAB_CACHE to a plainer path",
        )),
    }
}

/// The 64-bit FNV-1a hash of `parts`, each ended by a separator, as 16 hexadecimal digits.
///
/// It names cache entries and must therefore be the same in every build of the lab, which the standard library's hasher
/// does not promise.
pub fn fingerprint<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> String {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET_BASIS;
    for part in parts {
        for byte in part.as_ref().iter().chain([&0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
    format!("{hash:016x}")
}

/// Where the maker of an entry works.
#[derive(Debug)]
pub struct Staging {
    /// Becomes the entry. Empty at the start.
    pub content: PathBuf,
    /// For downloads. Holds what an interrupted attempt left, and is deleted once the entry is finished.
    pub downloads: PathBuf,
}

/// The entry `name` for `request`, made by `make` if it is not there yet.
///
/// `make` fills [`Staging::content`] and returns the version, which becomes part of the entry's path. Only one caller
/// on this machine runs it at a time; others wait and then find the entry.
///
/// # Errors
/// What `make` returns, and whatever goes wrong with the cache directory itself.
pub fn obtain(
    name: &str,
    request: &str,
    make: impl FnOnce(&Staging) -> Result<String>,
) -> Result<PathBuf> {
    let parent = root()?.join(name);
    if let Some(entry) = find(&parent, request) {
        return Ok(entry);
    }
    create_dir(&parent)?;
    let _lock = lock(&parent.join(".lock"), name)?;
    if let Some(entry) = find(&parent, request) {
        return Ok(entry);
    }

    let staging = Staging {
        content: parent.join(format!(".staging-{request}")),
        downloads: parent.join(format!(".download-{request}")),
    };
    remove_tree(&staging.content)?;
    create_dir(&staging.content)?;
    create_dir(&staging.downloads)?;
    let version = make(&staging)?;
    let entry = parent.join(format!("{}-{request}", path_safe(&version)));
    fs::rename(&staging.content, &entry).map_err(|error| Error::io("create", &entry, error))?;
    remove_tree(&staging.downloads)?;
    Ok(entry)
}

/// Whether [`obtain`] would find the entry without making it.
///
/// # Errors
/// Those of [`root`].
pub fn holds(name: &str, request: &str) -> Result<bool> {
    Ok(find(&root()?.join(name), request).is_some())
}

fn find(parent: &Path, request: &str) -> Option<PathBuf> {
    let suffix = format!("-{request}");
    let is_entry = |name: &OsStr| {
        name.to_str()
            .is_some_and(|name| !name.starts_with('.') && name.ends_with(&suffix))
    };
    fs::read_dir(parent)
        .ok()?
        .flatten()
        .find(|entry| is_entry(&entry.file_name()))
        .map(|entry| entry.path())
}

/// Takes the lock file at `path`, waiting for whoever holds it; `what` is named in the message that says so. The lock
/// is released when the returned file is dropped, or when the process ends.
///
/// # Errors
/// When the file cannot be created or locked.
pub fn lock(path: &Path, what: &str) -> Result<File> {
    let file = File::create(path).map_err(|error| Error::io("create", path, error))?;
    for _ in 0..QUIET_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path, error)),
        }
    }
    progress::note(format_args!(
        "waiting for another process or test that prepares {what}"
    ));
    file.lock()
        .map_err(|error| Error::io("lock", path, error))?;
    Ok(file)
}

/// How many tenths of a second pass before a wait is worth a message.
const QUIET_ATTEMPTS: u32 = 30;

/// Creates `path` and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Error::io("create", path, error))
}

/// Removes `path` with all it holds, if it exists. A build whose process was killed may leave children that write there
/// for a moment longer, so a directory that fills again while it is emptied is tried again.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let mut attempts = 0..50;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error) if may_pass(error.kind()) && attempts.next().is_some() => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(Error::io("remove", path, error)),
        }
    }
}

fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound)
}

/// `version` without what a Debian version may hold but a search path may not: the epoch and its colon.
fn path_safe(version: &str) -> String {
    let upstream = version
        .split_once(':')
        .map_or(version, |(_epoch, rest)| rest);
    upstream
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".+~-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_fnv_1a_and_separates_its_parts() {
        // FNV-1a of a single zero octet, by hand: (basis ^ 0) * prime.
        assert_eq!(fingerprint([""]), "af63bd4c8601b7df");
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
        assert_ne!(fingerprint(["a"]), fingerprint(["a", ""]));
    }

    #[test]
    fn versions_lose_their_epoch_and_odd_characters() {
        assert_eq!(
            path_safe("1:10.0.2+ds-2+deb13u1~bpo12+1"),
            "10.0.2+ds-2+deb13u1~bpo12+1"
        );
        assert_eq!(path_safe("a/b"), "a_b");
    }
}
