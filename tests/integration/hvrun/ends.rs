//! The ways in which a run ends, or begins again, and what becomes of the terminal, pipes and files.

use hv_lab::host::{Host, HostChip, Stdio, Stream};
use hv_lab::provision::{self, GUEST_PROMPT};

use crate::fixture::{
    BOOT, Disk, Kernel, STEP, chips, command, guest, host, power_off, reboot, run, text,
};

#[test]
fn a_guest_reboots_in_the_same_process() {
    for chip in chips() {
        let disk = Disk::new();
        let mut console = guest(host(chip), Kernel::Small, &disk, &["--cpus", "2"]);
        let pid = console.process().pid();
        for round in 0..2 {
            run(&mut console, &format!("echo {round} >> /root/rounds; sync"));
            reboot(&mut console);
        }
        assert_eq!(console.process().pid(), pid);
        assert_eq!(run(&mut console, "cat /root/rounds"), "0\n1");
        power_off(console);
        disk.assert_clean();
    }
}

/// hvrun under a shell that shows the terminal's settings before and after, ended in some way.
fn ended_by(host: &Host, disk: &Disk, end: impl FnOnce(&mut hv_lab::host::Console)) -> i32 {
    let mut arguments = Kernel::Small.arguments();
    arguments.extend(disk.argument());
    let line = format!(
        "stty -g; {} {}; echo code=$?; stty -g",
        text(crate::fixture::hvrun()),
        arguments.join(" ")
    );
    // A shell of the nested host, with the developer's files where hvrun's own arguments name them.
    let mut console = host
        .exec([
            "sh",
            "-c",
            &line.replace(" /", &format!(" {}/", hv_lab::host::LOCAL_ROOT)),
        ])
        .console()
        .unwrap();
    let before = console.wait_for("\n", STEP).unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    end(&mut console);
    console.wait_for("code=", STEP).unwrap();
    let code = console.wait_for("\n", STEP).unwrap();
    let after = console.wait_for("\n", STEP).unwrap();
    assert_eq!(before, after, "the terminal is as it was");
    code.trim().parse().unwrap()
}

/// Signals the hvrun that has this image, and not the shell around it, whose arguments name both.
fn signal_hvrun(host: &Host, image: &str, signal: &str) {
    let root = hv_lab::host::LOCAL_ROOT;
    let kill = format!(
        "for process in /proc/[0-9]*; do case $(tr '\\0' ' ' < $process/cmdline) in {root}*{image}*) \
         kill -{signal} ${{process#/proc/}};; esac; done 2>/dev/null"
    );
    host.exec(["sh", "-c", &kill]).output(STEP).unwrap();
}

#[test]
fn ctrl_a_x_ends_the_machine_and_ctrl_a_h_lists_the_keys() {
    let disk = Disk::new();
    let code = ended_by(host(HostChip::Aia), &disk, |console| {
        console.send("\x01h").unwrap();
        console
            .wait_for("Ctrl-a x  end the virtual machine", STEP)
            .unwrap();
        console.send("\x01x").unwrap();
    });
    assert_eq!(code, 0);
}

#[test]
fn signals_end_the_machine_and_restore_the_terminal() {
    let host = host(HostChip::Plic);
    for (signal, expected) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131)] {
        let disk = Disk::new();
        let image = text(&disk.image);
        let code = ended_by(host, &disk, |_| signal_hvrun(host, &image, signal));
        assert_eq!(code, expected, "SIG{signal}");
    }
}

/// Somebody holds a lease on the kernel's file, so that to open it waits, as on a file system of the network that has
/// stalled. What hvrun has made by then goes away with it.
#[test]
fn signals_end_hvrun_while_it_waits_for_a_file() {
    let host = host(HostChip::Plic);
    let kernel = "/dev/shm/leased-kernel";
    host.exec(["sh", "-c", &format!("echo kernel > {kernel}")])
        .check(STEP)
        .unwrap();
    let binary = provision::cross_build("hv-lab-agent", "hold-lease").unwrap();
    let lease = host.local(&binary).unwrap().arg(kernel);
    let lease = lease.stdin(Stdio::Pipe).spawn().unwrap();
    assert_eq!(lease.read(Stream::Stdout, STEP).unwrap(), b"held\n");
    // Longer than anything here takes on any machine.
    host.write_file("/proc/sys/fs/lease-break-time", b"3600")
        .unwrap();
    for (signal, expected) in [
        (libc::SIGTERM, 143),
        (libc::SIGINT, 130),
        (libc::SIGHUP, 129),
        (libc::SIGQUIT, 131),
    ] {
        let socket = format!("/dev/shm/socket-until-signal-{signal}");
        let hvrun = command(host, ["--kernel", kernel])
            .args(["--console", &format!("serial,to=unix:{socket}")])
            .spawn()
            .unwrap();
        let pid = hvrun.pid();
        // The thread that opens files is in the wait for the lease (fs/locks.c).
        let wait =
            format!("until grep -q __break_lease /proc/{pid}/task/*/wchan; do sleep 0.1; done");
        host.exec(["sh", "-c", &wait]).check(STEP).unwrap();
        assert_eq!(hvrun.try_wait(), None);
        hvrun.signal(signal).unwrap();
        let finished = hvrun.finish(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(expected), "{finished}");
        assert_eq!(finished.stderr_text(), "");
        host.exec(["test", "!", "-e", &socket]).check(STEP).unwrap();
    }
    host.write_file("/proc/sys/fs/lease-break-time", b"45")
        .unwrap();
    assert_eq!(lease.try_wait(), None);
}

/// Nobody reads the FIFO, which would be waited for without an end. What hvrun has made by then goes away with it.
#[test]
fn a_fifo_that_nobody_reads_is_not_waited_for() {
    let host = host(HostChip::Plic);
    let fifo = "/dev/shm/nobody-reads-this";
    host.exec(["mkfifo", fifo]).check(STEP).unwrap();
    let socket = "/dev/shm/socket-until-an-error";
    let finished = command(host, Kernel::Stable.arguments())
        .args(["--console", &format!("serial,to=unix:{socket}")])
        .args(["--dump-dtb", fifo])
        .output(STEP)
        .unwrap();
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    let error = finished.stderr_text();
    let expected = format!("hvrun: cannot write the device tree to {fifo}: ");
    assert!(error.starts_with(&expected), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    host.exec(["test", "!", "-e", socket]).check(STEP).unwrap();
}

#[test]
fn a_power_off_restores_the_terminal() {
    let disk = Disk::new();
    let code = ended_by(host(HostChip::Aia), &disk, |console| {
        console.send_line("poweroff").unwrap()
    });
    assert_eq!(code, 0);
}

#[test]
fn the_end_of_input_is_not_the_end_of_the_guest() {
    let disk = Disk::new();
    let command = command(host(HostChip::Plic), Kernel::Small.arguments()).args(disk.argument());
    let process = command.stdin(Stdio::Null).spawn().unwrap();
    let mut seen = String::new();
    while !seen.contains(GUEST_PROMPT) {
        let piece = process.read(Stream::Stdout, BOOT).unwrap();
        assert!(!piece.is_empty(), "{seen}");
        seen += &String::from_utf8_lossy(&piece);
    }
    assert_eq!(process.try_wait(), None);
    process.signal(libc::SIGTERM).unwrap();
    assert_eq!(process.wait(STEP).unwrap().code(), Some(143));
}

/// `printf … | hvrun … > file`: everything that is piped in reaches the guest, however early it comes.
#[test]
fn input_from_a_pipe_and_output_into_a_file() {
    for chip in chips() {
        let disk = Disk::new();
        let host = host(chip);
        let output = disk.beside("output");
        let log = format!("{}{}", hv_lab::host::LOCAL_ROOT, text(&output));
        let process = command(host, Kernel::Small.arguments())
            .args(disk.argument())
            .stdin(Stdio::Pipe)
            .stdout(Stdio::File(log))
            .spawn()
            .unwrap();
        process
            .write_stdin(
                b"echo first $((6 * 7)) line\necho second line\npoweroff\n",
                STEP,
            )
            .unwrap();
        process.close_stdin().unwrap();
        let finished = process.finish(BOOT).unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished}");
        let printed = std::fs::read_to_string(&output).unwrap();
        assert!(printed.contains("\nfirst 42 line\r\n"), "{printed}");
        assert!(printed.contains("\nsecond line\r\n"), "{printed}");
        assert_eq!(finished.stderr_text(), "");
    }
}
