//! The directory in which one nested host keeps its logs.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

/// How many runs' logs stay, apart from those of the last hour.
const KEPT_RUNS: usize = 32;

/// How long a run may be in use, so that nobody takes its directory away.
const IN_USE: Duration = Duration::from_secs(60 * 60);

/// How much of a log's end an error message shows.
const TAIL: u64 = 2048;

/// The last line of what the firmware says at every start, and what nobody looks for.
const BANNER_END: &str = "Boot HART MEDELEG";

/// The logs of one run: `serial.log` (firmware and kernel of the nested host), `qemu.log` (what QEMU itself says), and a
/// file for every console. They stay when the run is over, because a test that failed is most often looked into after
/// its end; old runs' are taken away when a new one begins.
#[derive(Debug)]
pub(super) struct Logs {
    directory: PathBuf,
    consoles: AtomicU32,
    /// What else a person who reads of an error wants to know of the host, in one line.
    remark: String,
}

impl Logs {
    /// Makes the directory of a new run in `runs`.
    pub(super) fn create(runs: &Path, name: &str) -> io::Result<Self> {
        static RUN: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(runs)?;
        prune(runs);
        let since = SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_secs();
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let directory = runs.join(format!("{since}-{}-{run}-{name}", std::process::id()));
        fs::create_dir(&directory)?;
        Ok(Self {
            directory,
            consoles: AtomicU32::new(1),
            remark: String::new(),
        })
    }

    /// Adds a line to what is said of the host when something fails.
    pub(super) fn remark(self, remark: String) -> Self {
        Self { remark, ..self }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the nested host's firmware, kernel and agent say.
    pub(super) fn serial(&self) -> PathBuf {
        self.directory.join("serial.log")
    }

    /// What QEMU says.
    pub(super) fn qemu(&self) -> PathBuf {
        self.directory.join("qemu.log")
    }

    /// A new file for a console.
    pub(super) fn console(&self) -> PathBuf {
        let number = self.consoles.fetch_add(1, Ordering::Relaxed);
        self.directory.join(format!("console-{number}.log"))
    }

    /// The ends of the host's logs, as parts of an error message.
    pub(super) fn ends(&self) -> String {
        let mut ends = String::new();
        for path in [self.qemu(), self.serial()] {
            let end = tail(&path).unwrap_or_default();
            let end = end.rsplit_once(BANNER_END).map_or(&*end, |(_, rest)| {
                rest.split_once('\n').unwrap_or_default().1
            });
            let end = end.trim();
            if !end.is_empty() {
                ends += &format!("\n--- end of {}:\n{end}", path.display());
            }
        }
        if !self.remark.is_empty() {
            ends += &format!("\n--- {}", self.remark);
        }
        ends
    }

    /// The last line that QEMU said.
    pub(super) fn last_words(&self) -> Option<String> {
        let end = tail(&self.qemu()).ok()?;
        end.lines()
            .rfind(|line| !line.trim().is_empty())
            .map(str::to_owned)
    }
}

/// The last [`TAIL`] bytes of a file, in whole lines if it has more.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = printable(&bytes);
    Ok(match text.split_once('\n') {
        Some((_, whole)) if length > TAIL => whole.to_owned(),
        _ => text,
    })
}

/// Console bytes as text that does not disturb the terminal on which it is shown: line ends are LF, other control
/// characters are left out.
pub(super) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|&c| c == '\n' || c == '\t' || !c.is_control())
        .collect()
}

/// Takes away what old runs left. That it cannot is no reason not to run.
fn prune(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else {
        return;
    };
    let mut old: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    old.sort();
    old.truncate(old.len().saturating_sub(KEPT_RUNS));
    for (modified, path) in old {
        if modified.elapsed().is_ok_and(|age| age > IN_USE) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown_in_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::create(directory.path(), "test").unwrap();
        let lines: String = (0..1000).map(|n| format!("line {n}\r\n")).collect();
        fs::write(logs.serial(), lines).unwrap();
        let ends = logs.ends();
        assert!(ends.ends_with("line 999"));
        assert!(!ends.contains("line 99\n"));
        assert!(ends.lines().all(|line| {
            line.is_empty() || line.starts_with("line ") || line.starts_with("--- ")
        }));
    }

    #[test]
    fn a_remark_comes_last() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::create(directory.path(), "test").unwrap();
        let logs = logs.remark("the host is old".to_owned());
        fs::write(logs.qemu(), "words\n").unwrap();
        assert!(logs.ends().ends_with(":\nwords\n--- the host is old"));
    }

    #[test]
    fn the_firmwares_greeting_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::create(directory.path(), "test").unwrap();
        let greeting = "OpenSBI v1.5\r\nBoot HART MEDELEG         : 0x0000000000f4b509\r\n";
        fs::write(logs.serial(), greeting).unwrap();
        assert_eq!(logs.ends(), "");
        fs::write(logs.serial(), format!("{greeting}Oops\r\n")).unwrap();
        assert!(logs.ends().ends_with(":\nOops"));
    }

    #[test]
    fn a_run_in_use_is_not_pruned() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..KEPT_RUNS + 5 {
            Logs::create(directory.path(), "test").unwrap();
        }
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            KEPT_RUNS + 5
        );
    }

    #[test]
    fn control_characters_are_not_shown() {
        assert_eq!(printable(b"\x1b[31mred\r\n\tend\x07"), "[31mred\n\tend");
    }
}
