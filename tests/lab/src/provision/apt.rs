//! Debian packages of any suite and architecture, fetched by an apt that is kept apart from the machine's own.
//!
//! The isolated apt has its own sources, lists, state and cache (below `apt/` in the lab's cache), so it needs no
//! root and changes nothing on the machine. It shares the machine's apt configuration (proxies, retries), its archive
//! keyring and its mirror: no archive's address is known here, [`Machine::find`] asks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::progress::{self, Size, Step};
use super::run::{self, Finished, finish, run, which};
use super::{Error, Result};
use crate::cache::{self, create_dir};

/// How long fetched package lists are taken for current.
const LISTS_VALID: Duration = Duration::from_secs(30 * 60);
/// How long to wait before each further attempt when the archive contradicts itself: its mirrors are now and then
/// between two states.
const PAUSES: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(10)];

/// This machine as apt sees it.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// The base address of its Debian mirror.
    mirror: String,
    /// The suite its sources name, such as `bookworm`: what runs natively comes from there.
    pub(crate) suite: String,
    /// Its architecture in Debian's terms, such as `amd64`.
    pub(crate) arch: String,
}

impl Machine {
    /// Asks apt. `wanted` and `remedy` complete the error where this is not a Debian machine.
    pub(crate) fn find(wanted: &str, remedy: &str) -> Result<Self> {
        let missing = |why: &str| Error::unavailable(wanted, why, remedy);
        for program in ["apt-get", "dpkg-deb", "dpkg"] {
            if which(program).is_none() {
                return Err(missing(&format!(
                    "it would come from Debian's packages, but this machine has no {program}"
                )));
            }
        }
        let fields = ["REPO_URI", "RELEASE", "COMPONENT", "ORIGIN"];
        let fields = fields.map(|field| format!("$({field})")).join("\t");
        let query = ["indextargets", "Created-By: Packages", "--format", &fields];
        let mut source = choose_source(&run(command("apt-get", None).args(query))?);
        if source.is_none() {
            // apt answers that only for lists that it has. What it would fetch, it says in any case.
            let uris = run(command("apt-get", None).args(["update", "--print-uris"]))?;
            source = choose_source(&sources_in(&uris));
        }
        let (mirror, suite) = source.ok_or_else(|| {
            missing(
                "it would come from Debian's archive, which this machine's apt sources do not name",
            )
        })?;
        let arch = run(Command::new("dpkg").arg("--print-architecture"))?
            .trim()
            .to_owned();
        Ok(Self {
            mirror,
            suite,
            arch,
        })
    }

    /// The suite `name` of the machine's mirror for `arch`, where `None` means the machine's own. `wanted` is what its
    /// errors say cannot be got.
    pub(crate) fn suite(&self, name: &str, arch: Option<&str>, wanted: &str) -> Result<Suite> {
        Suite::new(self, name, arch.unwrap_or(&self.arch), wanted)
    }
}

/// Makes of what `apt-get update --print-uris` would fetch, `'MIRROR/dists/SUITE/COMPONENT/binary-ARCH/…' …`, lines of
/// mirror, suite and component.
fn sources_in(uris: &str) -> String {
    let lines = uris.lines().filter_map(|line| {
        let (mirror, path) = line.strip_prefix('\'')?.split_once("/dists/")?;
        let (place, _file) = path.split_once("/binary-")?;
        let (suite, component) = place.rsplit_once('/')?;
        Some(format!("{mirror}/\t{suite}\t{component}\n"))
    });
    lines.collect()
}

/// Picks the main Debian source from lines of mirror, suite, component and origin: the one that names the shortest
/// suite, because `bookworm` has everything while `bookworm-updates` and `bookworm-security` hold single packages.
fn choose_source(targets: &str) -> Option<(String, String)> {
    targets
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (uri, suite, component) = (fields.next()?, fields.next()?, fields.next()?);
            let origin = fields.next().unwrap_or_default();
            // The origin is known only once the machine has fetched lists.
            let debian = origin == "Debian"
                || (origin.is_empty() && uri.trim_end_matches('/').ends_with("/debian"));
            let plain = !suite.contains(['-', '/']);
            (debian && plain && component == "main").then(|| (uri.to_owned(), suite.to_owned()))
        })
        .min_by_key(|(_, suite)| suite.len())
}

/// One suite for one architecture, as the isolated apt's own world.
#[derive(Debug)]
pub(crate) struct Suite {
    name: String,
    wanted: String,
    directory: PathBuf,
}

/// A package as the archive offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) size: u64,
    /// What apt calls its file: `NAME_VERSION_ARCHITECTURE.deb` with the version's colon escaped.
    file: String,
}

impl Suite {
    fn new(machine: &Machine, name: &str, arch: &str, wanted: &str) -> Result<Self> {
        let directory = cache::root()?.join("apt").join(format!("{name}-{arch}"));
        for part in ["state/lists/partial", "cache/archives/partial"] {
            create_dir(&directory.join(part))?;
        }
        let keyring = ["gpg", "pgp"]
            .map(|extension| format!("/usr/share/keyrings/debian-archive-keyring.{extension}"))
            .into_iter()
            .find(|path| Path::new(path).exists());
        // Without that file the keys are those in apt's trusted.gpg.d.
        let signed_by = keyring
            .map(|path| format!(" signed-by={path}"))
            .unwrap_or_default();
        let source = format!(
            "deb [target=Packages{signed_by}] {} {name} main\n",
            machine.mirror
        );
        for (file, text) in [
            ("sources.list", source.as_str()),
            ("status", ""),
            ("apt.conf", &configuration(&directory, arch)),
        ] {
            write_if_different(&directory.join(file), text)?;
        }
        Ok(Self {
            name: name.to_owned(),
            wanted: wanted.to_owned(),
            directory,
        })
    }

    fn command(&self, program: &str) -> Command {
        command(program, Some(&self.directory.join("apt.conf")))
    }

    /// Fetches the suite's package lists unless they are recent, or in any case with `force`.
    fn refresh(&self, force: bool) -> Result<()> {
        let stamp = self.directory.join("fetched");
        let _lock = cache::lock(
            &self.directory.join("lock"),
            &format!("the package lists of {}", self.name),
        )?;
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if !force && age.is_some_and(|age| age < LISTS_VALID) {
            return Ok(());
        }
        let step = progress::step(&format!("Debian {}", self.name), "fetching package lists");
        let mut update = self.command("apt-get");
        update.args(["update", "-q", "--error-on=any"]);
        let finished = finish(&mut update, run::LIMIT, || {
            step.update("fetching package lists")
        })?;
        self.judge(&update, finished)?;
        fs::write(&stamp, "").map_err(|error| Error::io("write", &stamp, error))
    }

    /// Runs `work` on current lists, again with freshly fetched ones when the archive contradicted itself or the lists.
    pub(crate) fn with_lists<T>(&self, mut work: impl FnMut(&Self) -> Result<T>) -> Result<T> {
        let mut pauses = PAUSES.iter();
        let mut force = false;
        loop {
            let error = match self.refresh(force).and_then(|()| work(self)) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let passing = matches!(&error, Error::Unavailable { why, .. } if why == INCONSISTENT);
            let Some(pause) = pauses.next().filter(|_| passing) else {
                return Err(error);
            };
            progress::note(format_args!(
                "Debian {}: {INCONSISTENT}; trying again",
                self.name
            ));
            std::thread::sleep(*pause);
            force = true;
        }
    }

    /// `packages` and everything they depend on, without what is only recommended.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<Package>> {
        self.print_uris(&["install", "--no-install-recommends"], packages)
    }

    /// `packages` alone, each as a name or as `NAME=VERSION`.
    pub(crate) fn packages<S: AsRef<str>>(&self, packages: &[S]) -> Result<Vec<Package>> {
        self.print_uris(&["download"], packages)
    }

    fn print_uris<S: AsRef<str>>(&self, action: &[&str], packages: &[S]) -> Result<Vec<Package>> {
        let mut list = self.command("apt-get");
        list.args(["-qq", "-y", "--print-uris"])
            .args(action)
            .args(packages.iter().map(AsRef::as_ref));
        let finished = finish(&mut list, run::LIMIT, || ())?;
        let finished = self.judge(&list, finished)?;
        Ok(finished.stdout.lines().filter_map(parse_uri_line).collect())
    }

    /// The versions of `package` on offer, newest first; none if the suite does not have it.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = run(self.command("apt-cache").args(["madison", package]))?;
        let version = |line: &str| line.split('|').nth(1).map(|field| field.trim().to_owned());
        Ok(table.lines().filter_map(version).collect())
    }

    /// What `package` depends on directly, the first of each group of alternatives.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let listing = run(self
            .command("apt-cache")
            .args(["depends", "--important", package]))?;
        let name = |line: &str| {
            line.trim_start()
                .strip_prefix("Depends: ")
                .map(str::to_owned)
        };
        Ok(listing.lines().filter_map(name).collect())
    }

    /// Downloads `packages` into `directory`, going on where an earlier attempt stopped, and unpacks them into `tree`.
    pub(crate) fn unpack(
        &self,
        packages: &[Package],
        directory: &Path,
        tree: &Path,
        step: &Step,
    ) -> Result<()> {
        let total: u64 = packages.iter().map(|package| package.size).sum();
        let mut download = self.command("apt-get");
        download.args(["download", "-q"]).current_dir(directory);
        download.args(
            packages
                .iter()
                .map(|package| format!("{}={}", package.name, package.version)),
        );
        let finished = finish(&mut download, run::LIMIT, || {
            step.update(format_args!(
                "downloading {} of {}",
                Size(size_of_files(directory)),
                Size(total)
            ));
        })?;
        self.judge(&download, finished)?;
        for package in packages {
            step.update(format_args!("unpacking {}", package.name));
            let mut unpack = Command::new("dpkg-deb");
            unpack
                .arg("-x")
                .arg(directory.join(&package.file))
                .arg(tree);
            let finished = finish(&mut unpack, run::LIMIT, || ())?;
            self.judge(&unpack, finished)?;
        }
        for unneeded in ["doc", "info", "locale", "man"] {
            cache::remove_tree(&tree.join("usr/share").join(unneeded))?;
        }
        Ok(())
    }

    /// Turns what apt said into what the user can do about it.
    fn judge(&self, command: &Command, finished: Finished) -> Result<Finished> {
        if finished.status.success() {
            return Ok(finished);
        }
        let said = |phrases: &[&str]| {
            phrases
                .iter()
                .any(|phrase| finished.stderr.contains(phrase))
        };
        let what = format!("{} from Debian {}", self.wanted, self.name);
        if said(&["No space left on device", "have enough free space"]) {
            let why = format!("the file system of {} is full", cache::root()?.display());
            let remedy = "free some space, or set HVRUN_LAB_CACHE to a directory with 3 GB of room";
            return Err(Error::unavailable(what, why, remedy));
        }
        if said(&[
            "NO_PUBKEY",
            "public key is not available",
            "signed by untrusted key",
            "Missing key",
        ]) {
            let why = "this machine's archive keyring does not have the key that signs the suite";
            return Err(Error::unavailable(
                what,
                why,
                "run: apt-get install debian-archive-keyring",
            ));
        }
        if said(&UNREACHABLE) {
            let why = format!("{UNANSWERED} ({})", finished.complaint());
            return Err(Error::unavailable(
                what,
                why,
                "check the network, or apt's proxy settings, and run this again",
            ));
        }
        if said(&[
            "Hash Sum mismatch",
            "unexpected size",
            "Mirror sync in progress",
            "404  Not Found",
        ]) {
            return Err(Error::unavailable(
                what,
                INCONSISTENT,
                "run this again in some minutes",
            ));
        }
        finished.check(command)
    }
}

/// The reason in the error for an archive between two states; [`Suite::with_lists`] recognizes it.
const INCONSISTENT: &str =
    "the mirror's package lists and files do not belong together at the moment";

/// How the reason begins in the error for a mirror that cannot be reached.
const UNANSWERED: &str = "the mirror did not answer";

/// Whether `error` says that there is no way to the mirror, so that asking it for something else is in vain.
pub(crate) fn is_unreachable(error: &Error) -> bool {
    matches!(error, Error::Unavailable { why, .. } if why.starts_with(UNANSWERED))
}

/// What apt's methods say when there is no way to the mirror.
const UNREACHABLE: [&str; 8] = [
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect",
    "Cannot initiate the connection",
    "Unable to connect",
    "Connection failed",
    "Connection timed out",
    "Network is unreachable",
];

/// `program` of the apt family, isolated if it is given a configuration, in the C locale.
fn command(program: &str, configuration: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    if let Some(path) = configuration {
        command.arg("-c").arg(path);
    }
    command
}

/// The configuration of the isolated apt. `-c` has it read after the machine's own files, so that it can take back what
/// they set: hooks that clean up the machine's cache, index targets, pinning, a default release.
fn configuration(directory: &Path, arch: &str) -> String {
    let directory = directory.display();
    format!(
        r##"#clear APT::Update;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Architectures;
#clear Acquire::Languages;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages {{ "none"; }};
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "{directory}/state";
Dir::State::lists "{directory}/state/lists";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Cache::archives "{directory}/cache/archives";
Dir::Cache::pkgcache "{directory}/cache/pkgcache.bin";
Dir::Cache::srcpkgcache "{directory}/cache/srcpkgcache.bin";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"##
    )
}

/// Reads a line of `apt-get --print-uris`: `'URI' FILE SIZE HASH`. Whatever else apt prints there is not a package.
fn parse_uri_line(line: &str) -> Option<Package> {
    let mut fields = line.strip_prefix('\'')?.split_once("' ")?.1.split(' ');
    let (file, size) = (fields.next()?, fields.next()?.parse().ok()?);
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    let (name, version) = (name.to_owned(), version.replace("%3a", ":"));
    Some(Package {
        name,
        version,
        size,
        file: file.to_owned(),
    })
}

fn size_of_files(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum()
}

/// Leaves a file alone that already says what it should, because another process may be reading it.
fn write_if_different(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let failed = |error| Error::io("write", path, error);
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    file.persist(path)
        .map_err(|error| failed(error.error))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_suite_of_the_debian_mirror_is_chosen() {
        let targets = "http://m/docker/debian/\tbookworm\tstable\tDocker\n\
                       http://m/debian/\tbookworm-updates\tmain\tDebian\n\
                       http://m/pgdg/\tbookworm\tmain\tPGDG\n\
                       http://m/debian/\tbookworm\tcontrib\tDebian\n\
                       http://m/debian/\tbookworm\tmain\tDebian\n\
                       http://m/debian-security/\tbookworm-security\tmain\tDebian\n";
        assert_eq!(
            choose_source(targets),
            Some(("http://m/debian/".to_owned(), "bookworm".to_owned()))
        );
    }

    #[test]
    fn sources_are_read_from_what_apt_would_fetch() {
        let uris = "'http://m/debian/dists/bookworm/InRelease' m_debian_dists_bookworm_InRelease 0 \n\
                    'http://m/debian/dists/bookworm/main/binary-amd64/Packages.xz' m_Packages 0 \n\
                    'http://m/debian-security/dists/bookworm-security/main/binary-all/Packages.xz' m_Packages 0 \n";
        let sources = "http://m/debian/\tbookworm\tmain\nhttp://m/debian-security/\tbookworm-security\tmain\n";
        assert_eq!(sources_in(uris), sources);
        assert_eq!(
            choose_source(sources),
            Some(("http://m/debian/".to_owned(), "bookworm".to_owned()))
        );
    }

    #[test]
    fn a_machine_without_lists_is_known_by_its_mirror_path() {
        let targets = "http://m/other/\tstable\tmain\t\nhttp://m/debian\tstable\tmain\t\n";
        assert_eq!(
            choose_source(targets),
            Some(("http://m/debian".to_owned(), "stable".to_owned()))
        );
        assert_eq!(
            choose_source("http://m/ubuntu/\tnoble\tmain\tUbuntu\n"),
            None
        );
    }

    #[test]
    fn uri_lines_give_name_version_and_size() {
        let line = "'http://m/pool/main/b/busybox/busybox-static_1.37.0-6%2bb9_riscv64.deb' \
                    busybox-static_1%3a1.37.0-6+b9_riscv64.deb 941532 SHA256:4add";
        let package = parse_uri_line(line).expect("it is well-formed");
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("busybox-static", "1:1.37.0-6+b9")
        );
        assert_eq!(package.size, 941_532);
        assert_eq!(parse_uri_line("W: Download is performed unsandboxed"), None);
    }
}
