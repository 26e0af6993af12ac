//! The two ends of the control stream together, with the agent's in a thread of this process: what does not need a
//! RISC-V machine to be tested.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hv_lab_agent::server::{Reaping, serve};
use tempfile::TempDir;

use super::channel::Channel;
use super::logs::Logs;
use super::{ErrorKind, Exec, ExitStatus, Stdio, Stream};

/// Long enough for anything here on any machine.
const LONG: Duration = Duration::from_secs(60);

/// For what must not happen at all.
const SHORT: Duration = Duration::from_millis(100);

struct Agent {
    channel: Channel,
    _logs: TempDir,
}

impl Agent {
    fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        thread::spawn(move || serve(File::from(OwnedFd::from(theirs)), Reaping::Own).unwrap());
        let agent = Self::connect(ours);
        agent.channel.wait_ready(LONG).unwrap();
        agent
    }

    fn connect(stream: UnixStream) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let logs = Arc::new(Logs::create(directory.path(), "test").unwrap());
        Self {
            channel: Channel::new(stream, logs).unwrap(),
            _logs: directory,
        }
    }

    fn exec(&self, argv: &[&str]) -> Exec {
        Exec::new(
            self.channel.clone(),
            argv.iter().map(|&word| word.into()).collect(),
        )
    }

    fn sh(&self, script: &str) -> Exec {
        self.exec(&["sh", "-c", script])
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.channel.close();
    }
}

#[test]
fn outputs_are_separate_and_the_exit_code_arrives() {
    let agent = Agent::start();
    let finished = agent
        .sh("echo out; echo err >&2; exit 42")
        .output(LONG)
        .unwrap();
    assert_eq!(finished.status, ExitStatus::Code(42));
    assert_eq!(finished.stdout_text(), "out");
    assert_eq!(finished.stderr_text(), "err");
    assert!(finished.terminal.is_empty());
}

#[test]
fn a_program_that_is_not_there_is_refused() {
    let agent = Agent::start();
    let error = agent.exec(&["no-such-program"]).spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error.summary().contains("cannot run no-such-program"),
        "{error}"
    );
}

#[test]
fn check_shows_what_a_failed_process_said() {
    let agent = Agent::start();
    let error = agent
        .sh("echo the reason >&2; false")
        .check(LONG)
        .unwrap_err();
    assert!(error.to_string().contains("exit code 1"), "{error}");
    assert!(error.to_string().contains("the reason"), "{error}");
}

#[test]
fn environment_and_directory_are_those_asked_for() {
    let agent = Agent::start();
    let exec = agent
        .sh("pwd; echo $GREETING; echo $CARGO")
        .cwd("/usr")
        .env("GREETING", "hello");
    assert_eq!(exec.output(LONG).unwrap().stdout_text(), "/usr\nhello");
}

#[test]
fn input_arrives_whole_and_its_end_too() {
    let agent = Agent::start();
    let process = agent.exec(&["cat"]).stdin(Stdio::Pipe).spawn().unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 4])
        .collect();
    process.write_stdin(&sent, LONG).unwrap();
    let finished = process.finish(LONG).unwrap();
    assert!(finished.status.success());
    assert!(finished.stdout == sent);
}

#[test]
fn a_process_that_does_not_read_delays_no_other() {
    let agent = Agent::start();
    let lazy = agent
        .exec(&["sleep", "1000"])
        .stdin(Stdio::Pipe)
        .spawn()
        .unwrap();
    let error = lazy.write_stdin(&vec![0; 10_000_000], SHORT).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(
        agent.sh("echo there").output(LONG).unwrap().stdout_text(),
        "there"
    );
}

#[test]
fn input_for_a_process_that_closed_it_ends_in_an_error() {
    let agent = Agent::start();
    let process = agent
        .sh("exec <&-; echo closed; exec sleep 1000")
        .stdin(Stdio::Pipe)
        .spawn()
        .unwrap();
    assert_eq!(process.read(Stream::Stdout, LONG).unwrap(), b"closed\n");
    let error = process.write_stdin(&vec![0; 10_000_000], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ended, "{error}");
}

#[test]
fn output_that_nobody_takes_holds_the_process_up_and_no_other() {
    const SIZE: usize = 10_000_000;
    let agent = Agent::start();
    let exec = agent
        .sh(&format!("head -c {SIZE} /dev/zero"))
        .output_limit(0);
    let process = exec.spawn().unwrap();
    assert!(process.wait(SHORT).unwrap_err().is_timeout());
    assert_eq!(
        agent.sh("echo there").output(LONG).unwrap().stdout_text(),
        "there"
    );
    assert_eq!(
        process.read_to_end(Stream::Stdout, LONG).unwrap().len(),
        SIZE
    );
    assert!(process.wait(LONG).unwrap().success());
}

#[test]
fn an_output_that_was_closed_ends_the_process_as_a_broken_pipe_does() {
    let agent = Agent::start();
    let process = agent.exec(&["yes"]).output_limit(0).spawn().unwrap();
    process.read(Stream::Stdout, LONG).unwrap();
    process.close_output(Stream::Stdout).unwrap();
    assert_eq!(
        process.wait(LONG).unwrap(),
        ExitStatus::Signal(libc::SIGPIPE)
    );
}

#[test]
fn signals_arrive() {
    let agent = Agent::start();
    let process =
        agent.sh("trap 'echo caught; exit 7' TERM; echo set; while :; do sleep 0.01; done");
    let process = process.spawn().unwrap();
    assert_eq!(process.read(Stream::Stdout, LONG).unwrap(), b"set\n");
    process.signal(libc::SIGTERM).unwrap();
    assert_eq!(process.wait(LONG).unwrap(), ExitStatus::Code(7));
    assert_eq!(process.read(Stream::Stdout, LONG).unwrap(), b"caught\n");

    let process = agent.exec(&["sleep", "1000"]).spawn().unwrap();
    process.signal(libc::SIGKILL).unwrap();
    assert_eq!(
        process.wait(LONG).unwrap(),
        ExitStatus::Signal(libc::SIGKILL)
    );
}

#[test]
fn a_terminal_is_a_terminal_with_a_size() {
    let agent = Agent::start();
    let script = "trap 'stty size; exit' WINCH
        test -t 0 && test -t 1 && test -t 2 && stty size
        while :; do sleep 0.01; done";
    let process = agent.sh(script).terminal(30, 100).spawn().unwrap();
    assert_eq!(process.read(Stream::Terminal, LONG).unwrap(), b"30 100\r\n");
    process.resize(40, 120).unwrap();
    assert_eq!(process.wait(LONG).unwrap(), ExitStatus::Code(0));
    assert_eq!(
        process.read_to_end(Stream::Terminal, LONG).unwrap(),
        b"40 120\r\n"
    );
}

#[test]
fn a_terminal_can_be_for_input_alone() {
    let agent = Agent::start();
    let exec = agent.sh("test -t 0 && echo $(test -t 1 || echo pipe); read line; echo got $line");
    let process = exec.terminal(24, 80).stdout(Stdio::Pipe).spawn().unwrap();
    assert_eq!(process.read(Stream::Stdout, LONG).unwrap(), b"pipe\n");
    process.write_stdin(b"a line\n", LONG).unwrap();
    let finished = process.finish(LONG).unwrap();
    assert_eq!(finished.stdout_text(), "got a line");
    // The echo.
    assert_eq!(finished.terminal, b"a line\r\n");
}

#[test]
fn ctrl_c_on_a_terminal_interrupts() {
    let agent = Agent::start();
    let mut console = agent.sh("echo ready; exec sleep 1000").console().unwrap();
    console.wait_for("ready\n", LONG).unwrap();
    console.send("\x03").unwrap();
    assert_eq!(
        console.wait_for_end(LONG).unwrap().0,
        ExitStatus::Signal(libc::SIGINT)
    );
}

#[test]
fn a_dialogue_with_a_shell() {
    let agent = Agent::start();
    let mut console = agent
        .exec(&["sh", "-i"])
        .env("PS1", "prompt> ")
        .console()
        .unwrap();
    console.wait_for("prompt> ", LONG).unwrap();
    let output = console
        .run("echo one; echo 'it''s two' # and a comment", LONG)
        .unwrap();
    assert_eq!((output.code, output.text.as_str()), (0, "one\nits two"));
    let output = console.run("if true\nthen (exit 3)\nfi", LONG).unwrap();
    assert_eq!((output.code, output.text.as_str()), (3, ""));
    console.send_line("exit 5").unwrap();
    assert_eq!(console.wait_for_end(LONG).unwrap().0, ExitStatus::Code(5));
    assert!(
        std::fs::read_to_string(console.log())
            .unwrap()
            .contains("its two")
    );
}

#[test]
fn a_console_says_what_it_saw_when_a_text_does_not_come() {
    let agent = Agent::start();
    let mut console = agent.sh("echo one; sleep 1000").console().unwrap();
    let error = console.wait_for("two", SHORT * 10).unwrap_err();
    assert!(error.is_timeout());
    assert!(error.to_string().contains("waiting for \"two\""), "{error}");
    assert!(error.to_string().contains("one"), "{error}");

    let mut console = agent.sh("echo three; exit 4").console().unwrap();
    let error = console.wait_for("four", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ended);
    assert!(
        error.summary().contains("ended with exit code 4"),
        "{error}"
    );
    assert!(error.to_string().contains("three"), "{error}");

    let mut console = agent
        .sh("echo Kernel panic; sleep 1000")
        .console()
        .unwrap()
        .reject("panic");
    assert_eq!(
        console.wait_for("login", LONG).unwrap_err().kind(),
        ErrorKind::Ended
    );
}

#[test]
fn a_console_takes_bytes_that_are_no_text() {
    let agent = Agent::start();
    // A three-byte character in two pieces, a byte that belongs to none, and a CR apart from its LF.
    let script = r"printf '\342\202'; sleep 0.1; printf '\254\377x\r'; sleep 0.1; printf '\nend\n'";
    let mut console = agent.sh(script).stdin(Stdio::Pipe).console().unwrap();
    assert_eq!(
        console.wait_for("end\n", LONG).unwrap(),
        "€\u{fffd}x\nend\n"
    );
}

#[test]
fn a_dropped_process_is_killed_with_its_children() {
    let agent = Agent::start();
    let process = agent.sh("sleep 1000 & echo $!; wait").spawn().unwrap();
    let output = process.read(Stream::Stdout, LONG).unwrap();
    let child: i32 = String::from_utf8(output).unwrap().trim().parse().unwrap();
    drop(process);
    let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    // A zombie is dead enough: its new parent may take its time.
    while !(state().is_empty() || state().contains(") Z ")) {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn many_processes_at_once() {
    let agent = Agent::start();
    thread::scope(|scope| {
        for number in 0..32 {
            let agent = &agent;
            scope.spawn(move || {
                let process = agent.sh("cat; exit 3").stdin(Stdio::Pipe).spawn().unwrap();
                let sent = vec![number; 100_000];
                process.write_stdin(&sent, LONG).unwrap();
                let finished = process.finish(LONG).unwrap();
                assert_eq!(finished.status, ExitStatus::Code(3));
                assert!(finished.stdout == sent);
            });
        }
    });
}

#[test]
fn a_host_that_goes_away_ends_every_wait() {
    let agent = Agent::start();
    let process = agent.exec(&["sleep", "1000"]).spawn().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| process.wait(LONG).unwrap_err());
        agent.channel.close();
        assert_eq!(waiting.join().unwrap().kind(), ErrorKind::Host);
    });
    assert_eq!(
        agent.exec(&["true"]).spawn().unwrap_err().kind(),
        ErrorKind::Host
    );
}

#[test]
fn an_agent_that_talks_nonsense_is_given_up() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = Agent::connect(ours);
    theirs.write_all(b"OpenSBI v1.5\n").unwrap();
    let error = agent.channel.wait_ready(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Host);
    assert!(error.summary().contains("breaks the protocol"), "{error}");
}
