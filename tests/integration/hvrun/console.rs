//! The guest's consoles and ports, and what is behind them.

use std::path::Path;
use std::sync::OnceLock;

use hv_lab::host::{Console, Exec, Host, HostChip, Process, Stdio, Stream};
use hv_lab::initramfs::Initramfs;
use hv_lab::provision::{self, GUEST_PROMPT};

use crate::fixture::{
    BOOT, Disk, Kernel, STEP, chips, command, guest, host, power_off, reboot, run, text,
};
use crate::virtio::version;

/// A path for a file or socket in the nested host's memory: the developer's file system has no sockets for it.
fn path(host: &Host, name: &str) -> String {
    format!("/dev/shm/{}-{name}", host.chip())
}

/// A client of a socket, by text.
fn client(host: &Host, socket: &str) -> Exec {
    static BINARY: OnceLock<std::path::PathBuf> = OnceLock::new();
    let binary =
        BINARY.get_or_init(|| provision::cross_build("hv-lab-agent", "unix-client").unwrap());
    host.local(binary).unwrap().arg(socket).stdin(Stdio::Pipe)
}

/// Somebody at a pseudo-terminal, by text.
fn person(host: &Host, terminal: &str) -> Console {
    // Not by cat for what comes: it uses sendfile, which keeps the pipe locked while it waits for the terminal, and with it
    // the agent that reads the pipe.
    let both_ways = format!("dd if={terminal} bs=4096 2>/dev/null & exec cat >{terminal}");
    let both_ways = host.exec(["sh", "-c", &both_ways]).stdin(Stdio::Pipe);
    both_ways.console().unwrap()
}

/// hvrun with this kernel and nothing on its standard streams but what a test reads.
fn in_background(host: &Host, kernel: Kernel, disk: &Disk, consoles: &[&str]) -> Process {
    let command = command(host, kernel.arguments())
        .args(disk.argument())
        .args(["--virtio", version(host.chip())]);
    let consoles = consoles.iter().flat_map(|console| ["--console", console]);
    command.args(consoles).spawn().unwrap()
}

/// The path of the pseudo-terminal that hvrun prints.
fn terminal_of(hvrun: &Process, console: &str) -> String {
    let mut printed = String::new();
    while !printed.ends_with('\n') {
        let piece = hvrun.read(Stream::Stderr, STEP).unwrap();
        assert!(!piece.is_empty(), "{printed}");
        printed += &String::from_utf8(piece).unwrap();
    }
    let path = printed
        .trim_end()
        .strip_prefix(&format!("hvrun: {console} on "));
    path.unwrap_or_else(|| panic!("{printed}")).to_owned()
}

/// Waits in the guest until its terminal has this size.
fn wait_for_size(console: &mut Console, size: &str) {
    run(
        console,
        &format!("until [ \"$(stty size)\" = '{size}' ]; do sleep 0.1; done"),
    );
}

#[test]
fn a_virtio_console_is_a_terminal_of_the_right_size() {
    for chip in chips() {
        let disk = Disk::new();
        let arguments = ["--console", "virtio", "--virtio", version(chip)];
        let mut console = guest(host(chip), Kernel::Stable, &disk, &arguments);
        assert_eq!(run(&mut console, "tty"), "/dev/hvc0");
        assert_eq!(
            run(&mut console, "cat /proc/cmdline"),
            "console=ttyS0 console=hvc0 root=/dev/vda rw"
        );
        // Both consoles had the kernel's log.
        let log = console.transcript();
        assert_eq!(log.matches("] Linux version ").count(), 1, "{log}");
        assert_eq!(run(&mut console, "stty size"), "24 80");
        console.process().resize(50, 132).unwrap();
        wait_for_size(&mut console, "50 132");
        console.send("\x01h").unwrap();
        console
            .wait_for("Ctrl-a x  end the virtual machine", STEP)
            .unwrap();
        // More than any buffer on the way holds, both ways.
        assert_eq!(run(&mut console, "seq 20000 | tail -n 1"), "20000");
        reboot(&mut console);
        wait_for_size(&mut console, "50 132");
        power_off(console);
        disk.assert_clean();
    }
}

/// A kernel whose driver for the virtio console is a module, and an initrd that does not have it: its log and what its init
/// says appear all the same.
#[test]
fn a_kernel_without_a_driver_for_the_virtio_console_is_not_silent() {
    let mut archive = Initramfs::new();
    archive.file(
        "busybox",
        0o755,
        &std::fs::read(provision::busybox().unwrap()).unwrap(),
    );
    archive.file(
        "init",
        0o755,
        b"#!/busybox sh\n/busybox echo There are no modules.\n/busybox poweroff -f\n",
    );
    let directory = tempfile::tempdir().unwrap();
    let initrd = directory.path().join("initrd");
    std::fs::write(&initrd, archive.finish()).unwrap();
    for chip in chips() {
        let kernel = &Kernel::Stable.arguments()[1];
        let finished = command(host(chip), ["--kernel", kernel])
            .args(["--initrd", &text(&initrd), "--console", "virtio"])
            .check(BOOT)
            .unwrap();
        let output = finished.stdout_text();
        for expected in ["] Linux version ", "There are no modules."] {
            assert_eq!(output.matches(expected).count(), 1, "{output}");
        }
    }
}

/// What was piped in before there was a guest is its shell's all the same, whether the driver comes early or late.
#[test]
fn a_virtio_console_loses_no_input() {
    for (chip, kernel, console) in [
        (HostChip::Plic, Kernel::Small, "hvc1"),
        (HostChip::Aia, Kernel::Stable, "hvc0"),
    ] {
        let disk = Disk::new();
        let line = format!("console={console} root=/dev/vda rw");
        let hvrun = command(host(chip), kernel.arguments())
            .args(disk.argument())
            .args(["--console", "virtio", "--cmdline", &line])
            .stdin(Stdio::Pipe)
            .spawn()
            .unwrap();
        hvrun
            .write_stdin(b"echo a''live\npoweroff\n", STEP)
            .unwrap();
        let finished = hvrun.finish(BOOT).unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished}");
        assert!(finished.stdout_text().contains("\nalive"), "{finished}");
    }
}

/// With a port beside it the console hears of its size by a message and not by the configuration space. A kernel with a
/// console of SBI's calls that one hvc0.
#[test]
fn a_virtio_console_beside_others() {
    let disk = Disk::new();
    let host = host(HostChip::Plic);
    let port = format!("virtio,port=org.example,to=file:{}", path(host, "beside"));
    let arguments = [
        "--console",
        "virtio",
        "--console",
        &port,
        "--cmdline",
        "console=hvc1 root=/dev/vda rw",
    ];
    let mut console = guest(host, Kernel::Small, &disk, &arguments);
    assert_eq!(run(&mut console, "tty"), "/dev/hvc1");
    assert_eq!(run(&mut console, "stty size"), "24 80");
    console.process().resize(50, 132).unwrap();
    wait_for_size(&mut console, "50 132");
    run(&mut console, "test -c /dev/vport1p1");
    run(&mut console, "echo to a file > /dev/vport1p1");
    console.send("\x01x").unwrap();
    let (status, _) = console.wait_for_end(STEP).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    let file = host.read_file(&path(host, "beside")).unwrap();
    assert_eq!(String::from_utf8(file).unwrap(), "to a file\n");
}

/// On such a kernel's hvc0, SBI has the input, although there is a virtio console.
#[test]
fn the_console_of_sbi_shares_the_terminal() {
    let disk = Disk::new();
    let arguments = ["--console", "virtio"];
    let mut console = guest(host(HostChip::Aia), Kernel::Small, &disk, &arguments);
    assert_eq!(run(&mut console, "tty"), "/dev/hvc0");
    run(&mut console, "echo to the other > /dev/hvc1");
    power_off(console);
}

#[test]
fn both_consoles_are_there_and_one_has_the_terminal() {
    for chip in chips() {
        let disk = Disk::new();
        let host = host(chip);
        let mut console = command(host, Kernel::Stable.arguments())
            .args(disk.argument())
            .args(["--console", "both"])
            .console()
            .unwrap();
        console.wait_for("hvrun: serial port on ", STEP).unwrap();
        let terminal = console.wait_for("\n", STEP).unwrap();
        let mut person = person(host, terminal.trim());
        console.wait_for(GUEST_PROMPT, BOOT).unwrap();
        assert_eq!(run(&mut console, "tty"), "/dev/hvc0");
        let line = run(&mut console, "cat /proc/cmdline");
        assert!(line.starts_with("console=ttyS0 console=hvc0 "), "{line}");
        // The kernel spoke to both.
        person.wait_for("Linux version", STEP).unwrap();
        run(&mut console, "echo to ttyS0 > /dev/ttyS0");
        person.wait_for("to ttyS0", STEP).unwrap();
        power_off(console);
    }
}

#[test]
fn a_file_has_all_output() {
    for chip in chips() {
        let disk = Disk::new();
        let host = host(chip);
        let file = path(host, "log");
        host.write_file(&file, b"from before").unwrap();
        let serial = format!("serial,to=file:{file}");
        let arguments = ["--console", &serial, "--console", "virtio"];
        let mut console = guest(host, Kernel::Stable, &disk, &arguments);
        run(&mut console, "seq 1000 > /dev/ttyS0");
        // The last that the guest prints comes as well.
        console
            .send_line("echo last > /dev/ttyS0; poweroff")
            .unwrap();
        let (status, _) = console.wait_for_end(STEP).unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
        let log = String::from_utf8(host.read_file(&file).unwrap()).unwrap();
        assert!(log.contains("Linux version"), "{log}");
        let numbers: String = (1..=1000).map(|n| format!("{n}\r\n")).collect();
        assert!(log.contains(&numbers), "{log}");
        assert!(!log.contains("from before"), "{log}");
        assert!(log.contains("last\r\n"), "{log}");
    }
}

#[test]
fn people_come_to_a_pseudo_terminal_and_leave_it() {
    for chip in chips() {
        let disk = Disk::new();
        let host = host(chip);
        let printed = path(host, "printed");
        let port = format!("virtio,port=printed,to=file:{printed}");
        let hvrun = in_background(host, Kernel::Small, &disk, &["serial,to=pty", &port]);
        let terminal = terminal_of(&hvrun, "serial port");
        let mut first = person(host, &terminal);
        first.wait_for(GUEST_PROMPT, BOOT).unwrap();
        assert_eq!(run(&mut first, "tty"), "/dev/ttyS0");
        // More than a terminal keeps, after the person has left.
        first
            .send_line("sleep 5; seq 5000; echo yes > /dev/vport1p0")
            .unwrap();
        first.wait_for("> /dev/vport1p0", STEP).unwrap();
        drop(first);
        let wait = format!("until [ -s {printed} ]; do sleep 0.1; done");
        host.exec(["sh", "-c", &wait]).check(STEP).unwrap();
        let mut second = person(host, &terminal);
        second.send_line("").unwrap();
        run(&mut second, "true");
        assert!(!second.transcript().contains("1000"), "not dropped");
        reboot(&mut second);
        second.send_line("poweroff").unwrap();
        let finished = hvrun.finish(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished}");
        assert_eq!(finished.stdout_text(), "");
    }
}

#[test]
fn a_shell_over_a_socket() {
    for chip in chips() {
        let disk = Disk::new();
        let host = host(chip);
        let socket = path(host, "console");
        let hvrun = in_background(
            host,
            Kernel::Stable,
            &disk,
            &[&format!("virtio,to=unix:{socket}")],
        );
        wait_for_file(host, &socket);
        let mut first = client(host, &socket).console().unwrap();
        first.wait_for(GUEST_PROMPT, BOOT).unwrap();
        assert_eq!(run(&mut first, "tty"), "/dev/hvc0");
        drop(first);
        let mut second = client(host, &socket).console().unwrap();
        run(&mut second, "true");

        let taken = command(host, Kernel::Stable.arguments())
            .args(["--console", &format!("serial,to=unix:{socket}")])
            .output(STEP)
            .unwrap();
        assert_eq!(taken.status.code(), Some(1), "{taken}");
        assert!(taken.stderr_text().contains("in use"), "{taken}");
        second.send_line("poweroff").unwrap();
        assert_eq!(hvrun.finish(STEP).unwrap().status.code(), Some(0));
        host.exec(["test", "!", "-e", &socket]).check(STEP).unwrap();
    }
}

fn wait_for_file(host: &Host, path: &str) {
    let wait = format!("until [ -e {path} ]; do sleep 0.1; done");
    host.exec(["sh", "-c", &wait]).check(STEP).unwrap();
}

/// Waits until somebody listens at the socket, which its file alone does not say.
fn wait_for_listener(host: &Host, path: &str) {
    let wait = format!("until grep -q ' {path}$' /proc/net/unix; do sleep 0.1; done");
    host.exec(["sh", "-c", &wait]).check(STEP).unwrap();
}

/// Reads as many bytes from a client as were expected, which these have to be.
fn expect(client: &Process, expected: &str) {
    let mut received = Vec::new();
    while received.len() < expected.len() {
        let piece = client.read(Stream::Stdout, STEP).unwrap();
        assert!(!piece.is_empty(), "the socket was closed");
        received.extend(piece);
    }
    assert_eq!(String::from_utf8(received).unwrap(), expected);
}

/// `seq count` prints this.
fn numbers(count: u32) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

#[test]
fn a_port_carries_data_both_ways() {
    // 349 kB: more than hvrun's buffer (64 KiB) and a socket (208 KiB) hold.
    const LINES: u32 = 60_000;
    let fill = format!("seq {LINES} > $P");
    for chip in chips() {
        let disk = Disk::new();
        let host = host(chip);
        let socket = path(host, "port");
        let port = format!("virtio,port=org.example.0,to=unix:{socket}");
        let arguments = ["--console", &port, "--virtio", version(chip)];
        let mut console = guest(host, Kernel::Small, &disk, &arguments);
        // It is no console, so there is still the usual one.
        assert_eq!(run(&mut console, "tty"), "/dev/ttyS0");
        // Where there is udev, it makes links by these names in /dev/virtio-ports.
        let name = "grep -lx org.example.0 /sys/class/virtio-ports/*/name";
        let find = format!("P=/dev/$(basename $(dirname $({name}))); test -c $P");
        run(&mut console, &find);
        // Nobody is there, so nobody is waited for.
        run(&mut console, &fill);

        let first = client(host, &socket).spawn().unwrap();
        first.write_stdin(b"to the guest\n", STEP).unwrap();
        assert_eq!(run(&mut console, "head -n 1 < $P"), "to the guest");
        run(&mut console, "echo from the guest > $P");
        expect(&first, "from the guest\n");
        run(&mut console, &fill);
        expect(&first, &numbers(LINES));
        console
            .send_line(&format!("head -n {LINES} < $P > /run/received"))
            .unwrap();
        first.write_stdin(numbers(LINES).as_bytes(), STEP).unwrap();
        run(&mut console, &format!("seq {LINES} | cmp - /run/received"));

        // The next client gets what is printed from then on.
        drop(first);
        run(&mut console, "echo lost > $P; sleep 1");
        let second = client(host, &socket).spawn().unwrap();
        second.write_stdin(b"again\n", STEP).unwrap();
        assert_eq!(run(&mut console, "head -n 1 < $P"), "again");
        run(&mut console, "echo found > $P");
        expect(&second, "found\n");

        // And stays when the guest starts anew.
        reboot(&mut console);
        run(&mut console, &find);
        run(&mut console, "echo rebooted > $P");
        expect(&second, "rebooted\n");
        power_off(console);
        assert!(second.finish(STEP).unwrap().status.success());
        host.exec(["test", "!", "-e", &socket]).check(STEP).unwrap();
    }
}

/// Files that are in the way are left as they are.
#[test]
fn only_a_dead_socket_is_replaced() {
    let host = host(HostChip::Plic);
    let disk = Disk::new();
    let kernel = Kernel::Small.arguments();
    let run_with = |socket: &str| {
        command(host, kernel.iter().cloned())
            .args(["--console", &format!("serial,to=unix:{socket}")])
    };
    let file = path(host, "file");
    host.write_file(&file, b"precious").unwrap();
    let refused = run_with(&file).output(STEP).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr_text().contains("no socket"), "{refused}");
    assert_eq!(host.read_file(&file).unwrap(), b"precious");

    // What a killed hvrun leaves is no obstacle to the next one.
    let dead = path(host, "dead");
    let killed = run_with(&dead).args(disk.argument()).spawn().unwrap();
    wait_for_file(host, &dead);
    killed.signal(libc::SIGKILL).unwrap();
    killed.wait(STEP).unwrap();
    wait_for_file(host, &dead);
    let next = run_with(&dead).args(disk.argument()).spawn().unwrap();
    wait_for_listener(host, &dead);
    let mut shell = client(host, &dead).console().unwrap();
    shell.wait_for(GUEST_PROMPT, BOOT).unwrap();
    power_off_by(&mut shell, next);
}

fn power_off_by(shell: &mut Console, hvrun: Process) {
    shell.send_line("poweroff").unwrap();
    assert_eq!(hvrun.finish(STEP).unwrap().status.code(), Some(0));
}

/// Without a console nothing is printed, stdin is not read, and Ctrl-c ends hvrun as any program.
#[test]
fn without_a_console_the_terminal_is_left_alone() {
    let disk = Disk::new();
    let host = host(HostChip::Aia);
    let file = text(&disk.beside("tree.dtb"));
    let arguments = ["--console", "none"];
    let dumped = command(host, Kernel::Small.arguments())
        .args(disk.argument())
        .args(arguments)
        .args(["--dump-dtb", &file])
        .check(STEP)
        .unwrap();
    assert_eq!(dumped.stdout_text(), "");
    let tree = std::fs::read(Path::new(&file)).unwrap();
    let tree = String::from_utf8_lossy(&tree).into_owned();
    assert!(tree.contains("root=/dev/vda rw\0") && !tree.contains("console="));

    // The file says that hvrun takes signals by now.
    let alive = path(host, "alive");
    let port = format!("virtio,port=alive,to=file:{alive}");
    let mut console = command(host, Kernel::Small.arguments())
        .args(disk.argument())
        .args(arguments)
        .args(["--console", &port])
        .console()
        .unwrap();
    wait_for_file(host, &alive);
    console.send("\x03").unwrap();
    let (status, printed) = console.wait_for_end(STEP).unwrap();
    assert_eq!((status.code(), printed.as_str()), (Some(130), "^C"));
}
