//! The bare-metal hypervisor for a person at a terminal: `cargo hvrun --bare`, with hvrun's own arguments, and `cargo lab bare`
//! for bundles of several guests.
//!
//! At a terminal, this process becomes QEMU in the end, so that terminal, signals and exit code are QEMU's.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{IsTerminal, stdin};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::thread;

use clap::{CommandFactory, FromArgMatches, Parser};
use hv_devices::virtio::block;
use hv_lab::bare::bundle::{self, Device, Guest, Needs};
use hv_lab::bare::{Disk, Machine, pipe};
use hv_lab::host::HostChip;
use hv_lab::provision::{self, Qemu};
use hv_vmm::{BootFile, BootFiles, Config, IrqchipChoice, Sandbox, VirtioVersion};
use hvrun_cli::{Choice, Consoles, To};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tempfile::TempDir;

use super::default_guest::{self, DefaultGuest};
use super::{EXIT_LAB, Failure, chosen_chip};

/// The option that asks for this.
const OPTION: &str = "--bare";

/// hvrun's exit codes for what it cannot do, and for a command line that is wrong.
const EXIT_HVRUN: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Boots a guest on hv-bare, a hypervisor without a host operating system, in QEMU.
///
/// The options are hvrun's, except those that need a host operating system. Without --kernel and --firmware, they are for the
/// default guest, a small Linux that boots from a disk.
#[derive(Debug, Parser)]
#[command(
    name = "cargo hvrun",
    bin_name = "cargo hvrun",
    max_term_width = 100,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    override_usage = "cargo hvrun --bare [--kernel FILE] [--disk FILE]... [OPTIONS]"
)]
struct BareArgs {
    /// Run the guest on the bare-metal hypervisor.
    #[arg(long, help_heading = "Bare metal")]
    bare: bool,

    /// When the guest ends, print how often and why the hypervisor was entered.
    #[arg(long, help_heading = "Bare metal")]
    statistics: bool,

    #[command(flatten)]
    hvrun: hvrun_cli::Args,
}

/// Whether hvrun's arguments ask for the bare-metal flavor.
pub(super) fn is_meant(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == OPTION)
}

/// The arguments; ends the process where they are wrong, or ask for help.
fn parse(arguments: &[String]) -> BareArgs {
    // hvrun's commands are for its own host.
    let command = BareArgs::command().mut_subcommands(|command| command.hide(true));
    let program = ["cargo hvrun".to_owned()];
    let matches = command.try_get_matches_from(program.iter().chain(arguments));
    let args = matches.and_then(|matches| BareArgs::from_arg_matches(&matches));
    args.unwrap_or_else(|error| error.exit())
}

/// `cargo hvrun --bare`.
pub(super) fn hvrun(arguments: &[String]) -> Result<u8, Failure> {
    let mut args = parse(arguments);
    if let Some(problem) = refusal(&args.hvrun) {
        return Err(usage(problem));
    }
    let mut announcement = None;
    if default_guest::is_meant(&args.hvrun) {
        let guest = DefaultGuest::prepare()?;
        let place = "under hv-bare in QEMU";
        announcement = Some(guest.announcement(&args.hvrun, place));
        args = parse(&guest.arguments(&args.hvrun, arguments)?);
    }
    let statistics = args.statistics;
    let args = args.hvrun;
    hvrun_cli::start_log(args.log_level);
    let config = config(args)?;
    let files = BootFiles::open(&config).map_err(hvrun_failure)?;
    let disks = disks(&config)?;
    let directory = TempDir::new()?;
    let guest = guest(&config, &files, &disks, directory.path())?;
    let source = directory.path().join("bundle.dts");
    fs::write(&source, bundle::source(&[guest], statistics))?;
    let chip = chosen_chip(HostChip::Plic)?;
    let (qemu, hypervisor) = qemu_and_hypervisor()?;
    let (bundle, needs) = compile_for_qemu(&source, directory, &[])?;
    if let Some(announcement) = announcement {
        eprintln!("{announcement} ({chip}); Ctrl-a x leaves");
    }
    let machine = Machine {
        legacy_virtio: config.virtio == VirtioVersion::Legacy,
        disks,
        ..machine(chip, needs)
    };
    run_qemu(&qemu, &machine, &hypervisor, &bundle, &[])
}

/// `cargo lab bundle`.
pub(super) fn bundle(source: &Path, output: &Path) -> Result<u8, Failure> {
    let files = lab_files(source)?;
    compile(source, &files, output)?;
    Needs::of(output)?;
    Ok(0)
}

/// `cargo lab bare`.
pub(super) fn run(bundle: &Path, arguments: &[OsString]) -> Result<u8, Failure> {
    let chip = chosen_chip(HostChip::Plic)?;
    let (qemu, hypervisor) = qemu_and_hypervisor()?;
    let is_source = bundle
        .extension()
        .is_some_and(|extension| extension == "dts");
    let (bundle, needs) = if is_source {
        compile_for_qemu(bundle, TempDir::new()?, &lab_files(bundle)?)?
    } else {
        (bundle.to_owned(), Needs::of(bundle)?)
    };
    let machine = machine(chip, needs);
    run_qemu(&qemu, &machine, &hypervisor, &bundle, arguments)
}

/// The first thing among the arguments that the bare-metal flavor cannot do, in words for the user.
fn refusal(args: &hvrun_cli::Args) -> Option<String> {
    let serial_only = |choice: &Choice| *choice == Choice::Serial(To::Stdio);
    let other_version =
        |version: Option<VirtioVersion>| version.is_some_and(|own| own != args.virtio.0);
    let cannot = |what: &str| Some(format!("{what} does not go with {OPTION}"));
    if args.command.is_some() {
        return cannot("a command");
    }
    if !args.nets.is_empty() {
        return cannot("--net");
    }
    if args.rng {
        return cannot("--rng");
    }
    if args.vsock.is_some() {
        return cannot("--vsock");
    }
    if args.hugepages {
        return cannot("--hugepages");
    }
    if !args.consoles.iter().all(serial_only) {
        return cannot("another --console than the serial port on this terminal");
    }
    if args.irqchip.0 == IrqchipChoice::Aia {
        return cannot("--irqchip aia").map(|text| text + ": its guests have a PLIC");
    }
    if args.sandbox.0 != Sandbox::On {
        return cannot("--sandbox").map(|text| text + ": it is no process of a system");
    }
    if args.no_reboot {
        return cannot("--no-reboot").map(|text| text + ": the hypervisor starts a guest again");
    }
    if args.dump_dtb.is_some() {
        return cannot("--dump-dtb").map(|text| text + ": it makes the guest's tree when it boots");
    }
    if args
        .disks
        .iter()
        .any(|disk| other_version(disk.location.version))
    {
        return cannot("a disk with other registers than the rest")
            .map(|text| text + "; give all of them --virtio");
    }
    if (args.disks.iter()).any(|disk| disk.kind.on_error != hv_vmm::OnError::default()) {
        return cannot("on-error=").map(|text| text + ": its disks are QEMU's");
    }
    if !args.memory.is_multiple_of(1 << 20) {
        return cannot("--memory that is not whole MiB");
    }
    None
}

/// The machine as hvrun would have it.
fn config(args: hvrun_cli::Args) -> Result<Config, Failure> {
    let payload = args.payload().map_err(usage)?;
    // The serial port is stdin and stdout, which QEMU opens.
    let consoles = Consoles::new(&[]).map_err(usage)?;
    Ok(args.config(payload, consoles, None, None, None)?)
}

/// The machine's disks, each in the slot in which the guest has it.
fn disks(config: &Config) -> Result<Vec<Disk>, Failure> {
    let disks = config.disks().map_err(hvrun_failure)?;
    let disk = |(disk, slot): (&hv_vmm::DiskConfig, u32)| {
        // QEMU locks it for as long as it runs. Here is what hvrun would say.
        drop(block::Raw::open(&disk.path, disk.readonly, disk.format).map_err(hvrun_failure)?);
        Ok(Disk {
            path: std::path::absolute(&disk.path)?,
            slot,
            readonly: disk.readonly,
            serial: disk.serial.to_string(),
        })
    };
    disks.into_iter().map(disk).collect()
}

/// The guest of a bundle in `directory`, where its files are.
fn guest(
    config: &Config,
    files: &BootFiles,
    disks: &[Disk],
    directory: &Path,
) -> Result<Guest, Failure> {
    let device = |(number, disk): (usize, &Disk)| Device {
        name: format!("disk{number}"),
        host: disk.node(),
        slot: Some(disk.slot),
    };
    let initrd = files.initrd.as_ref();
    let tree = config.dtb.as_deref();
    Ok(Guest {
        name: "main".into(),
        harts: config.cpus,
        memory_mib: u32::try_from(config.memory >> 20).unwrap_or(u32::MAX),
        identity: !disks.is_empty(),
        kernel: put(&files.payload, directory, "kernel")?,
        initrd: initrd
            .map(|file| put(file, directory, "initrd"))
            .transpose()?,
        device_tree: tree
            .map(|file| link(file, directory, "device-tree"))
            .transpose()?,
        command_line: (config.command_line.clone()).or_else(|| config.implied_command_line()),
        getchar_empty: i32::try_from(config.getchar_empty).unwrap_or(-1),
        devices: disks.iter().enumerate().map(device).collect(),
    })
}

/// Has the contents of a file under `name` in a directory, and returns the name.
fn put(file: &BootFile, directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    match &file.unpacked {
        Some(bytes) => {
            fs::write(directory.join(name), bytes)?;
            Ok(name.into())
        }
        None => link(&file.path, directory, name),
    }
}

fn link(file: &Path, directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    symlink(std::path::absolute(file)?, directory.join(name))?;
    Ok(name.into())
}

/// For a source that takes files of `lab/` in, a directory with these: kernel and initrd of the guest that boots without any
/// argument.
fn lab_files(source: &Path) -> Result<Vec<TempDir>, Failure> {
    let text = fs::read(source).map_err(|error| Failure {
        message: format!("lab: cannot read {}: {error}", source.display()),
        code: EXIT_LAB,
    })?;
    if !String::from_utf8_lossy(&text).contains("(\"lab/") {
        return Ok(Vec::new());
    }
    let guest = DefaultGuest::prepare()?;
    let (kernel, initrd) = guest.kernel_and_initrd();
    let arguments = [OsString::from("hvrun"), "--kernel".into(), kernel.into()];
    let args = hvrun_cli::Args::try_parse_from(arguments)?;
    let files = BootFiles::open(&config(args)?).map_err(hvrun_failure)?;
    let directory = TempDir::new()?;
    let lab = directory.path().join("lab");
    fs::create_dir(&lab)?;
    put(&files.payload, &lab, "Image")?;
    link(initrd, &lab, "initrd")?;
    Ok(vec![directory])
}

fn compile(source: &Path, files: &[TempDir], output: &Path) -> Result<(), Failure> {
    let mut directories = vec![Path::new(".")];
    directories.extend(files.iter().map(TempDir::path));
    Ok(bundle::compile(source, &directories, output)?)
}

/// Compiles a bundle that is gone when QEMU is. Returns its path for QEMU.
fn compile_for_qemu(
    source: &Path,
    directory: TempDir,
    files: &[TempDir],
) -> Result<(PathBuf, Needs), Failure> {
    let path = directory.path().join("bundle.dtb");
    compile(source, files, &path)?;
    let needs = Needs::of(&path)?;
    let file = File::open(&path)?;
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
    directory.close()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // It stays open until QEMU has ended.
    std::mem::forget(file);
    Ok((path.into(), needs))
}

fn qemu_and_hypervisor() -> Result<(Qemu, PathBuf), Failure> {
    thread::scope(|scope| {
        let qemu = scope.spawn(provision::qemu);
        let hypervisor = provision::bare_hypervisor()?;
        let qemu = qemu.join();
        let qemu = qemu.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((qemu, hypervisor))
    })
}

fn machine(chip: HostChip, needs: Needs) -> Machine {
    Machine {
        terminal: stdin().is_terminal(),
        ..Machine::new(chip, needs.harts, needs.memory_mib)
    }
}

/// Runs QEMU, and returns its exit code.
fn run_qemu(
    qemu: &Qemu,
    machine: &Machine,
    hypervisor: &Path,
    bundle: &Path,
    arguments: &[OsString],
) -> Result<u8, Failure> {
    let mut command = qemu.command();
    machine.boot(&mut command, hypervisor, bundle);
    command.args(arguments);
    if machine.terminal {
        return Err(command.exec().into());
    }
    let status = pipe::run(&mut command)?;
    let code = (status.code()).or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(EXIT_LAB))
}

/// What hvrun would say, as hvrun says it.
fn hvrun_failure(error: impl Into<hv_vmm::Error>) -> Failure {
    Failure {
        message: format!("hvrun: {}", hvrun_cli::message(&error.into())),
        code: EXIT_HVRUN,
    }
}

fn usage(problem: impl std::fmt::Display) -> Failure {
    Failure {
        message: format!("hvrun: {problem} (see cargo hvrun {OPTION} --help)"),
        code: EXIT_USAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> BareArgs {
        BareArgs::try_parse_from(["cargo hvrun"].iter().chain(arguments)).unwrap()
    }

    #[test]
    fn the_options_are_hvruns_and_two_more() {
        BareArgs::command().debug_assert();
        let bare: Vec<_> = BareArgs::command()
            .get_arguments()
            .map(|argument| argument.get_id().to_string())
            .filter(|id| !["bare", "statistics"].contains(&id.as_str()))
            .collect();
        let hvruns: Vec<_> = hvrun_cli::Args::command()
            .get_arguments()
            .map(|argument| argument.get_id().to_string())
            .collect();
        assert_eq!(bare, hvruns);
    }

    #[test]
    fn what_it_cannot_do_is_refused() {
        for (arguments, word) in [
            (&["doctor"][..], "command"),
            (&["--net", "tap=tap0"], "--net"),
            (&["--rng"], "--rng"),
            (&["--vsock", "cid=3,path=x"], "--vsock"),
            (&["--console", "virtio"], "--console"),
            (&["--console", "serial,to=pty"], "--console"),
            (&["--console", "none"], "--console"),
            (&["--irqchip", "aia"], "--irqchip aia"),
            (&["--no-reboot"], "--no-reboot"),
            (&["--sandbox", "off"], "--sandbox"),
            (&["--dump-dtb", "x"], "--dump-dtb"),
            (&["--disk", "a,virtio=legacy"], "--virtio"),
            (&["--memory", "100K"], "--memory"),
            (&["--disk", "a,on-error=stop"], "on-error="),
        ] {
            let args = parsed(arguments).hvrun;
            let problem = refusal(&args).unwrap();
            assert!(problem.contains(word), "{problem}");
            assert!(problem.contains("--bare"), "{problem}");
        }
        for arguments in [
            &["--bare", "--kernel", "Image", "--cpus", "4"][..],
            &["--console", "serial", "--irqchip", "plic"],
            &["--virtio", "legacy", "--disk", "a,virtio=legacy,slot=3"],
            &["--firmware", "u-boot.bin", "--getchar-empty", "0"],
        ] {
            assert_eq!(refusal(&parsed(arguments).hvrun), None);
        }
    }

    #[test]
    fn a_guest_is_what_hvrun_would_boot() {
        let directory = TempDir::new().unwrap();
        let disk = directory.path().join("disk.img");
        fs::write(&disk, [0; 512]).unwrap();
        let kernel = directory.path().join("flat.bin");
        fs::write(&kernel, [0x13; 512]).unwrap();
        let files = TempDir::new().unwrap();
        let (kernel, disk) = (kernel.to_str().unwrap(), disk.to_str().unwrap());
        let with_slot = format!("{disk},slot=5,readonly=on,serial=abc");
        let args = parsed(&["--kernel", kernel, "--cpus", "3", "--disk", &with_slot]).hvrun;
        let config = config(args).unwrap();
        let boot_files = BootFiles::open(&config).unwrap();
        let disks = disks(&config).unwrap();
        assert_eq!((disks[0].slot, &*disks[0].serial), (5, "abc"));
        let guest = guest(&config, &boot_files, &disks, files.path()).unwrap();
        let command_line = guest.command_line.as_deref();
        assert_eq!(command_line, Some("console=ttyS0 root=/dev/vda ro"));
        assert_eq!((guest.harts, guest.memory_mib), (3, 512));
        assert!(guest.identity);
        assert_eq!(guest.devices[0].host, "/soc/virtio_mmio@10006000");
        assert_eq!(guest.devices[0].slot, Some(5));
        let contents = fs::read(files.path().join(guest.kernel)).unwrap();
        assert_eq!(contents, [0x13; 512]);
    }
}
