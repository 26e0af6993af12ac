//! Readers that do not read, and files that cannot be written: neither holds up a guest or its end, and what is lost is told.

use hv_lab::host::{Exec, Host, HostChip, LOCAL_ROOT, Process, Stdio, Stream};
use hv_lab::provision::GUEST_PROMPT;

use crate::fixture::{BOOT, Kernel, STEP, command, host, hvrun, run, text};
use crate::program::{A0, A1, FAIL, PASS, branch, image, li, lw, test_device};

const A2: u32 = 12;
const S0: u32 = 8;
const UART: i32 = 0x1000_0000;
const RTC: i32 = 0x10_1000;
const RESET: u32 = 0x7777;
/// No device and no memory is there.
const NOTHING: i32 = 0x3000_0000;
const BNE: u32 = 1;
const BLTU: u32 = 6;
/// `j .`
const LOOP: u32 = 0x6f;

/// `addi to, from, value`
fn addi(to: u32, from: u32, value: i32) -> u32 {
    value.cast_unsigned() << 20 | from << 15 | to << 7 | 0x13
}

/// `sb value, 0(base)` and `sw value, offset(base)`.
fn sb(value: u32, base: u32) -> u32 {
    value << 20 | base << 15 | 0x23
}
fn sw(value: u32, base: u32, offset: u32) -> u32 {
    value << 20 | base << 15 | 2 << 12 | offset << 7 | 0x23
}

/// A branch back over this many instructions.
fn back(function: u32, a: u32, b: u32, instructions: u32) -> u32 {
    branch(function, a, b, 0x2000 - 4 * instructions)
}

/// Prints the low bytes of `count`, `count - 1`, … 1.
fn print(count: i32) -> Vec<u32> {
    let mut code = li(A1, UART).to_vec();
    code.extend(li(A0, count));
    code.extend([sb(A0, A1), addi(A0, A0, -1), back(BNE, A0, 0, 2)]);
    code
}

/// What that prints.
fn printed(count: u32) -> Vec<u8> {
    (1..=count).rev().map(|n| n.to_le_bytes()[0]).collect()
}

/// hvrun with these arguments, for a shell of the nested host.
fn words(arguments: &[String]) -> String {
    let arguments: Vec<String> = arguments
        .iter()
        .map(
            // This machine's files, wherever its temporary directory and the lab's cache are; devices are the nested host's.
            |argument| match argument.starts_with('/') && !argument.starts_with("/dev/") {
                true => format!("'{LOCAL_ROOT}{argument}'"),
                false => format!("'{argument}'"),
            },
        )
        .collect();
    format!("{LOCAL_ROOT}{} {}", text(hvrun()), arguments.join(" "))
}

/// hvrun in a shell of the nested host, after `before` and with these redirections behind it.
pub fn in_shell(host: &Host, before: &str, arguments: &[String], redirections: &str) -> Exec {
    let line = format!("{before}\nexec {} {redirections}", words(arguments));
    host.exec(["sh", "-c", &line])
}

/// A pipe that somebody has open and does not read, made by a shell.
fn unread(name: &str) -> String {
    format!("rm -f {name}; mkfifo {name}; sleep 900 <{name} >/dev/null 2>&1 &")
}

fn signalled(process: &Process, signal: i32) -> Option<i32> {
    process.signal(signal).unwrap();
    process.wait(STEP).unwrap().code()
}

/// A guest that causes one message after the other goes on, and hvrun hears of signals.
#[test]
fn messages_that_nobody_reads_hold_up_nobody() {
    let mut program = li(S0, NOTHING).to_vec();
    // About 200 KB of messages, and a pipe holds 64 KiB.
    program.extend(li(A2, 3000));
    program.extend([lw(A0, S0, 0), addi(A2, A2, -1), back(BNE, A2, 0, 2)]);
    program.extend(li(A1, UART));
    program.extend(li(A0, i32::from(b'x')));
    program.push(sb(A0, A1));
    program.extend([lw(A0, S0, 0), back(BNE, A1, 0, 1)]);
    let (_directory, path) = image(&program);
    let arguments = ["--kernel", &text(&path), "--log-level", "debug"].map(String::from);
    for (chip, signal, code) in [
        (HostChip::Plic, libc::SIGTERM, 143),
        (HostChip::Aia, libc::SIGINT, 130),
    ] {
        let pipe = format!("/dev/shm/unread-{chip}");
        let shell = in_shell(host(chip), &unread(&pipe), &arguments, &format!("2>{pipe}"));
        let hvrun = shell.spawn().unwrap();
        assert_eq!(hvrun.read(Stream::Stdout, STEP).unwrap(), b"x");
        assert_eq!(signalled(&hvrun, signal), Some(code));
    }
}

#[test]
fn output_that_nobody_reads_holds_up_no_signal() {
    let mut program = li(A1, UART).to_vec();
    program.extend([sb(A1, A1), back(BNE, A1, 0, 1)]);
    let (_directory, path) = image(&program);
    let arguments = ["--kernel", &text(&path)].map(String::from);
    let host = host(HostChip::Plic);
    let pipe = "/dev/shm/unread-output";
    let shell = in_shell(host, &unread(pipe), &arguments, &format!(">{pipe}"));
    let hvrun = shell.spawn().unwrap();
    let pid = hvrun.pid();
    // The guest runs; then it has a while to fill the pipe.
    let wait = format!("until grep -qs vcpu0 /proc/{pid}/task/*/comm; do sleep 0.1; done; sleep 3");
    host.exec(["sh", "-c", &wait]).check(STEP).unwrap();
    assert_eq!(hvrun.try_wait(), None);
    assert_eq!(signalled(&hvrun, libc::SIGTERM), Some(143));
}

/// What the guest causes again at each of its boots is told ever more rarely.
#[test]
fn a_guest_that_reboots_does_not_fill_the_log() {
    const BOOTS: i32 = 20;
    // The upper half of the clock counts the boots, once the first has set it to 0.
    let mut program = li(A1, RTC).to_vec();
    program.extend([lw(A0, A1, 0), lw(A0, A1, 4), addi(A0, A0, 1)]);
    program.extend(li(S0, 0x1000_0000));
    program.push(branch(BLTU, A0, S0, 8));
    program.push(addi(A0, 0, 0));
    program.extend([sw(A0, A1, 4), sw(0, A1, 0)]);
    program.extend(li(S0, BOOTS));
    let end = test_device(PASS);
    program.push(branch(
        BLTU,
        A0,
        S0,
        u32::try_from(4 * end.len() + 4).unwrap(),
    ));
    program.extend(end);
    program.extend(test_device(RESET));
    let (_directory, path) = image(&program);
    let finished = command(host(HostChip::Plic), ["--kernel", &text(&path)])
        .args(["--log-level", "info"])
        .check(STEP)
        .unwrap();
    let log = finished.stderr_text();
    let told: Vec<&str> = (log.lines())
        .filter(|line| line.contains("the guest reboots"))
        .collect();
    assert_eq!(told.len(), 6, "{log}");
    assert_eq!(told[5], "hvrun: the guest reboots (16 times so far)");
}

/// One warning while it lasts, and the sum at the end, by which success is none.
#[test]
fn a_full_disk_is_told_and_is_no_success() {
    let host = host(HostChip::Plic);
    for (end, expected) in [(PASS, 1), (5 << 16 | FAIL, 5)] {
        let mut program = print(1000);
        program.extend(test_device(end));
        let (_directory, path) = image(&program);
        let finished = command(host, ["--kernel", &text(&path)])
            .stdout(Stdio::File("/dev/full".into()))
            .output(STEP)
            .unwrap();
        assert_eq!(finished.status.code(), Some(expected), "{finished}");
        let error = finished.stderr_text();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 2, "{error}");
        let warning = "hvrun: warning: the serial port's output cannot be written to /dev/full: No space left";
        assert!(lines[0].starts_with(warning), "{error}");
        let sum = "hvrun: 1000 bytes of the serial port's output were not written to /dev/full: No space left";
        assert!(lines[1].starts_with(sum), "{error}");
    }

    // A reader who has seen enough is no error.
    let mut program = print(20_000);
    program.extend(test_device(PASS));
    let (_directory, path) = image(&program);
    let process = command(host, ["--kernel", &text(&path)]).spawn().unwrap();
    process.close_output(Stream::Stdout).unwrap();
    let finished = process.finish(STEP).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished}");
    assert_eq!(finished.stderr_text(), "");
}

#[test]
fn output_goes_on_when_a_full_disk_has_room_again() {
    const COUNT: u32 = 20_000;
    let host = host(HostChip::Aia);
    let disk = "/dev/shm/small-disk";
    let fill = format!(
        "mkdir {disk}; mount -t tmpfs -o size=64k none {disk}; dd if=/dev/zero of={disk}/ballast bs=4096 count=15"
    );
    host.exec(["sh", "-c", &fill]).check(STEP).unwrap();
    let mut program = print(COUNT.cast_signed());
    program.push(LOOP);
    let (_directory, path) = image(&program);
    let console = format!("serial,to=file:{disk}/log");
    // Not in a root of its own, where what is mounted now would not be seen.
    let arguments = ["--kernel", &text(&path), "--console", &console].map(String::from);
    let hvrun = in_shell(host, "true", &arguments, "").spawn().unwrap();
    let mut errors = String::new();
    let mut wait_for = |text: &str| {
        while !errors.contains(text) {
            let piece = hvrun.read(Stream::Stderr, STEP).unwrap();
            assert!(!piece.is_empty(), "{errors}");
            errors += &String::from_utf8(piece).unwrap();
        }
    };
    wait_for("cannot be written to /dev/shm/small-disk/log: No space left on device");
    let remove = ["rm".to_owned(), format!("{disk}/ballast")];
    host.exec(remove).check(STEP).unwrap();
    wait_for("can be written to /dev/shm/small-disk/log again; 0 bytes of it were lost");
    let log = format!("{disk}/log");
    let whole = format!("until [ $(stat -c %s {log}) = {COUNT} ]; do sleep 0.1; done");
    host.exec(["sh", "-c", &whole]).check(STEP).unwrap();
    assert_eq!(signalled(&hvrun, libc::SIGTERM), Some(143));
    assert!(host.read_file(&log).unwrap() == printed(COUNT));
    host.exec(["umount", disk]).check(STEP).unwrap();
}

/// SIGXFSZ, which ends a process otherwise.
#[test]
fn a_limit_of_file_sizes_is_an_error_of_the_write() {
    let host = host(HostChip::Plic);
    let mut program = print(40_000);
    program.extend(test_device(PASS));
    let (directory, path) = image(&program);
    let log = "/dev/shm/limited-log";
    let console = format!("serial,to=file:{log}");
    let arguments = ["--kernel", &text(&path), "--console", &console].map(String::from);
    // In units of 512 bytes.
    let finished = in_shell(host, "ulimit -f 20", &arguments, "")
        .output(STEP)
        .unwrap();
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(
        finished.stderr_text().contains("File too large"),
        "{finished}"
    );
    let written = host.read_file(log).unwrap();
    assert!(printed(40_000).starts_with(&written) && !written.is_empty());

    // The guest sees the disk's end there, and lives.
    let disk = directory.path().join("disk");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let mut arguments = Kernel::Stable.arguments();
    arguments.extend(["--disk", &text(&disk), "--cmdline", "console=ttyS0"].map(String::from));
    let mut console = in_shell(host, "ulimit -f 4096", &arguments, "")
        .console()
        .unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    let write = "dd if=/dev/zero of=/dev/vda bs=1M count=4 oflag=direct";
    assert_ne!(console.run(write, STEP).unwrap().code, 0);
    assert!(console.transcript().contains("I/O error"));
    assert_eq!(run(&mut console, "echo alive"), "alive");
    console.send_line("poweroff").unwrap();
    let (status, _) = console.wait_for_end(STEP).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}

/// Signals that would end any process end the machine in an orderly way: its socket's file is gone.
#[test]
fn other_signals_end_the_machine_in_good_order() {
    let host = host(HostChip::Plic);
    let (_directory, path) = image(&[LOOP]);
    for signal in [libc::SIGUSR1, libc::SIGALRM, libc::SIGXCPU] {
        let socket = format!("/dev/shm/signal-{signal}");
        let console = format!("serial,to=unix:{socket}");
        let hvrun = command(host, ["--kernel", &text(&path), "--console", &console])
            .spawn()
            .unwrap();
        let wait = format!("until [ -e {socket} ]; do sleep 0.1; done; stat -c %a {socket}");
        let mode = host.exec(["sh", "-c", &wait]).check(STEP).unwrap();
        assert_eq!(mode.stdout_text().trim(), "600");
        assert_eq!(signalled(&hvrun, signal), Some(128 + signal));
        host.exec(["test", "!", "-e", &socket]).check(STEP).unwrap();
    }
}
