//! The command line.

use std::path::PathBuf;

use clap::builder::{PossibleValue, Styles};
use clap::{ArgAction, Parser, ValueEnum};
use hv_vmm::{DiskConfig, IrqchipChoice, NetConfig, VirtioVersion};

use crate::console::{Choice, parse_console};
use crate::device::{parse_disk, parse_net};

/// What `--help` says after the options.
const AFTER_HELP: &str = "\
Keys, when the console is a terminal:
  Ctrl-a x  end the virtual machine
  Ctrl-a h  list the keys
  Ctrl-a a  send Ctrl-a to the guest

Exit codes:
  0      the guest powered off, or Ctrl-a x ended it
  1      hvrun could not start or continue the guest; the reason is on stderr
  2      the command line is wrong
  3      the guest powered off and reported a system failure
  N      the guest reported failure N through the test device: the code's low 8 bits, 1 if they are 0
  128+N  ended by signal N (130 SIGINT, 143 SIGTERM, 129 SIGHUP)

Example:
  hvrun --kernel Image --disk rootfs.img";

/// Boots a guest under KVM on a RISC-V Linux host.
///
/// The guest's console is this terminal, or whatever stdin and stdout are, unless --console says otherwise; the end of
/// stdin does not end the guest. A guest that reboots is booted again, one that powers off ends hvrun.
#[derive(Debug, Parser)]
#[command(
    name = "hvrun",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    styles = Styles::plain(),
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "hvrun --kernel FILE [--disk FILE]... [OPTIONS]"
)]
pub struct Args {
    /// The kernel: a RISC-V Image, Image.gz, EFI zboot or ELF file.
    #[arg(long, value_name = "FILE", help_heading = "What to boot")]
    pub kernel: Option<PathBuf>,

    /// An initial RAM disk.
    #[arg(long, value_name = "FILE", help_heading = "What to boot")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line [default: console=ttyS0, or what --console implies, and with a disk root=/dev/vda rw].
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "What to boot",
        allow_hyphen_values = true
    )]
    pub cmdline: Option<String>,

    /// A disk: a raw image or a block device; up to 8 times, the first is the guest's vda. readonly=on keeps the guest from
    /// writing, serial= is at most 20 bytes, slot= and virtio= are where a guest looks for it: slots 0 to 7 from
    /// 0x10001000 on, and the version of its registers (see --virtio). A comma in the path is written twice.
    #[arg(
        long = "disk",
        value_name = "FILE[,readonly=on][,serial=TEXT][,slot=N][,virtio=VERSION]",
        value_parser = parse_disk,
        help_heading = "What to boot"
    )]
    pub disks: Vec<DiskConfig>,

    /// A network interface, repeatable: the other end of the host's tap interface NAME, which is made for as long as the
    /// guest runs if there is none and you may. mac= is the guest's address [default: random]; slot= and virtio= as for
    /// --disk.
    #[arg(
        long = "net",
        value_name = "tap=NAME[,mac=ADDRESS][,slot=N][,virtio=VERSION]",
        value_parser = parse_net,
        help_heading = "The machine"
    )]
    pub nets: Vec<NetConfig>,

    /// The guest's console, repeatable [default: serial]. serial is the UART (in Linux ttyS0), virtio a virtio console
    /// (hvc0) that knows the terminal's size, both is "serial,to=pty" and "virtio", none is no console. to= is its other
    /// end: stdio (this terminal, for one console at most), file:PATH (output only), pty (a pseudo-terminal, whose path is
    /// printed), unix:PATH (a socket to connect to, for one client at a time). virtio,port=NAME,to=END is a channel by that
    /// name (/dev/virtio-ports/NAME) and no console; slot= and virtio= as for --disk.
    #[arg(
        long = "console",
        value_name = "KIND[,to=END][,port=NAME][,slot=N][,virtio=VERSION]",
        value_parser = parse_console,
        help_heading = "The machine"
    )]
    pub consoles: Vec<Choice>,

    /// Give the guest random numbers of the host's by a virtio entropy device, in Linux /dev/hwrng. Without it a guest still
    /// starts with a seed in its device tree.
    #[arg(long, help_heading = "The machine")]
    pub rng: bool,

    /// Harts of the guest [default: 1].
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        hide_default_value = true,
        help_heading = "The machine"
    )]
    pub cpus: u32,

    /// Memory of the guest, with K, M, G or T behind the number, MiB without [default: 512M].
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "512M",
        hide_default_value = true,
        value_parser = parse_size,
        help_heading = "The machine"
    )]
    pub memory: u64,

    /// The interrupt chip: aia (KVM's), plic, or auto, an AIA where the host has it and else a PLIC [default: auto].
    #[arg(
        long,
        value_name = "KIND",
        default_value = "auto",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "The machine"
    )]
    pub irqchip: Irqchip,

    /// The virtio-mmio registers of all slots: modern (version 2), or legacy (version 1) for guests that know no other
    /// [default: modern].
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "modern",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "The machine"
    )]
    pub virtio: Virtio,

    /// Write the guest's device tree to FILE and end, without running the guest.
    #[arg(long, value_name = "FILE", help_heading = "Looking inside")]
    pub dump_dtb: Option<PathBuf>,

    /// How much hvrun tells on stderr: off, error, warn, info, debug or trace [default: warn].
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "warn",
        hide_default_value = true,
        hide_possible_values = true,
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

/// Bytes, from a number with a unit; MiB without one, as users of QEMU and kvmtool expect.
fn parse_size(text: &str) -> Result<u64, String> {
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
        _ => return Err("expected a number and K, M, G or T, such as 512M".into()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected a number and K, M, G or T, such as 512M")?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "more bytes than 64 bits can count".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
        assert!(!args.rng);
        assert!(args.disks.is_empty() && args.cmdline.is_none());
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
    }
}
