//! `cargo hvrun --bare`, `cargo lab bundle` and `cargo lab bare`, started as their users start them: the bare-metal
//! hypervisor under QEMU, with guests of every kind.

#![allow(clippy::unwrap_used, clippy::panic)] // In helpers, which the lint does not take for tests.

#[path = "shared/session.rs"]
mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hv_lab::provision::{self, DebianKernel, GUEST_PROMPT};
use session::Session;
use tempfile::TempDir;

/// Long enough for anything here on any machine.
const LONG: Duration = Duration::from_secs(600);

fn lab(host: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(arguments).env("HVRUN_LAB_HOST", host);
    command
}

/// Starts a launcher.
fn start(command: &mut Command) -> Session {
    Session::start(command, LONG)
}

/// Its exit code and everything it printed, once it has found the end of its input.
fn finish(mut session: Session) -> (Option<i32>, String) {
    session.end_input();
    session.finish()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A flat binary that reports failure 7 through the test device:
/// `lui t0, 0x100; lui t1, 0x73; addiw t1, t1, 0x333; sw t1, 0(t0); j .`
fn ends_with_7(directory: &Path) -> PathBuf {
    let words = [
        0x0010_02b7_u32,
        0x0007_3337,
        0x3333_031b,
        0x0062_a023,
        0x0000_006f,
    ];
    let path = directory.join("seven.bin");
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_guests_failure_is_the_commands_exit_code() {
    let directory = TempDir::new().unwrap();
    let kernel = ends_with_7(directory.path());
    for host in ["plic", "aia"] {
        let arguments = ["hvrun", "--bare", "--cpus", "2", "--kernel", text(&kernel)];
        let (code, output) = finish(start(&mut lab(host, &arguments)));
        assert_eq!(code, Some(7), "{host}: {output}");
        assert!(output.contains("hv-bare: guest main"), "{output}");
    }
}

/// What the README says of hvrun holds with one option more: files, disks and piped commands.
#[test]
fn linux_boots_from_its_disk() {
    let files = provision::debian_kernel(DebianKernel::Stable).unwrap();
    let initrd = provision::guest_initrd(&files).unwrap();
    let directory = TempDir::new().unwrap();
    let disk = directory.path().join("root.img");
    provision::guest_disk(&disk, 64 << 20).unwrap();
    for (virtio, version) in [("modern", "2"), ("legacy", "1")] {
        let mut command = lab("plic", &["hvrun", "--bare", "--cpus", "2"]);
        command.args(["--memory", "256M", "--virtio", virtio]);
        command.arg("--kernel").arg(&files.image);
        command.arg("--initrd").arg(&initrd);
        command.arg("--disk").arg(&disk);
        let mut session = start(&mut command);
        // Sent before there is a machine: nothing gets lost.
        session.send("nproc; cat /proc/cmdline\n");
        session.send(
            "head -c 3000000 /dev/urandom > /data; sync; echo 3 > /proc/sys/vm/drop_caches\n",
        );
        session.send("md5sum /data; md5sum /data; grep -o 'vd[a-z]' /proc/partitions\npoweroff\n");
        let (code, output) = finish(session);
        assert_eq!(code, Some(0), "{output}");
        assert!(
            output.contains("\n2\nconsole=ttyS0 root=/dev/vda rw\n"),
            "{output}"
        );
        let sums: Vec<_> = output
            .lines()
            .filter(|line| line.ends_with("  /data"))
            .collect();
        assert_eq!(sums.len(), 2, "{version}: {output}");
        assert_eq!(sums[0], sums[1]);
        let mut check = provision::e2fsck().unwrap();
        let checked = check.arg("-fn").arg(&disk).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }
}

/// Options without a kernel are for the default guest.
#[test]
fn the_default_guest_takes_options() {
    let directory = TempDir::new().unwrap();
    let disk = directory.path().join("new.img");
    let mut command = lab("plic", &["hvrun", "--bare", "--cpus", "2"]);
    let mut session = start(command.env("HVRUN_LAB_DISK", &disk));
    session.send("nproc; cat /proc/cmdline; poweroff\n");
    let (code, output) = finish(session);
    assert_eq!(code, Some(0), "{output}");
    let printed = "\n2\nconsole=ttyS0 root=/dev/vda rw\n";
    assert!(output.contains(printed), "{output}");
    assert!(disk.exists());
}

#[test]
fn two_guests_run_side_by_side() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.ancestors().nth(2).unwrap();
    let source = workspace.join("resources/bare/two-linux.dts");
    let directory = TempDir::new().unwrap();
    let bundle = directory.path().join("bundle");
    let made = run(&mut lab(
        "plic",
        &["bundle", text(&source), "-o", text(&bundle)],
    ));
    assert!(made.status.success(), "{made:?}");
    let mut session = start(&mut lab("plic", &["bare", text(&bundle)]));
    let prompt = |name: &str| format!("[{name}] {GUEST_PROMPT}");
    session.wait_for(&prompt("one"));
    session.send("echo in-$((6*7)) $(nproc)\n");
    session.wait_for("[one] in-42 2");
    // Ctrl-a and the guest's number.
    session.send("\x012");
    session.wait_for("hv-bare: the keyboard is guest two's");
    session.send("\necho at-$((6*7)) $(nproc)\n");
    session.wait_for("[two] at-42 2");
    session.send("poweroff\n");
    session.wait_for("hv-bare: guest two has ended with code 0");
    session.send("\x011");
    session.wait_for("hv-bare: the keyboard is guest one's");
    session.send("\necho still-$((6*7))\n");
    session.wait_for("[one] still-42");
    session.send("poweroff\n");
    let (code, output) = finish(session);
    assert_eq!(code, Some(0), "{output}");
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// One line, before anything is built or started.
#[test]
fn what_is_wrong_is_told_in_one_line() {
    let directory = TempDir::new().unwrap();
    let kernel = ends_with_7(directory.path());
    let kernel = text(&kernel);
    let dts = directory.path().join("wrong.dts");
    fs::write(
        &dts,
        "/dts-v1/;\n/ { compatible = \"hvrun,bundle\"; oops };\n",
    )
    .unwrap();
    for (arguments, code, words) in [
        (
            &["hvrun", "--bare", "--net", "tap=tap0", "--kernel", kernel][..],
            2,
            "--net",
        ),
        // Refused before the default guest is set up.
        (&["hvrun", "--bare", "--net", "tap=tap0"], 2, "--net"),
        (
            &["hvrun", "--bare", "--kernel", kernel, "--firmware", kernel],
            2,
            "exclude each other",
        ),
        (
            &["hvrun", "--bare", "--kernel", "/does/not/exist"],
            1,
            "no such file",
        ),
        (
            &["hvrun", "--bare", "--kernel", kernel, "--disk", "/none"],
            1,
            "does not exist",
        ),
        (
            &["hvrun", "--bare", "--kernel", kernel, "--memory", "1M"],
            1,
            "--memory",
        ),
        (&["bare", kernel], 125, "cargo lab bundle"),
        (
            &["bundle", text(&dts), "-o", "/dev/null"],
            125,
            "wrong.dts:2",
        ),
    ] {
        let output = run(&mut lab("plic", arguments));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        let last = error.lines().last().unwrap();
        assert!(last.contains(words), "{error}");
        assert!(output.stdout.is_empty());
    }
}

/// A bundle that only the hypervisor sees.
#[test]
fn a_damaged_bundle_ends_the_machine_with_a_failure() {
    let directory = TempDir::new().unwrap();
    ends_with_7(directory.path());
    let source = directory.path().join("guest.dts");
    let guest = "guests { a { kernel = /incbin/(\"seven.bin\"); }; };";
    fs::write(
        &source,
        format!("/dts-v1/;\n/ {{ compatible = \"hvrun,bundle\"; {guest} }};\n"),
    )
    .unwrap();
    let bundle = directory.path().join("bundle");
    let made = run(&mut lab(
        "plic",
        &["bundle", text(&source), "-o", text(&bundle)],
    ));
    assert!(made.status.success(), "{made:?}");
    let damaged = directory.path().join("damaged");
    let bytes = fs::read(&bundle).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() - 100]).unwrap();
    let arguments = ["bare", text(&bundle), "-initrd", text(&damaged)];
    let (code, output) = finish(start(&mut lab("plic", &arguments)));
    assert!(code.is_some_and(|code| code != 0), "{output}");
    let complaints = output.lines().filter(|line| line.starts_with("hv-bare: "));
    assert_eq!(complaints.count(), 1, "{output}");
}
