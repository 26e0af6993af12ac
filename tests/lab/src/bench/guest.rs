//! The host with everything in its memory, and guests that do tasks and say how long these took.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::report::float;
use super::size::Size;
use super::vmm::{Machine, Vmm};
use super::{Error, HOST_MEMORY_MIB, Result, Subject, payload, read, resident, write};
use crate::host::{Direct, Host, HostConfig, Process};
use crate::initramfs::Initramfs;
use crate::provision::{self, DebianKernel, KernelFiles, cross_build, debian_kernel};

/// Where everything is in the host's memory.
const PLACE: &str = "/tmp/bench";
/// The image that guests read and write.
pub(super) const DISK: &str = "/tmp/bench/disk";
const DISK_SIZE: u64 = 64 << 20;
/// What a VMM prints.
const OUTPUT: &str = "/tmp/bench/output";
/// Where the virtio console of a guest leads.
pub(super) const CONSOLE: &str = "/tmp/bench/console";
/// The host's side of the guest's network.
pub(super) const TAP: &str = "tap9";

/// A run is repeated until it took this long, nanoseconds.
const LONG_ENOUGH: f64 = 30e6;

/// A run that takes longer is not repeated, nanoseconds.
const TOO_LONG: f64 = 1e9;

/// Minutes of real time that one guest may take.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Of the guests' kernel, what their tasks need.
const MODULES: [&str; 4] = ["virtio_mmio", "virtio_blk", "virtio_console", "virtio_net"];

/// What is on a guest kernel's command line beside its tasks.
const COMMAND_LINE: &str = "console=ttyS0 quiet";

/// The figures that a guest, or the host itself, printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Results {
    by_task: BTreeMap<String, Vec<u64>>,
    /// What it said of tasks that failed.
    failures: Vec<String>,
}

impl Results {
    fn parse(output: &str) -> Self {
        let mut results = Self::default();
        for line in output.lines() {
            // What a task printed may be in front of it.
            let Some((_, line)) = line.rsplit_once('@') else {
                continue;
            };
            let (task, figures) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            if task == "failed" {
                results.failures.push(figures.to_owned());
                continue;
            }
            let figures = figures
                .split(' ')
                .filter_map(|figure| figure.parse().ok())
                .collect();
            results.by_task.insert(task.to_owned(), figures);
        }
        results
    }

    /// The one figure of a task.
    pub(super) fn one(&self, task: &str) -> Result<u64> {
        let figures = self.by_task.get(task);
        figures
            .and_then(|figures| figures.first().copied())
            .ok_or_else(|| {
                let failures = self.failures.iter().map(|failure| format!("; {failure}"));
                let failures: String = failures.collect();
                Error::Unexpected(format!("nothing came of {task}{failures}"))
            })
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.by_task.extend(other.by_task);
        self.failures.extend(other.failures);
    }
}

/// What came of a guest.
#[derive(Debug, Clone)]
pub(super) struct Done {
    /// What it measured itself.
    pub(super) results: Results,
    /// What was seen in the host while it rested, by [`resident::script`].
    pub(super) seen: String,
    /// The guest's memory.
    pub(super) memory_mib: u32,
}

/// The host, and what its guests are made of.
pub(super) struct Bench {
    host: Host,
    vmms: Vec<Vmm>,
    /// By the VMMs' names, how their command lines begin.
    programs: BTreeMap<String, Vec<String>>,
    qemu_modules: (&'static str, String),
    /// Tasks of the guest that subjects share.
    standard: Vec<String>,
    /// What came of such guests, or why nothing did, by VMM.
    done: RefCell<BTreeMap<(String, Size), std::result::Result<Done, String>>>,
    /// What came of the same tasks without a VMM.
    floor: RefCell<Option<Results>>,
    kernel: KernelFiles,
    files: tempfile::TempDir,
}

impl Bench {
    /// Boots the host and brings everything there.
    pub(super) fn boot(config: HostConfig, subjects: &[Subject], vmms: &[Vmm]) -> Result<Self> {
        let kernel = debian_kernel(DebianKernel::Stable)?;
        let files = tempfile::tempdir().map_err(|error| Error::File {
            path: "a directory".into(),
            error,
        })?;
        let probe = cross_build("hv-lab-probe", "probe")?;
        write(
            &files.path().join("one-character"),
            &payload::one_character(),
        )?;
        write(&files.path().join("sbi-console"), &payload::sbi_console())?;
        write(&files.path().join("initrd"), &initrd(&kernel, &probe)?)?;

        let host = Host::boot(config.module("tun").module("vhost_net").lifetime(None))?;
        let mut bench = Self {
            host,
            vmms: Vec::new(),
            programs: BTreeMap::new(),
            qemu_modules: ("QEMU_MODULE_DIR", String::new()),
            standard: standard_tasks(subjects),
            done: RefCell::default(),
            floor: RefCell::default(),
            kernel,
            files,
        };
        bench.shell(&format!("mkdir -p {PLACE}"))?;
        let kernel = bench.kernel.image.clone();
        bench.bring(&kernel, "kernel")?;
        bench.bring(&probe, "probe")?;
        for file in ["one-character", "sbi-console", "initrd"] {
            bench.bring(&bench.files.path().join(file), file)?;
        }
        bench.in_host(&format!("disk-make:{DISK}:{DISK_SIZE}"))?;
        for vmm in vmms {
            let program = match &vmm.program {
                Some(path) => {
                    bench.bring(path, &vmm.name)?;
                    vec![format!("{PLACE}/{}", vmm.name)]
                }
                None => bench.bring_qemu()?,
            };
            bench.programs.insert(vmm.name.clone(), program);
            bench.vmms.push(vmm.clone());
        }
        Ok(bench)
    }

    /// What is needed to repeat the measurement.
    pub(super) fn conditions(&self) -> Result<Vec<(String, String)>> {
        let qemu = provision::qemu()?.version();
        let mut conditions = vec![
            ("date".to_owned(), self.shell("date -u +%Y-%m-%d")?),
            (
                "host".to_owned(),
                format!(
                    "Linux {}, on one hart with {HOST_MEMORY_MIB} MiB of QEMU {}.{}.{}, an instruction a nanosecond",
                    self.shell("uname -r")?.trim(),
                    qemu.0,
                    qemu.1,
                    qemu.2
                ),
            ),
            (
                "guests".to_owned(),
                format!("Linux {}", self.kernel.release),
            ),
        ];
        for (name, program) in &self.programs {
            let mut words = program.clone();
            words.push("--version".into());
            let said = self.host.exec(words).output(LIMIT)?.stdout_text();
            let version = said.lines().next().unwrap_or_default();
            conditions.push((name.clone(), version.to_owned()));
        }
        for (_, value) in &mut conditions {
            *value = value.trim().to_owned();
        }
        Ok(conditions)
    }

    /// The VMMs to measure.
    pub(super) fn vmms(&self) -> &[Vmm] {
        &self.vmms
    }

    pub(super) fn shell(&self, script: &str) -> Result<String> {
        Ok(self
            .host
            .exec(["sh", "-c", script])
            .check(LIMIT)?
            .stdout_text())
    }

    /// Copies a file of this machine into the host's memory.
    fn bring(&self, path: &Path, name: &str) -> Result<()> {
        let from = self.host.local_path(path);
        self.shell(&format!(
            "cp -L '{}' {PLACE}/{name} && chmod 755 {PLACE}/{name}",
            from.display()
        ))?;
        Ok(())
    }

    /// Copies QEMU with its libraries, and answers how it is started.
    fn bring_qemu(&mut self) -> Result<Vec<String>> {
        let qemu = provision::nested_qemu()?;
        let tree = qemu.tree.display().to_string();
        let from = self.host.local_path(&qemu.tree);
        let there = format!("{PLACE}/qemu-tree");
        // Data and firmware stay behind: a machine by KVM has none.
        self.shell(&format!(
            "mkdir -p {there}/usr/bin {there}/usr/share/qemu && cp -a '{0}'/usr/lib {there}/usr/ && \
             cp '{0}'/usr/bin/qemu-system-riscv64 {there}/usr/bin/",
            from.display()
        ))?;
        let moved = |text: &str| text.replace(&tree, &there);
        let mut words = vec![moved(&qemu.program.display().to_string())];
        words.extend(qemu.arguments.iter().map(|word| moved(word)));
        self.qemu_modules = (qemu.variable.0, moved(&qemu.variable.1));
        Ok(words)
    }

    /// The kernel of a guest that prints one character.
    pub(super) fn one_character(&self) -> String {
        format!("{PLACE}/one-character")
    }

    /// The kernel of a guest that prints by SBI.
    pub(super) fn sbi_console(&self) -> String {
        format!("{PLACE}/sbi-console")
    }

    /// The usual machine: one hart and 256 MiB.
    pub(super) fn machine(&self, kernel: String) -> Machine {
        Machine {
            kernel,
            cpus: 1,
            memory_mib: 256,
            command_line: "-".into(),
            ..Machine::default()
        }
    }

    /// The usual machine, with Linux, which does `tasks`.
    pub(super) fn linux(&self, tasks: &[String]) -> Machine {
        let mut machine = self.machine(format!("{PLACE}/kernel"));
        machine.initrd = Some(format!("{PLACE}/initrd"));
        machine.command_line = command_line(tasks);
        machine
    }

    /// Makes the files of disks that are not there yet.
    pub(super) fn make_disks(&self, paths: &[String]) -> Result<()> {
        for path in paths {
            let there = self.shell(&format!("test -e {path} && echo yes; true"))?;
            if there.is_empty() {
                self.in_host(&format!("disk-make:{path}:{DISK_SIZE}"))?;
            }
        }
        Ok(())
    }

    /// What a VMM is started with for `machine`.
    pub(super) fn command(&self, vmm: &Vmm, machine: &Machine) -> Result<Vec<String>> {
        let cannot = || Error::Unexpected("it is not said how to start this machine".into());
        let mut words = self.programs.get(&vmm.name).ok_or_else(cannot)?.clone();
        words.extend(vmm.template.arguments(machine).ok_or_else(cannot)?);
        Ok(words)
    }

    /// Runs the probe in the host.
    fn probe(&self, words: Vec<String>) -> Result<Results> {
        let (variable, value) = &self.qemu_modules;
        let exec = self
            .host
            .exec([format!("{PLACE}/probe")])
            .args(words)
            .env(variable, value);
        let finished = exec.output(LIMIT)?;
        if !finished.status.success() {
            let said = self.shell(&format!("tail -c 600 {OUTPUT} 2>/dev/null; true"))?;
            return Err(Error::Unexpected(format!(
                "{}: {said}",
                finished.stderr_text()
            )));
        }
        Ok(Results::parse(&finished.stdout_text()))
    }

    /// Does a task in the host itself.
    pub(super) fn in_host(&self, task: &str) -> Result<Results> {
        self.probe(task.split(':').map(str::to_owned).collect())
    }

    /// Runs a VMM `count` times from start to end, and answers how long each took.
    fn runs(&self, vmm: &Vmm, machine: &Machine, count: u64) -> Result<Vec<u64>> {
        let mut words = vec!["run".into(), count.to_string(), OUTPUT.to_owned()];
        words.extend(self.command(vmm, machine)?);
        let results = self.probe(words)?;
        Ok(results.by_task.into_values().next().unwrap_or_default())
    }

    /// How long a VMM takes from start to end, on average over so many runs that the time is well measured. The first
    /// run, which finds nothing in the host's caches, is left out, unless that does not count beside what it takes.
    pub(super) fn shortest_run(&self, vmm: &Vmm, machine: &Machine) -> Result<f64> {
        let once = || -> Result<f64> { Ok(float(self.runs(vmm, machine, 1)?.iter().sum())) };
        let cold = once()?;
        if cold > TOO_LONG {
            return Ok(cold);
        }
        let first = once()?;
        let count = (LONG_ENOUGH / first.max(1.0)).ceil().clamp(2.0, 20.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "2 to 20"
        )]
        let times = self.runs(vmm, machine, count as u64)?;
        Ok(float(times.iter().sum()) / float(times.len() as u64).max(1.0))
    }

    /// Runs a guest to its end and answers what it measured: if it did not come to its end, what it had until then.
    pub(super) fn guest(&self, vmm: &Vmm, machine: &Machine) -> Result<Results> {
        let run = self.runs(vmm, machine, 1);
        let output = self.host.read_file(OUTPUT)?;
        let results = Results::parse(&String::from_utf8_lossy(&output));
        match run {
            Err(error) if results.by_task.is_empty() => Err(error),
            _ => Ok(results),
        }
    }

    /// How much the last VMM printed, bytes.
    pub(super) fn output_size(&self) -> Result<u64> {
        let size = self.shell(&format!("stat -c %s {OUTPUT}"))?;
        size.parse()
            .map_err(|_| Error::Unexpected(format!("stat answers {size}")))
    }

    /// What came of the guest that does the tasks of all subjects which share one, and of the others of its kind, with
    /// machines of other sizes.
    pub(super) fn standard_guest(&self, vmm: &Vmm, size: Size) -> Result<Done> {
        let key = (vmm.name.clone(), size);
        let known = self.done.borrow().get(&key).cloned();
        let done = known.unwrap_or_else(|| {
            let done = self.watched_guest(vmm, size);
            let done = done.map_err(|error| error.to_string());
            self.done.borrow_mut().insert(key, done.clone());
            done
        });
        done.map_err(Error::Unexpected)
    }

    /// Runs such a guest to its end, and looks at its VMM while it rests, if that is among its tasks.
    fn watched_guest(&self, vmm: &Vmm, size: Size) -> Result<Done> {
        let mut machine = self.linux(&self.standard);
        size.apply(&mut machine);
        self.make_disks(&machine.disks)?;
        let watch = match self.standard.first() {
            Some(task) if resident::tasks().contains(task) => resident::script(),
            _ => String::new(),
        };
        // Seldom looked for, so that it does not disturb the guest's start. Twelve seconds is what the probe gives a guest as well.
        let script = format!(
            "\"$@\" </dev/null >{OUTPUT} 2>&1 & pid=$!\n\
             n=0; until grep -q '@idle' {OUTPUT}; do sleep 5; kill -0 $pid || exit 1; n=$((n + 1))\n\
             [ $n -lt 4 ] || {{ kill $pid; exit 1; }}; done\n\
             {watch}\n\
             (sleep {}; kill $pid) >/dev/null 2>&1 & guard=$!\n\
             wait $pid; kill $guard; exit 0",
            resident::REST + 12
        );
        let watched = match watch.is_empty() {
            true => self
                .guest(vmm, &machine)
                .map(|results| (results, String::new())),
            false => self.in_shell(vmm, &machine, &script),
        };
        let (results, seen) = watched?;
        Ok(Done {
            results,
            seen,
            memory_mib: machine.memory_mib,
        })
    }

    /// Runs a guest by a script of the host's shell, in which `$@` is the VMM, and answers what it measured and what the script
    /// printed.
    fn in_shell(&self, vmm: &Vmm, machine: &Machine, script: &str) -> Result<(Results, String)> {
        let words = self.command(vmm, machine)?;
        let (variable, value) = &self.qemu_modules;
        let exec = self
            .host
            .exec(["sh", "-c", script, "sh"])
            .args(words)
            .env(variable, value);
        let finished = exec.output(LIMIT)?;
        let output = self.host.read_file(OUTPUT)?;
        let output = String::from_utf8_lossy(&output);
        let results = Results::parse(&output);
        if results.by_task.is_empty() {
            let last = output.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
            return Err(Error::Unexpected(output[last..].to_owned()));
        }
        Ok((results, finished.stdout_text()))
    }

    /// The same kernel with the same tasks, but those with a disk and without anything to do, on a machine of the host's kind
    /// without a host.
    pub(super) fn machine_without_host(&self) -> Result<Results> {
        if let Some(done) = &*self.floor.borrow() {
            return Ok(done.clone());
        }
        let tasks: Vec<_> = self
            .standard
            .iter()
            .filter(|task| !task.starts_with("disk") && !task.starts_with("rest"))
            .cloned()
            .collect();
        let config = HostConfig::new(self.host.chip())
            .instruction_clock()
            .memory_mib(256);
        let direct = Direct {
            kernel: &self.kernel.image,
            initrd: &self.files.path().join("initrd"),
            command_line: &command_line(&tasks),
        };
        let results = Results::parse(&direct.run(&config, LIMIT)?);
        *self.floor.borrow_mut() = Some(results.clone());
        Ok(results)
    }

    /// The size of a VMM's binary, bytes.
    pub(super) fn binary_size(&self, vmm: &Vmm) -> Result<u64> {
        let path = match &vmm.program {
            Some(_) => format!("{PLACE}/{}", vmm.name),
            None => format!("{PLACE}/qemu-tree/usr/bin/qemu-system-riscv64"),
        };
        let size = self.shell(&format!("stat -c %s {path}"))?;
        size.parse()
            .map_err(|_| Error::Unexpected(format!("stat answers {size}")))
    }

    /// Makes the host's side of the network, with a server, which ends when it is dropped.
    pub(super) fn network(&self) -> Result<Process> {
        self.in_host(&format!("tap:{TAP}"))?;
        self.in_host(&format!("net-up:{TAP}:10.9.9.1"))?;
        let server = self
            .host
            .exec([format!("{PLACE}/probe")])
            .args(["tcp-serve", "10.9.9.1:7000"]);
        Ok(server.spawn()?)
    }
}

/// What the guest does that subjects share. It rests first, as long as its VMM has done nothing but start it; and the hardest for
/// interrupt chips and drivers comes last, so that whoever fails there has the others.
fn standard_tasks(subjects: &[Subject]) -> Vec<String> {
    let mut tasks: Vec<String> = Vec::new();
    for task in subjects.iter().flat_map(|subject| subject.tasks()) {
        if !tasks.contains(&task) {
            tasks.push(task);
        }
    }
    tasks.sort_by_key(|task| (!task.starts_with("rest"), task.ends_with(":32")));
    tasks
}

fn command_line(tasks: &[String]) -> String {
    let tasks: String = tasks.iter().map(|task| format!(" probe={task}")).collect();
    format!("{COMMAND_LINE}{tasks}")
}

/// The probe as init, and the modules that it loads.
fn initrd(kernel: &KernelFiles, probe: &Path) -> Result<Vec<u8>> {
    let mut image = Initramfs::new();
    image.file("init", 0o755, &read(probe)?);
    image.modules(kernel, &MODULES)?;
    Ok(image.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_what_else_is_printed() {
        let results = Results::parse(
            "hvrun: hello\r\n@init 12\r\nxxxx@console:/dev/ttyS0:4 7\r\n@failed disk: no such file\r\n",
        );
        assert_eq!(results.one("init").unwrap(), 12);
        assert_eq!(results.one("console:/dev/ttyS0:4").unwrap(), 7);
        let error = results.one("disk").unwrap_err().to_string();
        assert!(error.contains("no such file"), "{error}");
    }
}
