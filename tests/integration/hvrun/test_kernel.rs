//! The project's own test kernel, which asserts what the specifications say: on every machine that hvrun makes, and on
//! QEMU's emulation of the same board, so that the kernel is not made to hvrun's measure.
//!
//! What it finds wrong and hvrun cannot help is listed in the lab's library (`tests/lab/src/test_kernel/`), with the reason.
//! Everything else has to be right.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hv_lab::host::{Exec, Host, HostChip, HostKernel};
use hv_lab::provision;
use hv_lab::test_kernel::{Machine, Virtio, judge_console};
use tempfile::TempDir;

use crate::fixture::{STEP, chips, command, host, newest_host, oldest_host, text};

/// A disk for the kernel to read and write, and a file for what it prints on the virtio console.
struct Files {
    directory: TempDir,
    disk: String,
    console: String,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [disk, console] = ["disk.img", "console"].map(|name| directory.path().join(name));
        File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        Self {
            disk: text(&disk),
            console: text(&console),
            directory,
        }
    }

    fn assert_console(&self) {
        let printed = std::fs::read_to_string(&self.console).unwrap();
        judge_console(&printed).unwrap_or_else(|wrong| panic!("{wrong}: {printed}"));
    }
}

/// Fails if the kernel found anything else than it has to find on this machine.
fn assert_results(machine: Machine, printed: &str, code: Option<i32>) {
    let judged = machine.judge(printed, code);
    assert!(judged.is_ok(), "{machine:?}: {judged:?}\n{printed}");
}

/// The kernel's path.
pub fn kernel() -> String {
    text(&provision::test_kernel().unwrap())
}

/// Every number of harts with every version of virtio.
const VARIANTS: [(u32, Virtio); 4] = [
    (1, Virtio::Modern),
    (1, Virtio::Legacy),
    (4, Virtio::Modern),
    (4, Virtio::Legacy),
];

/// On a guest of hvrun's, on this host.
fn on_hvrun(host: &Host, chip: HostChip, harts: u32, virtio: Virtio) {
    judge_on_hvrun(host, Machine::hvrun(host.chip(), chip, harts, virtio));
}

/// On this machine of hvrun's.
pub fn judge_on_hvrun(host: &Host, machine: Machine) {
    judge_on_hvrun_with(host, machine, |exec| {
        let chip = if machine.chip.has_aia() {
            "aia"
        } else {
            "plic"
        };
        exec.args(["--irqchip", chip])
    });
}

/// The same, started as `how` says, which is to give the machine its chip.
pub fn judge_on_hvrun_with(host: &Host, machine: Machine, how: impl FnOnce(Exec) -> Exec) {
    let files = Files::new();
    let arguments = machine.hvrun_arguments(&kernel(), &files.disk, &files.console);
    let exec = command(host, arguments);
    let finished = how(exec).output(STEP).unwrap();
    assert_results(machine, &finished.stdout_text(), finished.status.code());
    files.assert_console();
}

#[test]
fn on_a_plic() {
    for (harts, virtio) in VARIANTS {
        on_hvrun(host(HostChip::Plic), HostChip::Plic, harts, virtio);
    }
}

#[test]
fn on_an_aia() {
    for (harts, virtio) in VARIANTS {
        on_hvrun(host(HostChip::Aia), HostChip::Aia, harts, virtio);
    }
}

/// The guest's IMSICs are the hardware's files, as far as there are any.
#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn on_an_aia_with_guest_interrupt_files() {
    let chip = HostChip::AiaFiles;
    for (harts, virtio) in [(2, Virtio::Modern), (4, Virtio::Legacy)] {
        on_hvrun(host(chip), chip, harts, virtio);
    }
}

#[test]
fn on_a_plic_where_the_host_has_an_aia() {
    on_hvrun(host(HostChip::Aia), HostChip::Plic, 2, Virtio::Modern);
}

/// The same on the newest kernel that there is for a host.
#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn on_hosts_with_the_newest_kernel() {
    for chip in chips() {
        let machine = Machine::hvrun(chip, chip, 4, Virtio::Modern);
        judge_on_hvrun(
            newest_host(chip),
            machine.on_host_kernel(HostKernel::Newest),
        );
    }
}

/// And on the oldest.
#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn on_a_host_with_the_oldest_kernel() {
    for (harts, virtio) in [(1, Virtio::Legacy), (4, Virtio::Modern)] {
        let machine = Machine::hvrun(HostChip::Plic, HostChip::Plic, harts, virtio);
        judge_on_hvrun(oldest_host(), machine.on_host_kernel(HostKernel::Oldest));
    }
}

/// What is typed at a virtio console arrives in the kernel, which reports on the serial port meanwhile.
#[test]
fn what_is_typed_at_a_virtio_console() {
    const TYPED: &str = "a.line";
    for (chip, version) in [(HostChip::Plic, "legacy"), (HostChip::Aia, "modern")] {
        let report = Files::new();
        let serial = format!("serial,to=file:{}", report.console);
        let line = format!("test=console-receives typed={TYPED}");
        let mut guest = command(host(chip), ["--kernel", &kernel(), "--cmdline", &line])
            .args(["--console", "virtio", "--console", &serial])
            .args(["--virtio", version])
            .console()
            .unwrap();
        guest.wait_for(&format!("# type: {TYPED}\n"), STEP).unwrap();
        guest.send(TYPED).unwrap();
        let (status, _) = guest.wait_for_end(STEP).unwrap();
        let report = std::fs::read_to_string(&report.console).unwrap();
        assert_eq!(status.code(), Some(0), "{report}");
        assert!(
            report.contains("ok console-receives-what-is-typed"),
            "{report}"
        );
    }
}

/// What the kernel fails with is what hvrun ends with.
#[test]
fn a_failure_is_the_exit_code() {
    let kernel = kernel();
    for chip in chips() {
        let finished = command(host(chip), ["--kernel", &kernel, "--cmdline", "fail=42"])
            .output(STEP)
            .unwrap();
        assert_eq!(finished.status.code(), Some(42), "{finished}");
        assert_eq!(finished.stdout_text(), "");
    }
}

/// Harts that start each other while one of them resets the machine, or switches it off in the end.
#[test]
fn a_race_between_harts_delays_no_end() {
    for chip in chips() {
        let kernel = kernel();
        let finished = command(host(chip), ["--kernel", &kernel, "--cmdline", "race=10"])
            .args(["--cpus", "4"])
            .output(STEP)
            .unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished}");
        let printed = finished.stdout_text();
        assert!(printed.ends_with("race 10"), "{printed}");
    }
}

/// On QEMU's own emulation, without hvrun.
fn on_qemu(chip: HostChip) {
    let kernel = kernel();
    for (harts, virtio) in VARIANTS {
        let machine = Machine::qemu(chip, harts, virtio);
        let files = Files::new();
        let output = files.directory.path().join("output");
        let mut qemu = provision::qemu().unwrap().command();
        qemu.args([
            "-M",
            match chip {
                HostChip::Plic => "virt",
                HostChip::Aia | HostChip::AiaFiles => "virt,aia=aplic-imsic",
            },
        ]);
        qemu.args(["-m", "256M", "-smp", &harts.to_string()])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            .args(["-kernel", &kernel, "-append", &machine.command_line()])
            .args(devices(&files, virtio))
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            // What it says of the device that the kernel abuses.
            .stderr(Stdio::null());
        let code = run(&mut qemu);
        let printed = String::from_utf8_lossy(&std::fs::read(&output).unwrap()).into_owned();
        assert_results(machine, &printed, code);
        files.assert_console();
    }
}

/// QEMU's arguments for the disk and the virtio console.
fn devices(files: &Files, virtio: Virtio) -> Vec<String> {
    let Files { disk, console, .. } = files;
    [
        "-drive",
        &format!("file={disk},format=raw,if=none,id=disk"),
        "-device",
        "virtio-blk-device,drive=disk",
        "-chardev",
        &format!("file,id=console,path={console}"),
        "-device",
        "virtio-serial-device",
        "-device",
        "virtconsole,chardev=console",
        "-global",
        &format!("virtio-mmio.force-legacy={}", virtio == Virtio::Legacy),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A QEMU that ends with the test that started it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs QEMU to its end, and gives its exit code; `None` if it did not come in time.
fn run(qemu: &mut Command) -> Option<i32> {
    let mut running = Running(qemu.spawn().unwrap());
    let started = Instant::now();
    while started.elapsed() < STEP {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status.code();
        }
        sleep(Duration::from_millis(20));
    }
    None
}

/// On QEMU by the KVM of this host, as hvrun is. Once, because it is slow: to print a line takes it up to 100 ms there.
fn on_qemu_by_kvm(chip: HostChip, virtio: Virtio) {
    const HARTS: u32 = 2;
    let host = host(chip);
    let machine = Machine::qemu_by_kvm(chip, HARTS, virtio);
    let files = Files::new();
    let finished = host
        .qemu()
        .unwrap()
        .args([
            "-M",
            match chip {
                HostChip::Plic => "virt",
                HostChip::Aia | HostChip::AiaFiles => "virt,aia=aplic-imsic",
            },
        ])
        .args(["-accel", "kvm", "-cpu", "host", "-m", "256M"])
        .args(["-smp", &HARTS.to_string()])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .args(["-kernel", &kernel(), "-append", &machine.command_line()])
        .args(devices(&files, virtio))
        .output(STEP)
        .unwrap();
    assert_results(machine, &finished.stdout_text(), finished.status.code());
    files.assert_console();
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn on_qemu_by_kvm_with_a_plic() {
    on_qemu_by_kvm(HostChip::Plic, Virtio::Legacy);
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn on_qemu_by_kvm_with_an_aia() {
    on_qemu_by_kvm(HostChip::Aia, Virtio::Modern);
}

#[test]
fn on_qemu_with_a_plic() {
    on_qemu(HostChip::Plic);
}

#[test]
fn on_qemu_with_an_aia() {
    on_qemu(HostChip::Aia);
}
