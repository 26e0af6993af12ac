//! What runs in each cell of the matrix: a Linux guest with disk, network and both consoles, then the test kernel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{Cell, Outcome, reason};
use crate::host::{Console, ExitStatus, Host};
use crate::provision::{self, DebianKernel, GUEST_GREETING, GUEST_PROMPT};
use crate::test_kernel::{Machine, Virtio, judge_console};

/// Until a guest's shell is there, on a slow and busy machine.
const BOOT: Duration = Duration::from_secs(300);

/// For anything else.
pub(super) const STEP: Duration = Duration::from_secs(240);

const HARTS: u32 = 2;
const TAP: &str = "hvmatrix";
const HOST_ADDRESS: &str = "10.77.0.1";
const GUEST_ADDRESS: &str = "10.77.0.2";
const MARK: &str = "printed by the virtio console";

/// A check's result: what the table says of it, or one line that says why it failed.
type Checked = std::result::Result<String, String>;

/// Makes all checks, in the order of [`Check::ALL`](super::Check::ALL).
pub(super) fn all(host: &Host, cell: Cell, hvrun: &Path) -> [Outcome; 6] {
    let [boot, disk, network, consoles, reboot] = linux(host, cell, hvrun);
    let test_kernel = outcome(test_kernel(host, cell, hvrun));
    [boot, disk, network, consoles, reboot, test_kernel]
}

fn outcome(checked: Checked) -> Outcome {
    match checked {
        Ok(remark) => Outcome::Passed(remark),
        Err(reason) => Outcome::Failed(reason),
    }
}

/// Makes the checks of the Linux guest, up to the first that fails.
fn linux(host: &Host, cell: Cell, hvrun: &Path) -> [Outcome; 5] {
    let mut outcomes = std::array::from_fn(|_| Outcome::NotMade);
    let mut guest = match Guest::boot(host, hvrun) {
        Ok(guest) => guest,
        Err(reason) => {
            outcomes[0] = Outcome::Failed(reason);
            return outcomes;
        }
    };
    let checks: [&dyn Fn(&mut Guest) -> Checked; 5] = [
        &|guest| guest.machine(cell),
        &Guest::disk,
        &|guest| guest.network(host),
        &Guest::consoles,
        &Guest::reboot_and_end,
    ];
    for (check, place) in checks.into_iter().zip(&mut outcomes) {
        *place = outcome(check(&mut guest));
        if matches!(place, Outcome::Failed(_)) {
            break;
        }
    }
    outcomes
}

/// A Linux guest at its prompt.
struct Guest {
    console: Console,
    disk: PathBuf,
    /// What its virtio console prints.
    output: PathBuf,
    /// Of the file that it wrote.
    sum: String,
    _directory: TempDir,
}

impl Guest {
    fn boot(host: &Host, hvrun: &Path) -> std::result::Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let kernel =
            provision::debian_kernel(DebianKernel::Stable).map_err(|error| text(&error))?;
        let initrd = provision::guest_initrd(&kernel).map_err(|error| text(&error))?;
        let directory = tempfile::tempdir().map_err(|error| text(&error))?;
        let disk = directory.path().join("root.img");
        provision::guest_disk(&disk, 64 << 20).map_err(|error| text(&error))?;
        let output = directory.path().join("virtio-console");
        let hvrun = host.local(hvrun).map_err(|error| reason(&error))?;
        let exec = hvrun
            .args(["--kernel", &path(&kernel.image)?])
            .args(["--initrd", &path(&initrd)?])
            .args(["--disk", &path(&disk)?])
            .args(["--net", &format!("tap={TAP}")])
            .args(["--console", "serial"])
            .args(["--console", &format!("virtio,to=file:{}", path(&output)?)])
            // Else the kernel prints on the virtio console as well.
            .args(["--cmdline", "console=ttyS0 root=/dev/vda rw"])
            .args(["--cpus", &HARTS.to_string()]);
        let console = exec.console().map_err(|error| reason(&error))?;
        let mut console = console.reject("Kernel panic").reject("Oops");
        let prompt = console.wait_for(GUEST_PROMPT, BOOT);
        prompt.map_err(|error| reason(&error))?;
        Ok(Self {
            console,
            disk,
            output,
            sum: String::new(),
            _directory: directory,
        })
    }

    /// The text that a command prints in the guest, which has to succeed.
    fn run(&mut self, command: &str) -> Checked {
        let output = self.console.run(command, STEP);
        let output = output.map_err(|error| reason(&error))?;
        match output.code {
            0 => Ok(output.text),
            code => Err(format!(
                "`{command}` ends with {code}: {}",
                output.text.lines().last().unwrap_or_default()
            )),
        }
    }

    fn machine(&mut self, cell: Cell) -> Checked {
        let harts = self.run("nproc")?;
        if harts != HARTS.to_string() {
            return Err(format!("the guest has {harts} harts, not {HARTS}"));
        }
        let (chip, driver) = match cell.chip.has_aia() {
            true => ("AIA", "APLIC-MSI"),
            false => ("PLIC", "SiFive PLIC"),
        };
        let interrupts = self.run("grep virtio0 /proc/interrupts")?;
        match interrupts.contains(driver) {
            true => Ok(format!("ok, {chip}")),
            false => Err(format!("the guest's interrupt chip is no {chip}")),
        }
    }

    fn disk(&mut self) -> Checked {
        let write = "head -c 1000000 /dev/urandom > /root/data; sync; md5sum < /root/data";
        self.sum = self.run(write)?;
        self.finds_its_file()
    }

    /// Not in the page cache.
    fn finds_its_file(&mut self) -> Checked {
        let sum = self.run("echo 3 > /proc/sys/vm/drop_caches; md5sum < /root/data")?;
        match sum == self.sum {
            true => Ok(String::new()),
            false => Err("the guest reads something else than it wrote".into()),
        }
    }

    fn network(&mut self, host: &Host) -> Checked {
        let on_host = |line: &str| {
            let finished = host.exec(["sh", "-c", line]).check(STEP);
            finished.map_err(|error| reason(&error))
        };
        on_host(&format!(
            "ip addr add {HOST_ADDRESS}/24 dev {TAP}; ip link set {TAP} up"
        ))?;
        self.run(&format!(
            "ip addr add {GUEST_ADDRESS}/24 dev eth0; ip link set eth0 up; ping -c 3 {HOST_ADDRESS}"
        ))?;
        on_host(&format!("ping -c 3 -s 1400 {GUEST_ADDRESS}"))?;
        Ok(String::new())
    }

    fn consoles(&mut self) -> Checked {
        // The serial port is where the commands come from.
        if self.run("tty")? != "/dev/ttyS0" {
            return Err("the shell is not on the serial port".into());
        }
        self.run(&format!("echo {MARK} > /dev/hvc0"))?;
        let started = std::time::Instant::now();
        loop {
            let printed = fs::read(&self.output).map_err(|error| error.to_string())?;
            if String::from_utf8_lossy(&printed).contains(MARK) {
                return Ok(String::new());
            }
            if started.elapsed() > STEP {
                return Err("the virtio console prints nothing".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn reboot_and_end(&mut self) -> Checked {
        self.reboot().map_err(|error| reason(&error))?;
        self.finds_its_file()?;
        let status = self.power_off().map_err(|error| reason(&error))?;
        if status.code() != Some(0) {
            return Err(format!("hvrun ended with {status}"));
        }
        let mut check = provision::e2fsck().map_err(|error| error.to_string())?;
        let checked = check.arg("-fn").arg(&self.disk).output();
        match checked.map_err(|error| error.to_string())?.status.success() {
            true => Ok(String::new()),
            false => Err("the guest's file system is damaged".into()),
        }
    }

    fn reboot(&mut self) -> crate::host::Result<()> {
        self.console.send_line("reboot")?;
        self.console.wait_for(GUEST_GREETING, BOOT)?;
        self.console.wait_for(GUEST_PROMPT, BOOT).map(drop)
    }

    fn power_off(&mut self) -> crate::host::Result<ExitStatus> {
        self.console.send_line("poweroff")?;
        Ok(self.console.wait_for_end(STEP)?.0)
    }
}

fn test_kernel(host: &Host, cell: Cell, hvrun: &Path) -> Checked {
    let kernel = provision::test_kernel().map_err(|error| error.to_string())?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let [disk, console] = ["disk", "console"].map(|name| directory.path().join(name));
    let made = File::create(&disk).and_then(|file| file.set_len(1 << 20));
    made.map_err(|error| error.to_string())?;
    let machine = Machine::hvrun(cell.chip, cell.chip, HARTS, Virtio::Modern);
    let machine = machine.on_host_kernel(cell.kernel);
    let arguments = machine.hvrun_arguments(&path(&kernel)?, &path(&disk)?, &path(&console)?);
    let hvrun = host.local(hvrun).map_err(|error| reason(&error))?;
    let finished = hvrun.args(arguments).output(STEP);
    let finished = finished.map_err(|error| reason(&error))?;
    let printed = finished.stdout_text();
    let report = machine.judge(&printed, finished.status.code())?;
    let printed = fs::read(&console).map_err(|error| error.to_string())?;
    judge_console(&String::from_utf8_lossy(&printed))?;
    Ok(format!(
        "{} ok, {} known",
        report.passed,
        report.failed.len()
    ))
}

fn path(path: &Path) -> Checked {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("the path {} is not UTF-8", path.display()))
}
