//! Where the instructions go: a stretch of the nested host's execution, counted by mode and by function.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use object::{Object, ObjectSymbol};

use super::guest::{Bench, CONSOLE, DISK};
use super::report::float;
use super::vmm::Machine;
use super::{Error, Result, Vmm, config, read};
use crate::host::HostChip;
use crate::provision;

/// What is to be profiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// hvrun from start to end, with a guest that does next to nothing. Everything counts from its `fork` to its end.
    Start,
    /// The same with a guest that prints 4 MiB by SBI.
    Sbi,
    /// The same with a Linux guest that switches itself off.
    Boot,
    /// A task of the probe's in a Linux guest with one disk and a virtio console, such as `disk-read:/dev/vda:4096:1000:1`.
    Guest(String),
}

impl std::str::FromStr for Work {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text {
            "start" => Self::Start,
            "sbi" => Self::Sbi,
            "boot" => Self::Boot,
            task => Self::Guest(task.into()),
        })
    }
}

/// The instructions of a stretch, by mode and function, the most first.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    functions: Vec<(u64, String, String)>,
}

/// Names of functions by their addresses.
#[derive(Default)]
struct Names(BTreeMap<u64, String>);

impl Names {
    /// From `/proc/kallsyms`, without the modules' if these are a guest's.
    fn of_kernel(kallsyms: &str, modules: bool) -> Self {
        let mut names = BTreeMap::new();
        for line in kallsyms.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let of_module = words.next().is_some();
            if matches!(kind, "t" | "T" | "w" | "W")
                && !name.starts_with(['$', '.'])
                && (modules || !of_module)
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                names.insert(address, name.to_owned());
            }
        }
        Self(names)
    }

    fn of_program(path: &Path) -> Result<Self> {
        let bytes = read(path)?;
        let file = object::File::parse(bytes.as_slice())
            .map_err(|error| Error::Unexpected(format!("{}: {error}", path.display())))?;
        let functions = file
            .symbols()
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text);
        let name = |name: &str| format!("{:#}", rustc_demangle::demangle(name));
        let names =
            functions.filter_map(|symbol| Some((symbol.address(), name(symbol.name().ok()?))));
        Ok(Self(
            names.filter(|(_, name)| !name.starts_with('$')).collect(),
        ))
    }

    fn find(&self, address: u64) -> String {
        let found = self.0.range(..=address).next_back();
        match found {
            Some((start, name)) if address - start < 1 << 16 => name.clone(),
            _ => format!("{:#x}…", address >> 12 << 12),
        }
    }
}

/// Profiles `work` of hvrun, or of QEMU, whose functions have no names here, on a host of this kind. A Linux guest has `cpus` harts.
///
/// # Errors
/// As the benchmarks', or QEMU takes no plugins.
pub fn profile(work: &Work, chip: HostChip, cpus: u32, qemu: bool) -> Result<Profile> {
    let program = provision::cross_build_with_names("hvrun", "hvrun")?;
    let plugin = provision::profile_plugin()?;
    let file = tempfile::NamedTempFile::new().map_err(|error| Error::File {
        path: "a file".into(),
        error,
    })?;
    let guest = if matches!(work, Work::Guest(_)) {
        "on"
    } else {
        "off"
    };
    let plugin = format!(
        "{},out={},guest={guest}",
        plugin.display(),
        file.path().display()
    );
    // Addresses without chance.
    let config = config(chip)
        .plugin(&plugin)
        .command_line("nokaslr norandmaps");
    let vmm = match qemu {
        true => Vmm::qemu(),
        false => Vmm::hvrun(program.clone()),
    };
    let bench = Bench::boot(config, &[], std::slice::from_ref(&vmm))?;
    match work {
        Work::Start | Work::Sbi => {
            let kernel = match work {
                Work::Sbi => bench.sbi_console(),
                _ => bench.one_character(),
            };
            bench.shortest_run(&vmm, &bench.machine(kernel)).map(drop)?;
        }
        Work::Boot | Work::Guest(_) => {
            let mut machine = match work {
                Work::Guest(task) => Machine {
                    disks: vec![DISK.into()],
                    console: Some(CONSOLE.into()),
                    ..bench.linux(std::slice::from_ref(task))
                },
                _ => bench.linux(&[]),
            };
            machine.cpus = cpus;
            machine.command_line.push_str(" nokaslr");
            drop(bench.guest(&vmm, &machine)?);
        }
    }
    let kallsyms = bench.shell("cat /proc/kallsyms")?;
    let [host, guest] = [true, false].map(|modules| Names::of_kernel(&kallsyms, modules));
    let user = match qemu {
        true => Names::default(),
        false => Names::of_program(&program)?,
    };
    let counts = String::from_utf8_lossy(&read(file.path())?).into_owned();
    let mut functions: BTreeMap<(String, String), u64> = BTreeMap::new();
    // The last stretch finds everything in the host's caches.
    for line in counts
        .rsplit("stretch\n")
        .next()
        .unwrap_or_default()
        .lines()
    {
        let mut words = line.split(' ');
        let mode = words.next().unwrap_or_default();
        let mut number = || u64::from_str_radix(words.next().unwrap_or_default(), 16).unwrap_or(0);
        let (address, count) = (number(), number());
        let name = match mode {
            "U" => user.find(address),
            "S" => host.find(address),
            "VS" => guest.find(address),
            _ => String::new(),
        };
        *functions.entry((mode.to_owned(), name)).or_default() += count;
    }
    let mut functions: Vec<_> = functions
        .into_iter()
        .map(|((mode, name), count)| (count, mode, name))
        .collect();
    functions.sort_by(|one, other| other.cmp(one));
    Ok(Profile { functions })
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MODES: [(&str, &str); 5] = [
            ("U", "host's programs"),
            ("S", "host's kernel"),
            ("M", "firmware"),
            ("VS", "guest's kernel"),
            ("VU", "guest's programs"),
        ];
        const SHOWN: usize = 60;
        let total: u64 = self.functions.iter().map(|(count, ..)| count).sum();
        let part = |count: u64| 100.0 * float(count) / float(total).max(1.0);
        writeln!(f, "{total:>12}         instructions")?;
        for (mode, what) in MODES {
            let here = self.functions.iter().filter(|(_, place, _)| place == mode);
            let count: u64 = here.map(|(count, ..)| count).sum();
            writeln!(f, "{count:>12} {:5.1} %  {mode:2} {what}", part(count))?;
        }
        writeln!(f)?;
        for (count, mode, name) in self.functions.iter().take(SHOWN) {
            writeln!(f, "{count:>12} {:5.1} %  {mode:2} {name}", part(*count))?;
        }
        Ok(())
    }
}
