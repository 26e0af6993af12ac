//! The command line.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use hv_vmm::{
    Config, DeviceConfig, DiskConfig, InputFilter, IrqchipChoice, NetConfig, Payload, RngConfig,
    Sandbox, VirtioVersion, VsockConfig,
};

use crate::console::{Choice, Consoles, parse_console};
use crate::device::{Located, parse_disk, parse_net, parse_vsock};
use crate::{doctor, manual};

/// Boots a guest under KVM on a RISC-V Linux host.
///
/// The guest's console is on stdin and stdout, usually this terminal, unless --console says otherwise. The end of stdin
/// does not end the guest. If the guest reboots, hvrun boots it again. If it powers off, hvrun ends.
#[derive(Debug, Parser)]
#[command(
    name = "hvrun",
    version,
    after_help = manual::MORE,
    after_long_help = manual::after_long_help(),
    max_term_width = 100,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    override_usage = "hvrun --kernel FILE [--disk FILE]... [OPTIONS]\n       hvrun COMMAND"
)]
pub struct Args {
    /// A command other than booting a guest.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The kernel: a RISC-V Image, EFI zboot file, ELF file or flat binary, plain or compressed by gzip or zstd.
    ///
    /// A flat binary is loaded and entered at 0x80200000, an ELF file at the addresses that it names.
    #[arg(long, value_name = "FILE", help_heading = "What to boot")]
    pub kernel: Option<PathBuf>,

    /// A firmware for supervisor mode, such as U-Boot, instead of a kernel.
    ///
    /// It finds its kernel on the disks. The file formats are those of --kernel.
    #[arg(long, value_name = "FILE", help_heading = "What to boot")]
    pub firmware: Option<PathBuf>,

    /// An initial RAM disk, passed unchanged unless it is a single gzip or zstd stream.
    ///
    /// Such a stream is unpacked, for kernels that cannot do so, if the result fits into a third of the guest's free memory.
    #[arg(long, value_name = "FILE", help_heading = "What to boot")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line [default: what --console implies, and with a disk root=/dev/vda rw].
    ///
    /// Without --console this is console=ttyS0. With --firmware or --dtb there is no default.
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "What to boot",
        allow_hyphen_values = true
    )]
    pub cmdline: Option<String>,

    /// A disk: a raw image or a block device; up to 8 times, the first is the guest's vda.
    ///
    /// readonly=on keeps the guest from writing. format=raw uses a file as it is, even if it looks like a container such as
    /// qcow2. serial= is the disk's serial number, at most 20 bytes. on-error= says what becomes of a request that the host cannot
    /// carry out: with report the guest sees an I/O error, with stop the guest is paused until Ctrl-a p or SIGCONT, and then the
    /// request is repeated, with enospc only if the host has no space left [default: report]. slot= is the virtio-mmio slot, 0 to 7
    /// from 0x10001000 on, and virtio= the version of its registers (see --virtio). A comma in the path is written twice.
    #[arg(
        long = "disk",
        value_name = "FILE[,readonly=on][,format=raw][,serial=ID][,on-error=stop][,slot=N][,virtio=VERSION]",
        value_parser = parse_disk,
        value_hint = ValueHint::FilePath,
        help_heading = "What to boot"
    )]
    pub disks: Vec<Located<DiskConfig>>,

    /// A network interface, repeatable, connected to the host's tap interface NAME.
    ///
    /// If the tap does not exist, hvrun creates it for as long as the guest runs, if you have the permission. mac= is the
    /// guest's address [default: random]. mtu= is the longest IP packet that the guest may send, in bytes [default: the tap's
    /// MTU]. vhost= says who moves the packets: on is the host's kernel by vhost-net, off is hvrun, auto is the kernel if it has
    /// vhost-net [default: auto]. slot= and virtio= are as for --disk.
    #[arg(
        long = "net",
        value_name = "tap=NAME[,mac=ADDRESS][,mtu=BYTES][,vhost=WHEN][,slot=N][,virtio=VERSION]",
        value_parser = parse_net,
        help_heading = "The machine"
    )]
    pub nets: Vec<Located<NetConfig>>,

    /// The guest's console, repeatable: serial, virtio, both or none [default: serial].
    ///
    /// serial is the UART (in Linux ttyS0). virtio is a virtio console (hvc0), which knows the terminal's size. both is
    /// "serial,to=pty" and "virtio". none is no console. With virtio alone, the UART's output appears there as well, for
    /// kernels whose virtio console driver is a module. to= is the back end: stdio (this terminal, for one console at most),
    /// file:PATH (output only; emptied when the guest starts), pty (a pseudo-terminal, whose path is printed), or unix:PATH (a
    /// listening socket, for one client at a time, accessible to this user only). virtio,port=NAME,to=END is a named channel
    /// (/dev/virtio-ports/NAME) and no console. slot= and virtio= are as for --disk.
    #[arg(
        long = "console",
        value_name = "KIND[,to=END][,port=NAME][,slot=N][,virtio=VERSION]",
        value_parser = parse_console,
        help_heading = "The machine"
    )]
    pub consoles: Vec<Choice>,

    /// Add a virtio entropy device with the host's random numbers, in Linux /dev/hwrng.
    ///
    /// Without it, the guest still starts with a random seed in its device tree.
    #[arg(long, help_heading = "The machine")]
    pub rng: bool,

    /// A vsock: connections between programs of the guest and Unix sockets of the host.
    ///
    /// cid= is the guest's address, 3 or more. A program of the host connects to the socket at PATH, which hvrun makes, sends CONNECT,
    /// a space, the guest's port and a newline, and reads a line that begins with OK. A program of the guest that connects to the host
    /// (CID 2), port P, gets the socket at PATH_P. This is Firecracker's convention. slot= and virtio= are as for --disk. A comma in the
    /// path is written twice.
    #[arg(
        long,
        value_name = "cid=N,path=PATH[,slot=N][,virtio=VERSION]",
        value_parser = parse_vsock,
        help_heading = "The machine"
    )]
    pub vsock: Option<Located<VsockConfig>>,

    /// Number of the guest's harts [default: 1].
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        hide_default_value = true,
        help_heading = "The machine"
    )]
    pub cpus: u32,

    /// Size of the guest's memory: a number with K, M, G or T, or MiB without a unit [default: 512M].
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "512M",
        hide_default_value = true,
        value_parser = parse_size,
        help_heading = "The machine"
    )]
    pub memory: u64,

    /// Take the guest's memory from the 2 MiB huge pages that the host has reserved (vm.nr_hugepages).
    ///
    /// KVM then maps the memory by 2 MiB instead of 4 KiB: the guest boots and runs faster. The pages are in use from the
    /// guest's start to its end. From Linux 7.0 on, KVM maps transparent huge pages in the same way without this option.
    #[arg(long, help_heading = "The machine")]
    pub hugepages: bool,

    /// End with exit code 4 when the guest resets itself, instead of booting it again.
    #[arg(long, help_heading = "The machine")]
    pub no_reboot: bool,

    /// The interrupt chip: aia (in KVM), plic (in hvrun), or auto [default: auto].
    ///
    /// auto is an AIA if the host's KVM can create one, else a PLIC.
    #[arg(
        long,
        value_name = "KIND",
        default_value = "auto",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "The machine"
    )]
    pub irqchip: Irqchip,

    /// The virtio-mmio registers of all slots: modern (version 2) or legacy (version 1) [default: modern].
    ///
    /// legacy is for guests that do not know version 2.
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "modern",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "The machine"
    )]
    pub virtio: Virtio,

    /// What legacy SBI getchar returns if no key was pressed: -1, or 0 for guests such as rCore [default: -1].
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = -1,
        hide_default_value = true,
        allow_hyphen_values = true,
        value_parser = clap::value_parser!(i64).range(-1..=0),
        help_heading = "The machine"
    )]
    pub getchar_empty: i64,

    /// Use this device tree instead of the generated one, with --cmdline and --initrd entered in it.
    ///
    /// It must describe the machine that the other options make: start from what --dump-dtb writes.
    #[arg(long, value_name = "FILE", help_heading = "The machine")]
    pub dtb: Option<PathBuf>,

    /// What hvrun gives up before the guest starts, in case the guest takes it over: on, log or off [default: on].
    ///
    /// on drops all capabilities, allows each thread only the system calls of its role (seccomp), and no file to be opened (Landlock,
    /// where the host has it). Any other system call ends hvrun with exit code 159. log gives up nothing, and
    /// warns of each call that on would refuse, by its name and its thread's. off gives up nothing.
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "on",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "Isolation"
    )]
    pub sandbox: SandboxMode,

    /// Write the guest's device tree to FILE (- is stdout) and end without running the guest.
    #[arg(long, value_name = "FILE", help_heading = "Looking inside")]
    pub dump_dtb: Option<PathBuf>,

    /// Which messages go to stderr: off, error, warn, info, debug or trace [default: warn].
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "warn",
        hide_default_value = true,
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
            .try_map(|level| level.parse::<log::LevelFilter>()),
        help_heading = "Looking inside"
    )]
    pub log_level: log::LevelFilter,

    /// Print this help.
    #[arg(short, long, action = ArgAction::Help, help_heading = "Looking inside")]
    help: Option<bool>,

    /// Print the version.
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Looking inside")]
    version: Option<bool>,
}

impl Args {
    /// Parses a command line, which begins with the program's name.
    ///
    /// # Errors
    /// If the arguments are wrong, or ask for help or for the version by an argument of its own. (To clap alone, `-hda
    /// disk.img` asks for help, because it begins with `-h`.)
    pub fn from_command_line(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Args, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        Args::try_parse_from(&arguments).map_err(|error| {
            let letter = match error.kind() {
                ErrorKind::DisplayHelp => 'h',
                ErrorKind::DisplayVersion => 'V',
                _ => return error,
            };
            let arguments = || {
                arguments
                    .iter()
                    .skip(1)
                    .filter_map(|argument| argument.to_str())
            };
            let asked = |argument: &str| ["-h", "--help", "-V", "--version"].contains(&argument);
            let cluster = arguments().find(|argument| {
                let letters = argument.strip_prefix('-');
                letters.is_some_and(|letters| letters.starts_with(letter) && letters.len() > 1)
            });
            match cluster {
                Some(cluster) if !arguments().any(asked) => Args::command().error(
                    ErrorKind::UnknownArgument,
                    format!("unexpected argument '{cluster}' found: options have two dashes here"),
                ),
                _ => error,
            }
        })
    }
    /// What to boot.
    ///
    /// # Errors
    /// A message for the user, if there is nothing to boot, or both a kernel and a firmware.
    pub fn payload(&self) -> Result<Payload, &'static str> {
        match (&self.kernel, &self.firmware) {
            (Some(kernel), None) => Ok(Payload::Kernel(kernel.clone())),
            (None, Some(firmware)) if self.initrd.is_none() => {
                Ok(Payload::Firmware(firmware.clone()))
            }
            (None, None) => Err(
                "nothing to boot: name a kernel with --kernel FILE, or a firmware with --firmware FILE",
            ),
            (Some(_), Some(_)) => Err(
                "--kernel and --firmware exclude each other: a firmware finds its kernel on a --disk",
            ),
            (None, Some(_)) => {
                Err("--initrd goes with --kernel: a firmware finds its initrd where its kernel is")
            }
        }
    }

    /// The machine that boots `payload`, with these consoles. It ends when `stop` becomes readable, and the size of its terminal
    /// may have changed when `resized` does. `filter` sees what comes from stdin.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn config(
        self,
        payload: Payload,
        consoles: Consoles,
        resized: Option<OwnedFd>,
        filter: Option<Arc<dyn InputFilter>>,
        stop: Option<OwnedFd>,
    ) -> std::io::Result<Config> {
        let (serial, console) = consoles.config(resized, filter)?;
        let disks = self.disks.into_iter().map(Located::config);
        let nets = self.nets.into_iter().map(Located::config);
        let rng = self.rng.then(|| DeviceConfig::from(RngConfig::default()));
        let vsock = self.vsock.map(Located::config);
        let mut config = Config::new(payload)
            .cpus(self.cpus)
            .memory(self.memory)
            .hugepages(self.hugepages)
            .irqchip(self.irqchip.0)
            .virtio(self.virtio.0)
            .getchar_empty(self.getchar_empty)
            .sandbox(self.sandbox.0)
            .no_reboot(self.no_reboot);
        config.initrd = self.initrd;
        config.dtb = self.dtb;
        config.command_line = self.cmdline;
        config.serial = serial;
        // They get their slots in this order.
        config.devices = (disks.chain(nets).chain(rng).chain(console))
            .chain(vsock)
            .collect();
        config.stop = stop;
        Ok(config)
    }
}

/// What hvrun does apart from booting guests.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check what this host can do, with advice about what is missing.
    ///
    /// Each line is ok, note (worth knowing, or absent without harm) or missing. The exit code is 0 if a guest can be booted,
    /// else 1.
    #[command(after_long_help = doctor::json_help())]
    Doctor {
        /// Print the report as JSON, for programs; --help documents its keys.
        #[arg(long)]
        json: bool,

        /// -h and --help.
        #[command(flatten)]
        help: HelpFlag,
    },

    /// Print the manual page in roff, for man.
    Man {
        /// -h and --help.
        #[command(flatten)]
        help: HelpFlag,
    },

    /// Print the completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,

        /// -h and --help.
        #[command(flatten)]
        help: HelpFlag,
    },
}

/// Every command has it.
#[derive(Debug, clap::Args)]
pub struct HelpFlag {
    /// Print this help.
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// `--irqchip`'s values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Irqchip(pub IrqchipChoice);

impl ValueEnum for Irqchip {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Irqchip(IrqchipChoice::Auto),
            Irqchip(IrqchipChoice::Aia),
            Irqchip(IrqchipChoice::Plic),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self.0 {
            IrqchipChoice::Auto => "auto",
            IrqchipChoice::Aia => "aia",
            IrqchipChoice::Plic => "plic",
        }))
    }
}

/// `--virtio`'s values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtio(pub VirtioVersion);

impl ValueEnum for Virtio {
    fn value_variants<'a>() -> &'a [Self] {
        &[Virtio(VirtioVersion::Modern), Virtio(VirtioVersion::Legacy)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self.0 {
            VirtioVersion::Modern => "modern",
            VirtioVersion::Legacy => "legacy",
        }))
    }
}

/// `--sandbox`'s values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxMode(pub Sandbox);

impl ValueEnum for SandboxMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            SandboxMode(Sandbox::On),
            SandboxMode(Sandbox::Log),
            SandboxMode(Sandbox::Off),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self.0 {
            Sandbox::On => "on",
            Sandbox::Log => "log",
            Sandbox::Off => "off",
        }))
    }
}

/// Bytes, from a number with a unit; MiB without one, as users of QEMU and kvmtool expect.
fn parse_size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str =
        "expected a whole number and K, M, G or T, such as 512M, or 1536M for one and a half G";
    let split = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit
        .to_ascii_uppercase()
        .trim_end_matches('B')
        .trim_end_matches('I')
    {
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(EXPECTED.into()),
    };
    let number: u64 = digits.parse().map_err(|_| EXPECTED)?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "more bytes than 64 bits can count".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let args = Args::parse_from(["hvrun", "--kernel", "Image"]);
        assert_eq!(args.cpus, 1);
        assert_eq!(args.memory, 512 << 20);
        assert_eq!(args.irqchip.0, IrqchipChoice::Auto);
        assert_eq!(args.virtio.0, VirtioVersion::Modern);
        assert_eq!(args.log_level, log::LevelFilter::Warn);
        assert!(!args.rng && !args.hugepages && !args.no_reboot);
        assert_eq!(args.sandbox.0, Sandbox::On);
        assert!(args.disks.is_empty() && args.cmdline.is_none());
        assert!(args.command.is_none());
    }

    #[test]
    fn help_is_asked_for_by_an_argument_of_its_own() {
        let kind = |arguments: &[&str]| {
            let arguments = ["hvrun"].iter().chain(arguments);
            let parsed = Args::from_command_line(arguments.map(OsString::from));
            let error = parsed.unwrap_err();
            (error.kind(), error.exit_code())
        };
        for arguments in [
            &["-h"][..],
            &["--help"],
            &["-hda", "x", "--help"],
            &["doctor", "-h"],
        ] {
            assert_eq!(
                kind(arguments),
                (ErrorKind::DisplayHelp, 0),
                "{arguments:?}"
            );
        }
        assert_eq!(kind(&["-V"]), (ErrorKind::DisplayVersion, 0));
        for arguments in [
            &["-hda", "disk.img"][..],
            &["--kernel", "Image", "-hdb", "x"],
            &["-Verbose"],
        ] {
            assert_eq!(
                kind(arguments),
                (ErrorKind::UnknownArgument, 2),
                "{arguments:?}"
            );
        }
        let arguments = ["hvrun", "--kernel", "Image", "--cmdline", "-hello"];
        assert!(Args::from_command_line(arguments.map(OsString::from)).is_ok());
    }

    #[test]
    fn commands_stand_alone() {
        let args = Args::parse_from(["hvrun", "doctor", "--json"]);
        assert!(matches!(
            args.command,
            Some(Command::Doctor { json: true, .. })
        ));
        let args = Args::parse_from(["hvrun", "completions", "zsh"]);
        assert!(matches!(
            args.command,
            Some(Command::Completions {
                shell: Shell::Zsh,
                ..
            })
        ));
        for wrong in [
            &["hvrun", "--cpus", "2", "doctor"][..],
            &["hvrun", "doctor", "--cpus", "2"],
            &["hvrun", "completions"],
            &["hvrun", "Image"],
        ] {
            assert!(Args::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }

    /// `-h` is for a glance, `--help` for reading; both group every option by what it is about.
    #[test]
    fn every_option_has_help_and_a_heading() {
        let mut command = Args::command();
        command.build();
        for argument in command.get_arguments() {
            let id = argument.get_id();
            let help = argument.get_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(!help.is_empty(), "{id}");
            assert!(help.chars().count() <= 110, "{id} is no summary: {help}");
            assert!(argument.get_help_heading().is_some(), "{id}");
        }
        for command in command.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}", argument.get_id());
            }
        }
    }

    #[test]
    fn the_long_help_fits_into_100_columns() {
        let help = Args::command()
            .term_width(100)
            .render_long_help()
            .to_string();
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(help.contains("Exit codes:") && help.contains("Ctrl-a x"));
        let short = Args::command().term_width(100).render_help().to_string();
        assert!(short.lines().count() < help.lines().count());
        assert!(!short.contains("Exit codes:") && short.contains("hvrun --help"));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("512"), Ok(512 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("64K"), Ok(64 << 10));
        assert_eq!(parse_size("0"), Ok(0));
        for wrong in [
            "",
            "M",
            "1X",
            "-1",
            "1.5G",
            "99999999999999999999",
            "17000000T",
        ] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        let error = parse_size("1.5G").unwrap_err();
        assert!(error.contains("whole number") && error.contains("1536M"));
    }
}
