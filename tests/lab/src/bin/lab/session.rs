//! A process of the nested host in the place of this one: its streams are this process's, its exit code becomes this
//! process's.

use std::fs::File;
use std::io::{IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hv_lab::host::{Exec, ExitStatus, Host, Process, Stdio, Stream};

use super::signals::Signals;
use super::terminal::{self, Raw};
use super::{Failure, host_failure};

/// A person may take as long as they like.
const FOREVER: Duration = Duration::MAX;

/// How much output may be on its way before the process waits. It bounds what a Ctrl-C comes too late for.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// How long the last output may take to arrive once the process ended: longer only if it left children behind.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// Signals that end a process without anything being wrong with it.
const ORDINARY_ENDS: [i32; 5] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGTERM,
];

/// The size of a terminal that does not say.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// Runs a process in this one's place, and returns its exit code.
pub(super) fn run(host: &Host, exec: Exec, signals: &Signals) -> Result<u8, Failure> {
    let interactive = stdin().is_terminal();
    let process = connect(exec, interactive).spawn().map_err(host_failure)?;
    let process = Arc::new(process);
    signals.forward_to(Arc::clone(&process));
    if interactive && let Some((rows, columns)) = terminal::window_size() {
        // It may have changed since the process was given it, before signals were passed on.
        process.resize(rows, columns).map_err(host_failure)?;
    }
    let raw = if interactive {
        Some(Raw::enter()?)
    } else {
        None
    };

    let writer = Arc::clone(&process);
    // It is never joined: it may wait for a key for ever.
    thread::Builder::new()
        .name("lab-stdin".into())
        .spawn(move || carry_input(&writer, interactive))?;
    let mut readers = Vec::new();
    for stream in [Stream::Stdout, Stream::Stderr, Stream::Terminal] {
        if process.has(stream) {
            let process = Arc::clone(&process);
            let reader = thread::Builder::new().name("lab-output".into());
            readers.push(reader.spawn(move || carry_output(&process, stream))?);
        }
    }
    let status = process.wait(FOREVER);
    if status.is_ok() {
        finish(readers);
    }
    drop(raw);
    match status.map_err(host_failure)? {
        ExitStatus::Code(code) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        ExitStatus::Signal(signal) => {
            if !ORDINARY_ENDS.contains(&signal) {
                let logs = host.log_directory().display();
                eprintln!(
                    "lab: the process was ended by signal {signal}; the nested host's logs are in {logs}"
                );
            }
            Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
    }
}

/// Gives the process a terminal if this one has one for its input, with those outputs on it that are on one here.
fn connect(exec: Exec, interactive: bool) -> Exec {
    let exec = exec.output_limit(OUTPUT_LIMIT);
    if !interactive {
        return exec.stdin(Stdio::Pipe);
    }
    let (rows, columns) = terminal::window_size().unwrap_or(USUAL_SIZE);
    let mut exec = exec.terminal(rows, columns);
    if !stdout().is_terminal() {
        exec = exec.stdout(Stdio::Pipe);
    }
    if !stderr().is_terminal() {
        exec = exec.stderr(Stdio::Pipe);
    }
    exec
}

fn carry_input(process: &Process, interactive: bool) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = match stdin().read(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // An input that cannot be read has ended.
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        if process
            .write_stdin(bytes.get(..count).unwrap_or_default(), FOREVER)
            .is_err()
        {
            // The process takes no more, or is gone, which the main thread sees.
            return;
        }
    }
    if !interactive {
        let _ = process.close_stdin();
    }
}

fn carry_output(process: &Process, stream: Stream) {
    let (out, err, input) = (stdout(), stderr(), stdin());
    let fd: BorrowedFd<'_> = match stream {
        Stream::Stdout => out.as_fd(),
        Stream::Stderr => err.as_fd(),
        Stream::Terminal if out.is_terminal() => out.as_fd(),
        Stream::Terminal if err.is_terminal() => err.as_fd(),
        // A terminal for input alone is open for writing as well, most often.
        Stream::Terminal => input.as_fd(),
    };
    // Unbuffered, and not with standard output's own lock, which a panicking thread may want.
    let Ok(mut file) = fd.try_clone_to_owned().map(File::from) else {
        return;
    };
    while let Ok(bytes) = process.read(stream, FOREVER) {
        if bytes.is_empty() {
            return;
        }
        if file.write_all(&bytes).is_err() {
            // As it would find itself if it ran here.
            let _ = process.close_output(stream);
            return;
        }
    }
}

/// Waits for the last of the output.
fn finish(readers: Vec<thread::JoinHandle<()>>) {
    let started = std::time::Instant::now();
    while readers.iter().any(|reader| !reader.is_finished()) && started.elapsed() < LAST_OUTPUT {
        thread::sleep(Duration::from_millis(1));
    }
}
