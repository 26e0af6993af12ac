//! A program that is talked to over pipes.

// Not every binary needs all of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A program, running. It ends with the test.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    pieces: Receiver<Vec<u8>>,
    /// All that came, with LF for line ends.
    output: String,
    /// How much of it was waited for.
    seen: usize,
    deadline: Instant,
    commands: u32,
    kept: Option<TempDir>,
}

impl Session {
    /// Starts a program, which has to have done everything within `limit`.
    pub fn start(command: &mut Command, limit: Duration) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, pieces) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            pieces,
            output: String::new(),
            seen: 0,
            deadline: Instant::now() + limit,
            commands: 0,
            kept: None,
        }
    }

    /// Keeps a directory for as long as the program runs.
    pub fn keep(mut self, directory: TempDir) -> Self {
        self.kept = Some(directory);
        self
    }

    /// Takes the next piece of output; false at its end.
    fn take(&mut self, wanted: &str) -> bool {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        match self.pieces.recv_timeout(rest) {
            Ok(piece) => {
                const PANIC: &str = "Kernel panic";
                // Only what is new is looked through: a program may print one byte at a time, and much.
                let end = self.output.len().saturating_sub(PANIC.len());
                let looked_at = self.output.floor_char_boundary(end).max(self.seen);
                self.output += &String::from_utf8_lossy(&piece).replace('\r', "");
                assert!(
                    !self.output[looked_at..].contains(PANIC),
                    "waiting for {wanted}:\n{}",
                    self.output
                );
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("{wanted} does not come:\n{}", self.output),
        }
    }

    /// Waits for a text behind the last one, and gives what came before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.output[self.seen..].find(text) {
                let before = self.output[self.seen..][..at].to_owned();
                self.seen += at + text.len();
                return before;
            }
            assert!(self.take(text), "it ends before {text:?}:\n{}", self.output);
        }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Types no more: the program finds the end of its input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Has the shell that waits at the other end run a command, which has to succeed, and gives what it prints.
    pub fn run(&mut self, command: &str) -> String {
        // What is typed is echoed: the marks are written so that the echo is none.
        self.commands += 1;
        let number = self.commands;
        self.send(&format!(
            "echo '#'start-{number}'#'; {command}; echo '#'end-{number}-$?'#'\n"
        ));
        self.wait_for(&format!("#start-{number}#\n"));
        let printed = self.wait_for(&format!("#end-{number}-"));
        let code = self.wait_for("#");
        assert_eq!(code, "0", "`{command}`: {printed}");
        printed.trim_end().to_owned()
    }

    /// All output so far.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Waits until it ends by itself: its exit code, and all output.
    pub fn finish(mut self) -> (Option<i32>, String) {
        while self.take("the end") {}
        let code = self.child.wait().unwrap().code();
        (code, std::mem::take(&mut self.output))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
