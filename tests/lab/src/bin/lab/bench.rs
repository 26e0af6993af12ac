//! `cargo lab bench` and `cargo lab profile`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use hv_lab::bench::{self, Subject, Vmm, Work};
use hv_lab::host::HostChip;
use hv_lab::provision::cross_build;

use super::{EXIT_LAB, Failure};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// What to measure: start, boot, disk, console, harts, resident, network, growth; all by default.
    #[arg(value_name = "SUBJECT")]
    subjects: Vec<Subject>,
    /// The kind of host, aia or plic; both by default.
    #[arg(long, value_name = "KIND")]
    host: Option<HostChip>,
    /// Another VMM beside hvrun and QEMU: a static riscv64 binary of this machine. Where its name does not begin with hvrun or
    /// kvmtool, its arguments follow, with {kernel}, {cpus}, {memory} (MiB) and {cmdline}, and in brackets what is there for
    /// each initrd, disk, tap, vhost (a tap for vhost-net), and console (a file that a virtio console prints to); what has no
    /// group is not measured:
    /// --vmm 'mine=path/mine --image {kernel} [--initrd {initrd}] [--disk {disk}] --cpus {cpus} --ram {memory} --append {cmdline}'
    #[arg(long = "vmm", value_name = "NAME=PATH[ ARGUMENTS]")]
    vmms: Vec<Vmm>,
    /// Measure only these VMMs: hvrun, qemu, or the name of a --vmm; repeatable.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write the figures to this file as well: `conditions`, with names and values, and `figures`, each with `name`, `unit`,
    /// `hosts`, in which are values by kind of host and by VMM or `floor`, and `growth`, in which they are by size as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures, and prints the table.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let wrong = |message: String| Failure {
        message: format!("lab: {message}"),
        code: EXIT_LAB,
    };
    // What would show only after minutes.
    for vmm in &options.vmms {
        vmm.check().map_err(|error| wrong(error.to_string()))?;
    }
    let names = |name: &&String| {
        ["hvrun", "qemu"].contains(&name.as_str())
            || options.vmms.iter().any(|vmm| vmm.name == **name)
    };
    if let Some(other) = options.only.iter().find(|name| !names(name)) {
        return Err(wrong(format!(
            "--only {other}: there is no such VMM; it is hvrun, qemu, or the name of a --vmm"
        )));
    }
    let json = options.json.as_ref().map(|path| {
        let failed = |error| wrong(format!("{}: {error}", path.display()));
        File::create(path)
            .map(|file| (file, failed))
            .map_err(failed)
    });
    let json = json.transpose()?;
    let mut vmms = vec![Vmm::hvrun(cross_build("hvrun", "hvrun")?), Vmm::qemu()];
    vmms.extend(options.vmms.iter().cloned());
    if !options.only.is_empty() {
        vmms.retain(|vmm| options.only.contains(&vmm.name));
    }
    let subjects = match options.subjects.as_slice() {
        [] => &Subject::ALL,
        named => named,
    };
    let chips = match &options.host {
        Some(chip) => std::slice::from_ref(chip),
        None => &HostChip::USUAL,
    };
    let mut report = bench::run(subjects, chips, &vmms, &|line| eprintln!("lab: {line}"))?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    report.condition("command", &format!("cargo lab {}", words.join(" ")));
    print!("{report}");
    if let Some((mut file, failed)) = json {
        writeln!(file, "{:#}", report.json()).map_err(failed)?;
    }
    Ok(0)
}

/// What to profile.
#[derive(Debug, clap::Args)]
pub(super) struct ProfileOptions {
    /// `start`, `sbi` (64 times 64 KiB to the SBI console), `boot`, or a task of the lab's probe in a Linux guest:
    /// disk-read:/dev/vda:4096:1000:1 (bytes, requests, depth), disk-write, console:/dev/ttyS0:65536 (or /dev/hvc0),
    /// sleep:200000:500 or ping:500.
    #[arg(value_name = "WORK")]
    work: Work,
    /// The kind of host, aia or plic.
    #[arg(long, value_name = "KIND", default_value = "aia")]
    host: HostChip,
    /// Harts of a Linux guest.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    cpus: u32,
    /// Profile QEMU instead of hvrun.
    #[arg(long)]
    qemu: bool,
}

/// Profiles, and prints where the instructions went.
pub(super) fn profile(options: &ProfileOptions) -> Result<u8, Failure> {
    print!(
        "{}",
        bench::profile(&options.work, options.host, options.cpus, options.qemu)?
    );
    Ok(0)
}
