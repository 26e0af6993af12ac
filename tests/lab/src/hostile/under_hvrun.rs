//! Under hvrun, in a nested host.

use std::path::Path;
use std::time::Duration;

use super::printed::Counts;
use super::{Attack, Honest, Judged, Survived, WITHOUT_UNDER_KVM};
use crate::host::{Error, FinishedProcess, Host, Process};
use crate::provision;
use crate::test_kernel::Virtio;
use crate::watch::{Sample, Samples, Watch};

/// For a guest to come to its end, beyond its time. The nested host may be shared, on a busy machine.
const MORE: Duration = Duration::from_secs(300);

/// Of the adversary's machine, MiB.
const MEMORY_MIB: u32 = 128;

/// Its harts.
const HARTS: u32 = 4;

/// What hvrun may take at most, whatever its guest does. It has four vCPUs, six devices with threads, and what it opens for them;
/// its binary's pages count as well.
const LIMIT: Sample = Sample {
    descriptors: 160,
    threads: 32,
    resident_kib: 32 << 10,
};

/// What the second half of a run may take more than the first.
const SLACK: Sample = Sample {
    descriptors: 8,
    threads: 2,
    resident_kib: 4 << 10,
};

/// Bytes of messages. Each message becomes rarer as it repeats.
const MAX_LOG: usize = 64 << 10;

/// Directory of the nested host for images, in memory.
const DIRECTORY: &str = "/dev/shm";

/// KiB of the honest guest's disk.
const HONEST_KIB: u32 = 64;

fn text(error: &Error) -> String {
    error.to_string()
}

fn on_host_shell(host: &Host, line: &str) -> Judged<()> {
    let finished = host.exec(["sh", "-c", line]).check(MORE);
    finished.map(drop).map_err(|error| text(&error))
}

fn kernel() -> Judged<String> {
    let path = provision::test_kernel().map_err(|error| error.to_string())?;
    Ok(path.to_string_lossy().into_owned())
}

/// Starts the adversary with every kind of device. `name` tells its files from others'.
fn start(
    host: &Host,
    hvrun: &Path,
    attack: &Attack,
    virtio: Virtio,
    name: &str,
) -> Judged<Process> {
    let disk = format!("{DIRECTORY}/{name}");
    on_host_shell(
        host,
        &format!(
            "truncate -s 2M {disk}.img; dd if=/dev/urandom of={disk}-readonly.img bs=64k count=32 2>/dev/null"
        ),
    )?;
    let version = match virtio {
        Virtio::Legacy => "legacy",
        Virtio::Modern => "modern",
    };
    let exec = host.local(hvrun).map_err(|error| text(&error))?;
    let exec = exec
        .args(["--kernel", &kernel()?])
        .args(["--cmdline", &attack.command_line(WITHOUT_UNDER_KVM)])
        .args(["--cpus", &HARTS.to_string()])
        .args(["--memory", &format!("{MEMORY_MIB}M")])
        .args(["--disk", &format!("{disk}.img")])
        .args(["--disk", &format!("{disk}-readonly.img,readonly=on")])
        .args(["--net", &format!("tap={name}a,vhost=off")])
        .args(["--net", &format!("tap={name}b,vhost=on")])
        .args(["--console", "serial"])
        .args(["--console", &format!("virtio,to=unix:{disk}.socket")])
        .args([
            "--console",
            &format!("virtio,port=port,to=file:{disk}.port"),
        ])
        .args(["--rng", "--virtio", version]);
    exec.spawn().map_err(|error| text(&error))
}

/// Starts the honest guest.
fn start_honest(host: &Host, hvrun: &Path, seconds: u64, name: &str) -> Judged<Process> {
    let disk = format!("{DIRECTORY}/{name}-honest.img");
    on_host_shell(host, &format!("truncate -s {HONEST_KIB}K {disk}"))?;
    let exec = host.local(hvrun).map_err(|error| text(&error))?;
    let exec = exec
        .args(["--kernel", &kernel()?, "--memory", "64M", "--disk", &disk])
        .args(["--cmdline", &format!("honest={seconds}")]);
    exec.spawn().map_err(|error| text(&error))
}

fn finish_honest(host: &Host, honest: Process, seconds: u64, name: &str) -> Judged<Honest> {
    let finished = honest.finish(MORE + Duration::from_secs(seconds));
    let finished = finished.map_err(|error| text(&error))?;
    let disk = host.read_file(&format!("{DIRECTORY}/{name}-honest.img"));
    let disk = disk.map_err(|error| text(&error))?;
    let honest = Honest::parse(&finished.stdout_text(), &disk);
    let honest = honest.map_err(|wrong| format!("{wrong}\n{finished}"))?;
    match finished.status.code() {
        Some(0) => Ok(honest),
        _ => Err(format!("the honest guest's hvrun ended badly\n{finished}")),
    }
}

fn remove(host: &Host, name: &str) -> Judged<()> {
    on_host_shell(host, &format!("rm -f {DIRECTORY}/{name}[.-]*"))
}

/// Has a guest with every kind of device attack hvrun on this host, and an honest one work beside it.
///
/// # Errors
/// One line that says what is wrong, with what was printed below it.
pub fn on_host(host: &Host, hvrun: &Path, attack: &Attack, virtio: Virtio) -> Judged<Survived> {
    let name = match virtio {
        Virtio::Legacy => "evill",
        Virtio::Modern => "evilm",
    };
    let adversary = start(host, hvrun, attack, virtio, name)?;
    let watch = Watch::begin(host, adversary.pid(), MEMORY_MIB);
    let watch = watch.map_err(|error| text(&error))?;
    let honest = start_honest(host, hvrun, attack.seconds, name)?;
    // It has what comes in read, and thrown away.
    on_host_shell(
        host,
        &format!("for tap in {name}a {name}b; do ip link set $tap up; done 2>/dev/null; true"),
    )?;
    let finished = adversary.finish(MORE + Duration::from_secs(attack.seconds));
    let finished = finished.map_err(|error| text(&error))?;
    let samples = watch.finish().map_err(|error| text(&error))?;
    let honest = finish_honest(host, honest, attack.seconds, name)?;
    remove(host, name)?;
    let judged = judge(&finished, attack, &samples);
    let (counts, taken) = judged.map_err(|wrong| format!("{wrong}\n{}", end_of(&finished)))?;
    Ok(Survived {
        counts,
        honest,
        taken,
    })
}

fn judge(
    finished: &FinishedProcess,
    attack: &Attack,
    samples: &Samples,
) -> Judged<(Counts, String)> {
    if finished.status.code() != Some(0) {
        return Err(format!("hvrun ended with {}", finished.status));
    }
    let counts = Counts::parse(&finished.stdout_text(), attack, WITHOUT_UNDER_KVM)?;
    let (peak, log) = (samples.peak(), finished.stderr.len());
    let taken = format!("hvrun: at most {peak}; {log} bytes of messages");
    let bounded = peak.descriptors <= LIMIT.descriptors
        && peak.threads <= LIMIT.threads
        && peak.resident_kib <= LIMIT.resident_kib
        && log <= MAX_LOG;
    if !bounded {
        return Err(format!("hvrun took too much: {taken}"));
    }
    match samples.is_flat(SLACK) {
        true => Ok((counts, taken)),
        false => Err(format!("hvrun took more and more: {samples:?}")),
    }
}

/// The messages, and the end of what came out of the serial port.
fn end_of(finished: &FinishedProcess) -> String {
    const SHOWN: usize = 4000;
    let printed = finished.stdout_text();
    let start = printed.ceil_char_boundary(printed.len().saturating_sub(SHOWN));
    format!(
        "[stderr]\n{}\n[end of stdout]\n{}",
        finished.stderr_text(),
        printed.get(start..).unwrap_or_default()
    )
}
