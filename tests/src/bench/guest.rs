//! The host with everything in its memory, and guests that do tasks and say how long these took.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::report::float;
use super::vmm::{Machine, Vmm};
use super::{Error, Result, Subject, payload, read, write};
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
/// The host's end of the guest's network.
pub(super) const TAP: &str = "tap9";

/// A run is repeated until it took this long.
const LONG_ENOUGH: f64 = 30e6;

/// Minutes of real time that one guest may take.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Of the guests' kernel, what their tasks need.
const MODULES: [&str; 4] = ["virtio_mmio", "virtio_blk", "virtio_console", "virtio_net"];

/// What is on a guest kernel's command line beside its tasks.
const COMMAND_LINE: &str = "console=ttyS0 quiet";

/// The figures that a guest, or the host itself, printed, by task.
#[derive(Debug, Clone, Default)]
pub(super) struct Results(BTreeMap<String, Vec<u64>>);

impl Results {
    fn parse(output: &str) -> Result<Self> {
        let mut results = BTreeMap::new();
        for line in output.lines() {
            // What a task printed may be in front of it.
            let Some((_, line)) = line.rsplit_once('@') else {
                continue;
            };
            let (task, figures) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            if task == "failed" {
                return Err(Error::Unexpected(format!("in the guest: {figures}")));
            }
            let figures = figures
                .split(' ')
                .filter_map(|figure| figure.parse().ok())
                .collect();
            results.insert(task.to_owned(), figures);
        }
        Ok(Self(results))
    }

    /// The one figure of a task.
    pub(super) fn one(&self, task: &str) -> Result<u64> {
        let figures = self.0.get(task);
        figures
            .and_then(|figures| figures.first().copied())
            .ok_or_else(|| Error::Unexpected(format!("nothing came of {task}")))
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
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
    done: RefCell<BTreeMap<String, Results>>,
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

        let host = Host::boot(config.module("tun").lifetime(None))?;
        let mut bench = Self {
            host,
            vmms: Vec::new(),
            programs: BTreeMap::new(),
            qemu_modules: ("QEMU_MODULE_DIR", String::new()),
            standard: standard_tasks(subjects),
            done: RefCell::default(),
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

    /// Files for disks, a megabyte each.
    pub(super) fn make_disks(&self, paths: &[String]) -> Result<()> {
        for path in paths {
            self.in_host(&format!("disk-make:{path}:{}", 1 << 20))?;
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
        Results::parse(&finished.stdout_text())
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
        Ok(results.0.into_values().next().unwrap_or_default())
    }

    /// How long a VMM takes from start to end, on average over so many runs that the time is well measured. The first
    /// run, which finds nothing in the host's caches, is left out.
    pub(super) fn shortest_run(&self, vmm: &Vmm, machine: &Machine) -> Result<f64> {
        let first = self.runs(vmm, machine, 2)?.last().copied().unwrap_or(0);
        let count = (LONG_ENOUGH / float(first).max(1.0))
            .ceil()
            .clamp(2.0, 20.0);
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
        let results = Results::parse(&String::from_utf8_lossy(&output))?;
        match run {
            Err(error) if results.0.is_empty() => Err(error),
            _ => Ok(results),
        }
    }

    /// How much the last VMM printed, bytes.
    pub(super) fn output_size(&self) -> Result<u64> {
        let size = self.shell(&format!("stat -c %s {OUTPUT}"))?;
        size.parse()
            .map_err(|_| Error::Unexpected(format!("stat answers {size}")))
    }

    /// What the guest measured that does the tasks of all subjects which want the usual machine with one disk.
    pub(super) fn standard_guest(&self, vmm: &Vmm) -> Result<Results> {
        if let Some(done) = self.done.borrow().get(&vmm.name) {
            return Ok(done.clone());
        }
        let mut machine = self.linux(&self.standard);
        machine.disks = vec![DISK.into()];
        let results = self.guest(vmm, &machine)?;
        self.done
            .borrow_mut()
            .insert(vmm.name.clone(), results.clone());
        Ok(results)
    }

    /// The same kernel with the same tasks, but those with a disk, on a machine of the host's kind without a host.
    pub(super) fn machine_without_host(&self) -> Result<Results> {
        const NAME: &str = "without a VMM";
        if let Some(done) = self.done.borrow().get(NAME) {
            return Ok(done.clone());
        }
        let tasks: Vec<_> = self
            .standard
            .iter()
            .filter(|task| !task.starts_with("disk"))
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
        let results = Results::parse(&direct.run(&config, LIMIT)?)?;
        self.done.borrow_mut().insert(NAME.into(), results.clone());
        Ok(results)
    }

    /// Runs `script` while the guest of a VMM idles, and answers what it printed. In it, `$pid` is the VMM.
    pub(super) fn while_idle(&self, vmm: &Vmm, machine: &Machine, script: &str) -> Result<String> {
        let words = self.command(vmm, machine)?;
        let (variable, value) = &self.qemu_modules;
        let whole = format!(
            "\"$@\" </dev/null >{OUTPUT} 2>&1 & pid=$!\n\
             n=0; until grep -q '@idle' {OUTPUT}; do sleep 0.2; kill -0 $pid || exit 1; n=$((n + 1))\n\
             [ $n -lt 60 ] || {{ kill $pid; exit 1; }}; done\n\
             sleep 2\n{script}\nkill $pid; wait $pid; exit 0"
        );
        let exec = self
            .host
            .exec(["sh", "-c", &whole, "sh"])
            .args(words)
            .env(variable, value);
        Ok(exec.check(LIMIT)?.stdout_text())
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

    /// Makes the host's end of the network, with a server, which ends when it is dropped.
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

/// What the guest does that subjects share. The hardest for interrupt chips and drivers comes
/// last, so that whoever fails there has the rest.
fn standard_tasks(subjects: &[Subject]) -> Vec<String> {
    let mut tasks: Vec<_> = subjects
        .iter()
        .flat_map(|subject| subject.tasks())
        .collect();
    tasks.sort_by_key(|task| task.ends_with(":32"));
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
        let results =
            Results::parse("hvrun: hello\r\n@init 12\r\nxxxx@console:/dev/ttyS0:4 7\r\n").unwrap();
        assert_eq!(results.one("init").unwrap(), 12);
        assert_eq!(results.one("console:/dev/ttyS0:4").unwrap(), 7);
        assert!(results.one("disk").is_err());
        assert!(Results::parse("@failed disk-read: no such file").is_err());
    }
}
