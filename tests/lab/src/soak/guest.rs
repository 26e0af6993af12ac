//! The guest, and what it does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{Checked, Done, text};
use crate::host::{Console, Host, LOCAL_ROOT, Process, Stdio};
use crate::provision::{self, DebianKernel, GUEST_GREETING, GUEST_PROMPT};
use crate::watch::{Sample, Watch};

/// Until a guest's shell is there, on a slow and busy machine.
const BOOT: Duration = Duration::from_secs(300);

/// For anything else.
const STEP: Duration = Duration::from_secs(240);

const TAP: &str = "soak";
const HOST_ADDRESS: &str = "10.78.0.1";
const GUEST_ADDRESS: &str = "10.78.0.2";

/// Packets of a round.
const PACKETS: u64 = 20;

/// Where the nested host has what it needs, in memory.
const DIRECTORY: &str = "/dev/shm/soak";

/// What the kernel says when an interrupt was lost, or a device did not answer.
const COMPLAINTS: &str = "blocked for more|soft lockup|hard LOCKUP|rcu.*stall|timed out|timeout|I/O error|BUG:|WARNING:|nobody cared";

/// A guest has 512 MiB unless told otherwise; mappings of this size are its memory.
const MEMORY_MIB: u32 = 256;

/// What the second half of a run may take more than the first. Clients come and go.
const SLACK: Sample = Sample {
    descriptors: 8,
    threads: 2,
    resident_kib: 4 << 10,
};

/// A guest at its prompt.
pub(super) struct Guest<'a> {
    host: &'a Host,
    console: Console,
    watch: Watch,
    /// Clients of its consoles, who print a line each time that they leave.
    clients: Process,
    /// Of the file that it wrote last.
    sum: Option<String>,
    disk: PathBuf,
    _directory: TempDir,
}

fn on_host(host: &Host, line: &str) -> Checked<String> {
    let finished = host.exec(["sh", "-c", line]).check(STEP);
    let finished = finished.map_err(|error| text(&error))?;
    Ok(finished.stdout_text())
}

fn path(path: &Path) -> Checked<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("the path {} is not UTF-8", path.display()))
}

impl<'a> Guest<'a> {
    pub(super) fn boot(host: &'a Host, program: &Path) -> Checked<Self> {
        let setup = |error: &dyn std::fmt::Display| error.to_string();
        let kernel =
            provision::debian_kernel(DebianKernel::Stable).map_err(|error| setup(&error))?;
        let initrd = provision::guest_initrd(&kernel).map_err(|error| setup(&error))?;
        let client = provision::cross_build("hv-lab-agent", "unix-client");
        let client = path(&client.map_err(|error| setup(&error))?)?;
        let directory = tempfile::tempdir().map_err(|error| setup(&error))?;
        let disk = directory.path().join("root.img");
        provision::guest_disk(&disk, 64 << 20).map_err(|error| setup(&error))?;
        on_host(
            host,
            &format!(
                "rm -rf {DIRECTORY}; mkdir {DIRECTORY}; cp {LOCAL_ROOT}{} {DIRECTORY}/disk",
                path(&disk)?
            ),
        )?;
        let local = host.local(program).map_err(|error| text(&error))?;
        let exec = local
            .args(["--kernel", &path(&kernel.image)?])
            .args(["--initrd", &path(&initrd)?])
            .args(["--disk", &format!("{DIRECTORY}/disk"), "--tap", TAP])
            .args(["--serial", &format!("{DIRECTORY}/serial")])
            .args(["--socket", &format!("{DIRECTORY}/socket"), "--pty", "pty"])
            .stdin(Stdio::Pipe)
            .stderr(Stdio::File(format!("{DIRECTORY}/report")));
        let console = exec.console().map_err(|error| text(&error))?;
        let mut console = console.reject("Kernel panic").reject("Oops");
        let watch = Watch::begin(host, console.process().pid(), MEMORY_MIB);
        let watch = watch.map_err(|error| text(&error))?;
        let prompt = console.wait_for(GUEST_PROMPT, BOOT);
        prompt.map_err(|error| text(&error))?;
        on_host(
            host,
            &format!("ip addr add {HOST_ADDRESS}/24 dev {TAP}; ip link set {TAP} up"),
        )?;
        // Each stays for a while, reads what comes, and goes.
        let clients = format!(
            "pty=$(sed -n 's/^port pty: //p' {DIRECTORY}/report); \
             (while [ -e {DIRECTORY}/socket ]; do \
             timeout 2 {LOCAL_ROOT}{client} {DIRECTORY}/socket </dev/null >/dev/null 2>&1; echo left; sleep 0.5; done) & \
             while [ -e {DIRECTORY}/socket ]; do timeout 2 cat $pty >/dev/null 2>&1; echo left; sleep 0.3; done; wait"
        );
        let clients = host.exec(["sh", "-c", &clients]).spawn();
        Ok(Self {
            host,
            console,
            watch,
            clients: clients.map_err(|error| text(&error))?,
            sum: None,
            disk,
            _directory: directory,
        })
    }

    /// The text that a command prints in the guest, which has to succeed.
    fn run(&mut self, command: &str) -> Checked<String> {
        let output = self.console.run(command, STEP);
        let output = output.map_err(|error| text(&error))?;
        match output.code {
            0 => Ok(output.text),
            code => Err(format!(
                "`{command}` ends with {code}: {}",
                output.text.lines().last().unwrap_or_default()
            )),
        }
    }

    /// Has every hart and device work in the background, until the next reboot.
    pub(super) fn load(&mut self) -> Checked {
        self.configure_network()?;
        for work in [
            "while :; do :; done",
            "while :; do sleep 0.05; done",
            "while :; do seq 300 > /dev/ttyS0; sleep 0.5; done",
            "while :; do dd if=/dev/hwrng of=/dev/null bs=256 count=16; sleep 0.1; done",
            "while :; do dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct; sleep 0.2; done",
        ] {
            self.run(&format!("({work}) >/dev/null 2>&1 & true"))?;
        }
        // Ports that nobody reads make a writer wait.
        self.run(
            "for port in /dev/vport*; do (while :; do seq 300 > $port; sleep 0.2; done) >/dev/null 2>&1 & done; true",
        )?;
        Ok(())
    }

    fn configure_network(&mut self) -> Checked {
        self.run(&format!(
            "ip addr add {GUEST_ADDRESS}/24 dev eth0; ip link set eth0 up"
        ))?;
        self.run(&format!(
            "until ping -c 1 -W 2 {HOST_ADDRESS} >/dev/null; do sleep 0.1; done"
        ))?;
        Ok(())
    }

    /// Everything once.
    pub(super) fn round(&mut self, done: &mut Done) -> Checked {
        self.finds_its_file()?;
        let write = "head -c 2000000 /dev/urandom > /root/data; sync; md5sum < /root/data";
        self.sum = Some(self.run(write)?);
        self.finds_its_file()?;
        let pings = format!("ping -c {PACKETS} -i 0.1 -W 60 {HOST_ADDRESS}");
        let answers = self.run(&pings)?;
        if !answers.contains(&format!("{PACKETS} packets received")) || answers.contains("DUP") {
            return Err(format!("packets are lost: {answers}"));
        }
        done.packets += PACKETS;
        for driver in ["virtio_rng", "virtio_net"] {
            self.run(&format!(
                "cd /sys/bus/virtio/drivers/{driver} && device=$(echo virtio*) && echo $device > unbind && \
                 echo $device > bind && test -e $device; cd"
            ))?;
            done.rebinds += 1;
        }
        self.configure_network()?;
        // Ends only if a timer of each hart does.
        self.run("for cpu in 0 1 2 3; do taskset -c $cpu sleep 0.1 || exit 1; done")?;
        let complaints = self.run(&format!("dmesg | grep -E '{COMPLAINTS}'; true"))?;
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(format!("the guest's kernel complains: {complaints}")),
        }
    }

    /// Not in the page cache.
    fn finds_its_file(&mut self) -> Checked {
        let Some(before) = self.sum.clone() else {
            return Ok(());
        };
        let sum = self.run("echo 3 > /proc/sys/vm/drop_caches; md5sum < /root/data")?;
        match sum == before {
            true => Ok(()),
            false => Err("the guest reads something else than it wrote".into()),
        }
    }

    pub(super) fn reboot(&mut self) -> Checked {
        let mut reboot = || {
            self.console.send_line("reboot")?;
            self.console.wait_for(GUEST_GREETING, BOOT)?;
            self.console.wait_for(GUEST_PROMPT, BOOT)
        };
        reboot().map(drop).map_err(|error| text(&error))
    }

    /// Switches off, and judges what is left.
    pub(super) fn end(mut self, done: &mut Done) -> Checked {
        let off = self.console.send_line("poweroff");
        off.map_err(|error| text(&error))?;
        let end = self.console.wait_for_end(BOOT);
        let (status, _) = end.map_err(|error| text(&error))?;
        let report = on_host(self.host, &format!("cat {DIRECTORY}/report"))?;
        if status.code() != Some(0) {
            return Err(format!("the program ended with {status}: {report}"));
        }
        let pauses = report.split_once("PowerOff after ");
        let pauses = pauses.and_then(|(_, rest)| rest.split_once(' ')?.0.parse().ok());
        done.pauses =
            pauses.ok_or_else(|| format!("how often it was paused is not said: {report}"))?;
        let clients = self.clients.finish(STEP).map_err(|error| text(&error))?;
        done.clients = clients.stdout_text().lines().count() as u64;
        let samples = self.watch.finish().map_err(|error| text(&error))?;
        done.peak = samples.peak().to_string();
        let back = format!(
            "cp {DIRECTORY}/disk {LOCAL_ROOT}{}; rm -rf {DIRECTORY}",
            path(&self.disk)?
        );
        on_host(self.host, &back)?;
        if !samples.is_flat(SLACK) {
            return Err(format!("the program takes more and more: {samples:?}"));
        }
        let mut check = provision::e2fsck().map_err(|error| error.to_string())?;
        let checked = check.arg("-fn").arg(&self.disk).output();
        match checked.map_err(|error| error.to_string())?.status.success() {
            true => Ok(()),
            false => Err("the guest's file system is damaged".into()),
        }
    }
}
