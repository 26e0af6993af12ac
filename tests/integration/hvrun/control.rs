//! A machine that its owner controls by its handle.

use std::path::PathBuf;
use std::sync::OnceLock;

use hv_lab::host::{Console, Host, HostChip, Stdio};
use hv_lab::provision::{self, GUEST_GREETING, GUEST_PROMPT};

use crate::fixture::{BOOT, Disk, Kernel, STEP, host, run};

fn example() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| provision::cross_build_example("hv-vmm", "control").unwrap())
}

fn on_host(host: &Host, line: &str) -> String {
    let finished = host.exec(["sh", "-c", line]).check(STEP).unwrap();
    finished.stdout_text()
}

/// The machine of the example `control`: its FIFO for commands, and the file with its answers and events.
struct Controlled {
    host: &'static Host,
    commands: String,
    report: String,
    console: Console,
}

impl Controlled {
    fn start(chip: HostChip, disk: &Disk, tap: &str) -> Controlled {
        let host = host(chip);
        let commands = format!("/dev/shm/{tap}-commands");
        let report = format!("/dev/shm/{tap}-report");
        on_host(host, &format!("mkfifo {commands}"));
        let mut console = host
            .local(example())
            .unwrap()
            .args(Kernel::Stable.arguments())
            .args(disk.argument())
            .args(["--tap", tap, "--serial", &format!("/dev/shm/{tap}-serial")])
            .args(["--commands", &commands])
            // No terminal, which would have to be made raw.
            .stdin(Stdio::Pipe)
            .stderr(Stdio::File(report.clone()))
            .console()
            .unwrap()
            .reject("Kernel panic")
            .reject("Oops");
        console.wait_for(GUEST_PROMPT, BOOT).unwrap();
        Controlled {
            host,
            commands,
            report,
            console,
        }
    }

    /// Gives a command, and waits for this answer to it.
    fn command(&self, command: &str, answer: &str) {
        let (commands, report) = (&self.commands, &self.report);
        on_host(
            self.host,
            &format!(
                "before=$(grep -cF '{command}: ' {report}); echo '{command}' > {commands}; \
                 until [ $(grep -cF '{command}: ' {report}) -gt $before ]; do sleep 0.1; done; \
                 grep -F '{command}: ' {report} | tail -n 1 | grep -qF '{command}: {answer}'"
            ),
        );
    }

    /// Waits until the guest sees this of its interface's link.
    fn wait_for_carrier(&mut self, up: bool) {
        let carrier = u8::from(up);
        run(
            &mut self.console,
            &format!(
                "until [ $(cat /sys/class/net/eth0/carrier) = {carrier} ]; do sleep 0.1; done"
            ),
        );
    }

    /// How often the guest has been pinged: `InEchos` of RFC 4293.
    fn echo_requests(&mut self) -> String {
        let count = "awk '/^Icmp:/ && ++line == 2 { print $10 }' /proc/net/snmp";
        self.console.run(count, STEP).unwrap().text
    }

    /// Whether an answer comes to the guest's packets. What is lost is no proof, so it is asked once only.
    fn pings(&mut self, address: &str) -> bool {
        let ping = format!("ping -c 1 -W 2 {address}");
        self.console.run(&ping, STEP).unwrap().code == 0
    }
}

/// The guest sees what its owner does to its cable; a pause and a reset leave that as it is.
fn the_link_follows(chip: HostChip, number: u32) {
    let disk = Disk::new();
    let tap = format!("tap{number}");
    let mut machine = Controlled::start(chip, &disk, &tap);
    on_host(
        machine.host,
        &format!("ip addr add 10.{number}.0.1/24 dev {tap}; ip link set {tap} up"),
    );
    let configure = format!("ip addr add 10.{number}.0.2/24 dev eth0; ip link set eth0 up");
    run(&mut machine.console, &configure);
    machine.wait_for_carrier(true);
    let peer = format!("10.{number}.0.1");
    let wait = format!("until ping -c 1 -W 2 {peer}; do sleep 0.1; done");
    run(&mut machine.console, &wait);
    // The host's kernel keeps no packet until it has the guest's address from the guest.
    let mac = run(&mut machine.console, "cat /sys/class/net/eth0/address");
    on_host(machine.host, &format!("arp -s 10.{number}.0.2 {mac}"));

    machine.command("link net0 down", "done");
    machine.wait_for_carrier(false);
    // No packet of the host's arrives, although the guest's driver would still take it.
    assert!(!machine.pings(&peer));
    let requests = machine.echo_requests();
    on_host(machine.host, &format!("! ping -c 2 -W 1 10.{number}.0.2"));
    machine.command("link net0 up", "done");
    machine.wait_for_carrier(true);
    run(&mut machine.console, &wait);
    // Not later either.
    assert_eq!(machine.echo_requests(), requests);

    machine.command("pause", "done");
    machine.command("link net0 down", "done");
    machine.command("resume", "done");
    machine.wait_for_carrier(false);

    machine.command("reset", "done");
    machine.console.wait_for(GUEST_GREETING, BOOT).unwrap();
    machine.console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    run(&mut machine.console, &configure);
    machine.wait_for_carrier(false);
    machine.command("link net0 up", "done");
    machine.wait_for_carrier(true);
    run(&mut machine.console, &wait);

    machine.command("link net1 up", "the machine has no device with this id");
    machine.command("link disk0 down", "this device is no network interface");
    machine.console.send_line("poweroff").unwrap();
    let (status, rest) = machine.console.wait_for_end(BOOT).unwrap();
    assert_eq!(status.code(), Some(0), "{status}: {rest}");
    let report = on_host(machine.host, &format!("cat {}", machine.report));
    let events: Vec<&str> = report
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    let expected = [
        "Booted",
        "Paused",
        "Resumed",
        "Reset",
        "Booted",
        "Ended(PowerOff)",
    ];
    assert_eq!(events, expected, "{report}");
    disk.assert_clean();
}

#[test]
fn a_link_follows_its_owner_on_a_plic() {
    the_link_follows(HostChip::Plic, 93);
}

#[test]
fn a_link_follows_its_owner_on_an_aia() {
    the_link_follows(HostChip::Aia, 94);
}
