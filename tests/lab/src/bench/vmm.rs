//! How a VMM is started.

use std::path::PathBuf;

use object::{Architecture, File, Object};

/// A VMM to measure.
#[derive(Debug, Clone)]
pub struct Vmm {
    /// Its name in the table.
    pub name: String,
    /// Its binary on this machine: static, for riscv64. `None` is the lab's own QEMU.
    pub program: Option<PathBuf>,
    /// Its arguments.
    pub template: Template,
}

/// The arguments that make a VMM run a machine: words, in which `{kernel}`, `{cpus}`, `{memory}` (MiB) and `{cmdline}` are filled in, and
/// groups in square brackets, which are there once for each `{initrd}`, `{disk}`, `{tap}`, `{vhost}` (a tap whose packets the
/// host's kernel moves) or `{console}` (a file, for the output of a virtio console) that the machine has; `{n}` is its
/// number. A group that begins with the variable and a colon, as `[{console}: --virtio-console]`, is there for each without
/// naming it: such a console prints where the VMM does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Word(String),
    /// The variable that makes it, and the words.
    Group(&'static str, Vec<String>),
}

/// What a machine has any number of.
const REPEATED: [&str; 5] = ["{initrd}", "{disk}", "{tap}", "{vhost}", "{console}"];

/// A VMM that cannot be started that way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmmError {
    /// It is neither known nor described.
    #[error(
        "{0:?}: give NAME=PATH, where NAME begins with hvrun or kvmtool, or NAME=PATH ARGUMENTS, as in --help"
    )]
    Unknown(String),
    /// Brackets.
    #[error(
        "{0:?}: each [group] ends, holds no other, and has one of {{initrd}}, {{disk}}, {{tap}}, {{vhost}} and {{console}}"
    )]
    Group(String),
    /// Its binary.
    #[error("{}: {problem}", path.display())]
    Program {
        /// Where it was to be.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The machine that a VMM is to make.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) initrd: Option<String>,
    pub(super) command_line: String,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    pub(super) disks: Vec<String>,
    /// A tap interface of the host's whose packets the VMM moves.
    pub(super) tap: Option<String>,
    /// One whose packets the host's kernel moves, by vhost-net.
    pub(super) vhost: Option<String>,
    /// Where a virtio console leads.
    pub(super) console: Option<String>,
}

const HVRUN: &str = "--kernel {kernel} [--initrd {initrd}] [--disk {disk}] [--net tap={tap},vhost=off] [--net tap={vhost},vhost=on] \
                     --cpus {cpus} --memory {memory}M --console serial [--console virtio,to=file:{console}] --cmdline {cmdline}";

const QEMU: &str = "-M virt -accel kvm -cpu host -smp {cpus} -m {memory}M -nodefaults -no-user-config -display none \
                    -global virtio-mmio.force-legacy=false -chardev stdio,id=serial,signal=off -serial chardev:serial \
                    -kernel {kernel} [-initrd {initrd}] \
                    [-drive if=none,id=disk{n},format=raw,file={disk} -device virtio-blk-device,drive=disk{n}] \
                    [-netdev tap,id=net{n},ifname={tap},script=no,downscript=no -device virtio-net-device,netdev=net{n}] \
                    [-netdev tap,id=vhost{n},ifname={vhost},script=no,downscript=no,vhost=on -device virtio-net-device,netdev=vhost{n}] \
                    [-chardev file,id=console,path={console} -device virtio-serial-device -device virtconsole,chardev=console] \
                    -append {cmdline}";

/// Without the devices that it has unasked, and with the transport that the others have.
const KVMTOOL: &str = "run --nodefaults --virtio-transport mmio -c {cpus} -m {memory} -k {kernel} [-i {initrd}] [-d {disk}] \
                       -n mode=none [-n mode=tap,tapif={tap}] [-n mode=tap,tapif={vhost},vhost=1] \
                       --console serial [{console}: --console virtio] -p {cmdline}";

impl Vmm {
    /// hvrun, from this binary.
    #[must_use]
    pub fn hvrun(program: PathBuf) -> Self {
        Self {
            name: "hvrun".into(),
            program: Some(program),
            template: known(HVRUN),
        }
    }

    /// The lab's QEMU, by KVM.
    #[must_use]
    pub fn qemu() -> Self {
        Self {
            name: "qemu".into(),
            program: None,
            template: known(QEMU),
        }
    }
}

impl Vmm {
    /// Looks whether its binary is there and for the host.
    ///
    /// # Errors
    /// [`VmmError::Program`].
    pub fn check(&self) -> Result<(), VmmError> {
        let Some(path) = &self.program else {
            return Ok(());
        };
        let wrong = |problem: String| VmmError::Program {
            path: path.clone(),
            problem,
        };
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        match File::parse(bytes.as_slice()).map(|file| file.architecture()) {
            Ok(Architecture::Riscv64) => Ok(()),
            _ => Err(wrong("it is no program for riscv64".into())),
        }
    }
}

fn known(text: &str) -> Template {
    // A unit test has them all.
    text.parse().unwrap_or(Template(Vec::new()))
}

impl std::str::FromStr for Vmm {
    type Err = VmmError;

    fn from_str(text: &str) -> Result<Self, VmmError> {
        let unknown = || VmmError::Unknown(text.into());
        let (name, command) = text.split_once('=').ok_or_else(unknown)?;
        let (program, arguments) = match command.trim().split_once(char::is_whitespace) {
            Some((program, arguments)) => (program, arguments.parse()?),
            None if name.starts_with("hvrun") => (command, known(HVRUN)),
            None if name.starts_with("kvmtool") => (command, known(KVMTOOL)),
            None => return Err(unknown()),
        };
        Ok(Self {
            name: name.into(),
            program: Some(program.into()),
            template: arguments,
        })
    }
}

impl std::str::FromStr for Template {
    type Err = VmmError;

    fn from_str(text: &str) -> Result<Self, VmmError> {
        let wrong = || VmmError::Group(text.into());
        let mut parts = Vec::new();
        let mut group: Option<Vec<String>> = None;
        for word in text.split_whitespace() {
            let (begins, word) = word
                .strip_prefix('[')
                .map_or((false, word), |word| (true, word));
            let (ends, word) = word
                .strip_suffix(']')
                .map_or((false, word), |word| (true, word));
            if begins && group.replace(Vec::new()).is_some() {
                return Err(wrong());
            }
            match &mut group {
                Some(words) => words.push(word.into()),
                None => parts.push(Part::Word(word.into())),
            }
            if ends {
                let mut words = group.take().ok_or_else(wrong)?;
                let has = |variable: &&&str| words.iter().any(|word| word.contains(**variable));
                let variable = REPEATED.iter().find(has).ok_or_else(wrong)?;
                words.retain(|word| word.strip_suffix(':') != Some(*variable));
                parts.push(Part::Group(variable, words));
            }
        }
        match group {
            Some(_) => Err(wrong()),
            None => Ok(Self(parts)),
        }
    }
}

impl Template {
    /// The arguments for `machine`, or `None` if it has what this template knows nothing of.
    pub(super) fn arguments(&self, machine: &Machine) -> Option<Vec<String>> {
        let fixed = |word: &str| {
            word.replace("{kernel}", &machine.kernel)
                .replace("{cpus}", &machine.cpus.to_string())
                .replace("{memory}", &machine.memory_mib.to_string())
                .replace("{cmdline}", &machine.command_line)
        };
        let values = |variable: &str| -> Vec<&String> {
            match variable {
                "{initrd}" => machine.initrd.iter().collect(),
                "{disk}" => machine.disks.iter().collect(),
                "{tap}" => machine.tap.iter().collect(),
                "{vhost}" => machine.vhost.iter().collect(),
                _ => machine.console.iter().collect(),
            }
        };
        let has_group = |wanted: &str| {
            self.0
                .iter()
                .any(|part| matches!(part, Part::Group(variable, _) if *variable == wanted))
        };
        if REPEATED
            .iter()
            .any(|variable| !values(variable).is_empty() && !has_group(variable))
        {
            return None;
        }
        let mut arguments = Vec::new();
        for part in &self.0 {
            match part {
                Part::Word(word) => arguments.push(fixed(&word.replace("{n}", "0"))),
                Part::Group(variable, words) => {
                    for (number, value) in values(variable).into_iter().enumerate() {
                        for word in words {
                            let word = word.replace("{n}", &number.to_string());
                            arguments.push(fixed(&word.replace(variable, value)));
                        }
                    }
                }
            }
        }
        Some(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            kernel: "K".into(),
            cpus: 2,
            memory_mib: 64,
            command_line: "a b".into(),
            ..Machine::default()
        }
    }

    #[test]
    fn groups_are_there_once_for_each_value() {
        let template: Template = "-k {kernel} [-d {disk},id={n}] -c {cpus} [-i {initrd}] {cmdline}"
            .parse()
            .unwrap();
        assert_eq!(
            template.arguments(&machine()).unwrap(),
            ["-k", "K", "-c", "2", "a b"]
        );
        let disks = Machine {
            disks: vec!["x".into(), "y".into()],
            ..machine()
        };
        assert_eq!(
            template.arguments(&disks).unwrap(),
            ["-k", "K", "-d", "x,id=0", "-d", "y,id=1", "-c", "2", "a b"]
        );
        let tap = Machine {
            tap: Some("tap0".into()),
            ..machine()
        };
        assert_eq!(template.arguments(&tap), None, "there is no group for it");
    }

    #[test]
    fn a_group_need_not_name_what_it_is_for() {
        let template: Template = "--console serial [{console}: --console virtio]"
            .parse()
            .unwrap();
        assert_eq!(
            template.arguments(&machine()).unwrap(),
            ["--console", "serial"]
        );
        let console = Machine {
            console: Some("file".into()),
            ..machine()
        };
        assert_eq!(
            template.arguments(&console).unwrap(),
            ["--console", "serial", "--console", "virtio"]
        );
    }

    #[test]
    fn known_templates_are_templates() {
        for text in [HVRUN, QEMU, KVMTOOL] {
            text.parse::<Template>().unwrap();
        }
    }

    #[test]
    fn vmms_are_known_or_described() {
        let vmm: Vmm = "mine=/bin/mine -k {kernel}".parse().unwrap();
        assert_eq!(
            (vmm.name.as_str(), vmm.program),
            ("mine", Some("/bin/mine".into()))
        );
        let old: Vmm = "hvrun-old=/tmp/hvrun".parse().unwrap();
        assert_eq!(old.template, known(HVRUN));
        for wrong in [
            "mine",
            "mine=/bin/mine",
            "m=/m [-k",
            "m=/m [-k {kernel}]",
            "m=/m [a [{disk}]]",
        ] {
            assert!(wrong.parse::<Vmm>().is_err(), "{wrong}");
        }
        for wrong in [
            "kvmtool=/nowhere",
            "kvmtool=/",
            concat!("kvmtool=", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ] {
            let vmm: Vmm = wrong.parse().unwrap();
            assert!(vmm.check().is_err(), "{wrong}");
        }
    }
}
