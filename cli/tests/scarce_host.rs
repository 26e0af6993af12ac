//! A host that takes no output, or has no memory left: hvrun says so in one line, and its exit code is that of an error.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::process::{Command, Output};

fn hvrun() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hvrun"))
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn what_cannot_be_printed_is_no_success() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["man"],
        &["completions", "bash"],
    ] {
        let finished = hvrun().args(arguments).stdout(full()).output().unwrap();
        let error = String::from_utf8(finished.stderr).unwrap();
        assert_eq!(finished.status.code(), Some(1), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        assert!(error.starts_with("hvrun: No space left"), "{error}");
        // Nobody can be told, and the exit code says it.
        let status = hvrun()
            .args(arguments)
            .stdout(full())
            .stderr(full())
            .status();
        assert_eq!(status.unwrap().code(), Some(1), "{arguments:?}");
    }
    let status = hvrun().arg("--unknown").stderr(full()).status();
    assert_eq!(status.unwrap().code(), Some(2));
}

/// A reader that has seen enough is no error.
#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    for arguments in [&["--help"][..], &["man"], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let finished = hvrun().args(arguments).stdout(writer).output().unwrap();
        assert!(finished.status.success(), "{arguments:?}: {finished:?}");
        assert!(finished.stderr.is_empty(), "{finished:?}");
    }
}

/// hvrun with so many KiB of address space.
fn with_address_space(kib: usize) -> Output {
    let line = format!("ulimit -v {kib} && exec \"$0\" man");
    Command::new("sh")
        .args(["-c", &line, env!("CARGO_BIN_EXE_hvrun")])
        .output()
        .unwrap()
}

#[test]
fn a_lack_of_memory_is_one_line_and_no_abort() {
    // What suffices is found first, and then what just does not.
    let mut enough = 1 << 22;
    let mut too_little = 0;
    while enough - too_little > 64 {
        let kib = usize::midpoint(enough, too_little);
        match with_address_space(kib).status.success() {
            true => enough = kib,
            false => too_little = kib,
        }
    }
    let finished = with_address_space(too_little);
    let error = String::from_utf8(finished.stderr).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.starts_with("hvrun: the host has no memory left"),
        "{error}"
    );
}
