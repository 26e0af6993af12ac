//! On the bare-metal hypervisor, in a QEMU of its own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::printed::Counts;
use super::{Attack, Honest, Judged, Survived};
use crate::bare::bundle::{self, Device, Guest, Needs};
use crate::bare::{Disk, Machine};
use crate::host::HostChip;
use crate::provision;

/// For everything to come to its end, beyond its time.
const MORE: Duration = Duration::from_secs(300);

/// The interrupt chip of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareChip {
    /// A PLIC.
    Plic,
    /// An APLIC that interrupts the harts itself.
    AplicDirect,
    /// An APLIC and IMSICs.
    Aia,
}

impl BareChip {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plic, Self::AplicDirect, Self::Aia];

    fn host_chip(self) -> HostChip {
        match self {
            Self::Plic | Self::AplicDirect => HostChip::Plic,
            Self::Aia => HostChip::Aia,
        }
    }
}

impl std::fmt::Display for BareChip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plic => "plic",
            Self::AplicDirect => "aplic",
            Self::Aia => "aia",
        })
    }
}

/// A QEMU that ends with whoever started it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(error: &dyn std::fmt::Display) -> String {
    error.to_string()
}

fn guest(name: &str, kernel: &Path, harts: u32, command_line: String) -> Guest {
    Guest {
        name: name.into(),
        harts,
        memory_mib: 96,
        identity: false,
        kernel: kernel.into(),
        initrd: None,
        device_tree: None,
        command_line: Some(command_line),
        getchar_empty: -1,
        devices: Vec::new(),
    }
}

/// Has a guest attack the hypervisor on this machine, with one that works on its disk and one that watches its memory beside it. The
/// adversary has no device with DMA, as whoever has one is trusted there; the one that works has the disk.
///
/// # Errors
/// One line that says what is wrong, with what was printed below it.
pub fn on_bare_metal(chip: BareChip, attack: &Attack) -> Judged<Survived> {
    let kernel = provision::test_kernel().map_err(|error| text(&error))?;
    let directory = tempfile::tempdir().map_err(|error| text(&error))?;
    let [image, source, bundle, output] =
        ["disk", "bundle.dts", "bundle", "output"].map(|name| directory.path().join(name));
    let made = File::create(&image).and_then(|file| file.set_len(64 << 10));
    made.map_err(|error| text(&error))?;
    let disk = Disk {
        path: image.clone(),
        slot: 0,
        readonly: false,
        serial: String::new(),
    };
    let (seconds, line) = (attack.seconds, attack.command_line(""));
    let mut honest = guest("honest", &kernel, 1, format!("honest={seconds}"));
    honest.identity = true;
    honest.devices.push(Device {
        name: "disk".into(),
        host: disk.node(),
        slot: None,
    });
    let guests = [
        guest("evil", &kernel, 3, line),
        honest,
        guest("holds", &kernel, 1, format!("pattern={seconds}")),
    ];
    fs::write(&source, bundle::source(&guests, false)).map_err(|error| text(&error))?;
    bundle::compile(&source, &[], &bundle).map_err(|error| text(&error))?;
    let needs = Needs::of(&bundle).map_err(|error| text(&error))?;
    let machine = Machine {
        disks: vec![disk],
        ..Machine::new(chip.host_chip(), needs.harts, needs.memory_mib)
    };
    let mut qemu = provision::qemu().map_err(|error| text(&error))?.command();
    let hypervisor = provision::bare_hypervisor().map_err(|error| text(&error))?;
    machine.boot(&mut qemu, &hypervisor, &bundle);
    if chip == BareChip::AplicDirect {
        qemu.args(["-machine", "aia=aplic"]);
    }
    let file = || File::create(&output).map_err(|error| text(&error));
    qemu.stdin(Stdio::null())
        .stdout(file()?)
        .stderr(Stdio::null());
    let mut running = Running(qemu.spawn().map_err(|error| text(&error))?);
    let limit = Instant::now() + MORE + Duration::from_secs(seconds);
    let status = loop {
        match running.0.try_wait().map_err(|error| text(&error))? {
            Some(status) => break Some(status),
            None if Instant::now() > limit => break None,
            None => sleep(Duration::from_millis(50)),
        }
    };
    let printed = fs::read(&output).map_err(|error| text(&error))?;
    let printed = String::from_utf8_lossy(&printed).replace('\r', "");
    let disk = fs::read(&image).map_err(|error| text(&error))?;
    let judged = match status {
        None => Err("the machine does not come to its end".into()),
        Some(status) if !status.success() => Err(format!("the machine ended with {status}")),
        Some(_) => judge(&printed, attack, &disk),
    };
    judged.map_err(|wrong| format!("{wrong}\n{}", shown(&printed)))
}

fn judge(printed: &str, attack: &Attack, disk: &[u8]) -> Judged<Survived> {
    for name in ["evil", "honest", "holds"] {
        let end = format!("hv-bare: guest {name} has ended with code 0\n");
        if !printed.contains(&end) {
            return Err(format!("the guest {name:?} did not end with code 0"));
        }
    }
    Ok(Survived {
        counts: Counts::parse(&text_of(printed, "evil"), attack, "")?,
        honest: Honest::parse(&text_of(printed, "honest"), disk)?,
        taken: String::new(),
    })
}

/// What a guest printed, without its name and without line ends: some are where another guest printed in between.
fn text_of(printed: &str, guest: &str) -> String {
    let prefix = format!("[{guest}] ");
    let lines = printed.lines();
    lines
        .filter_map(|line| line.strip_prefix(&prefix))
        .collect()
}

/// What a person reads of it: the lines of the hypervisor and the honest guests, and the end of the adversary's.
fn shown(printed: &str) -> String {
    const LINES: usize = 60;
    let noise = |line: &&str| line.starts_with("[evil] ") && !line.contains("hostile: ");
    let lines: Vec<_> = printed.lines().filter(|line| !noise(line)).collect();
    let start = lines.len().saturating_sub(LINES);
    lines.get(start..).unwrap_or_default().join("\n")
}
