//! The nested host itself: all kinds boot, and what hvrun's tests rely on holds.

use std::fs;
use std::time::Duration;

use hv_lab::host::{
    ErrorKind, ExitStatus, Host, HostChip, HostConfig, LOCAL_ROOT, Result, Stdio, Stream,
};
use hv_lab::provision::cross_build;

/// Long enough for anything here on any machine.
const LONG: Duration = Duration::from_secs(120);

/// For what must not happen at all.
const SHORT: Duration = Duration::from_millis(300);

fn on_all(test: impl Fn(&Host) -> Result<()>) -> Result<()> {
    for chip in HostChip::ALL {
        test(Host::shared(chip)?)?;
    }
    Ok(())
}

#[test]
fn kvm_is_there_with_the_interrupt_chip_of_the_host() -> Result<()> {
    on_all(|host| {
        assert_eq!(
            host.exec(["uname", "-m"]).check(LONG)?.stdout_text(),
            "riscv64"
        );
        host.exec(["test", "-c", "/dev/kvm"]).check(LONG)?;
        let log = host.exec(["dmesg"]).check(LONG)?.stdout_text();
        assert!(
            log.contains("kvm [1]: hypervisor extension available"),
            "{log}"
        );
        assert_eq!(
            log.contains("AIA available"),
            host.chip().has_aia(),
            "{log}"
        );
        Ok(())
    })
}

#[test]
fn processes_report_their_outputs_and_exit_codes() -> Result<()> {
    on_all(|host| {
        let finished = host
            .exec(["sh", "-c", "echo out; echo err >&2; exit 42"])
            .output(LONG)?;
        assert_eq!(finished.status, ExitStatus::Code(42));
        assert_eq!(finished.stdout_text(), "out");
        assert_eq!(finished.stderr_text(), "err");

        let error = host.exec(["no-such-program"]).spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);

        let process = host.exec(["sleep", "1000"]).spawn()?;
        process.signal(libc::SIGKILL)?;
        assert_eq!(process.wait(LONG)?, ExitStatus::Signal(libc::SIGKILL));
        Ok(())
    })
}

#[test]
fn much_data_arrives_whole_in_both_directions() -> Result<()> {
    let host = Host::shared(HostChip::Plic)?;
    let process = host.exec(["cat"]).stdin(Stdio::Pipe).spawn()?;
    let sent: Vec<u8> = (0..2_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    process.write_stdin(&sent, LONG)?;
    let finished = process.finish(LONG)?;
    assert!(finished.status.success());
    assert!(finished.stdout == sent);
    Ok(())
}

#[test]
fn a_terminal_has_a_size_and_its_keys_are_signals() -> Result<()> {
    let host = Host::shared(HostChip::Aia)?;
    let mut console = host.exec(["sh"]).terminal(33, 111).console()?;
    console.wait_for("# ", LONG)?;
    assert_eq!(
        console.run("tty && stty size", LONG)?.text.lines().last(),
        Some("33 111")
    );
    console.process().resize(44, 122)?;
    assert_eq!(console.run("stty size", LONG)?.text, "44 122");
    console.send_line("echo sleeping; sleep 1000")?;
    console.wait_for("sleeping\n", LONG)?;
    console.send("\x03")?;
    console.wait_for("# ", LONG)?;
    assert_eq!(console.run("(exit 7)", LONG)?.code, 7);
    Ok(())
}

#[test]
fn a_wait_ends_in_time_and_the_error_shows_what_was_printed() -> Result<()> {
    let host = Host::shared(HostChip::Plic)?;
    let mut console = host
        .exec(["sh", "-c", "echo so far; sleep 1000"])
        .console()?;
    console.wait_for("so far", LONG)?;
    let error = console.wait_for("never printed", SHORT).unwrap_err();
    assert!(error.is_timeout());
    assert!(error.to_string().contains("so far"), "{error}");
    assert_eq!(error.logs(), Some(host.log_directory()));
    Ok(())
}

#[test]
fn the_developers_files_are_there_under_their_own_paths() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a file");
    fs::write(&path, "from outside").unwrap();
    on_all(|host| {
        let inside = host.local_path(&path);
        assert_eq!(host.read_file(inside.to_str().unwrap())?, b"from outside");

        let written = directory.path().join(host.chip().name());
        host.write_file(host.local_path(&written).to_str().unwrap(), b"from inside")?;
        assert_eq!(fs::read(&written).unwrap(), b"from inside");

        // A program of the developer's machine, which says what it is and refuses to go on.
        let agent = cross_build("hv-lab-agent", "agent").unwrap();
        let finished = host.local(&agent)?.output(LONG)?;
        assert_eq!(finished.status, ExitStatus::Code(1));
        assert!(
            finished
                .stderr_text()
                .contains("this is the init of hvrun's lab")
        );
        Ok(())
    })
}

#[test]
fn a_change_on_either_machine_is_seen_when_the_file_is_opened() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    on_all(|host| {
        let inside = host.local_path(&path).to_str().unwrap().to_owned();
        for round in 0..3 {
            // The same size, and most likely the same second.
            fs::write(&path, format!("outside {round}")).unwrap();
            assert_eq!(
                host.read_file(&inside)?,
                format!("outside {round}").as_bytes()
            );
            host.write_file(&inside, format!("inside {round}").as_bytes())?;
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                format!("inside {round}")
            );
        }
        Ok(())
    })
}

#[test]
fn the_nested_hosts_own_devices_lie_over_the_developers() -> Result<()> {
    let host = Host::shared(HostChip::Aia)?;
    for path in [
        "dev/kvm",
        "dev/pts/ptmx",
        "proc/1/stat",
        "sys/class/virtio-ports",
    ] {
        host.exec(["test", "-e", &format!("{LOCAL_ROOT}/{path}")])
            .check(LONG)?;
    }
    Ok(())
}

#[test]
fn another_user_may_not_use_kvm() -> Result<()> {
    let host = Host::shared(HostChip::Plic)?;
    let script = "id -u; exec 3<>/dev/kvm";
    let finished = host
        .exec(["sh", "-c", script])
        .user(1000, 1000)
        .output(LONG)?;
    assert_eq!(finished.stdout_text(), "1000");
    assert!(!finished.status.success());
    assert!(
        finished.stderr_text().contains("Permission denied"),
        "{finished}"
    );
    Ok(())
}

#[test]
fn tests_in_several_threads_share_a_host() -> Result<()> {
    let host = Host::shared(HostChip::Plic)?;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..8)
            .map(|number| scope.spawn(move || host.exec(["echo", &number.to_string()]).check(LONG)))
            .collect();
        for (number, process) in running.into_iter().enumerate() {
            let finished = process.join().unwrap()?;
            assert_eq!(finished.stdout_text(), number.to_string());
        }
        Ok(())
    })
}

#[test]
fn a_host_of_its_own_without_kvm_switches_off() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "shared").unwrap();
    let extra = directory.path().join("script");
    fs::write(&extra, "#!/bin/sh\necho it runs\n").unwrap();
    let config = HostConfig::new(HostChip::Plic)
        .without_kvm()
        .without_local_files()
        .memory_mib(512)
        .harts(1)
        .share(directory.path(), "/mnt", true)
        .file("/opt/script", &extra);
    let host = Host::boot(config)?;
    assert!(
        !host
            .exec(["test", "-e", "/dev/kvm"])
            .output(LONG)?
            .status
            .success()
    );
    assert_eq!(
        host.exec(["/opt/script"]).check(LONG)?.stdout_text(),
        "it runs"
    );
    assert_eq!(host.read_file("/mnt/file")?, b"shared");
    assert!(host.write_file("/mnt/file", b"changed").is_err());
    assert_eq!(host.local(&extra).unwrap_err().kind(), ErrorKind::Refused);
    let pid = host.qemu_pid();
    host.power_off(LONG)?;
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    Ok(())
}

#[test]
fn a_host_that_ends_ends_its_processes() -> Result<()> {
    let host = Host::boot(HostConfig::new(HostChip::Plic).harts(1).memory_mib(512))?;
    let process = host
        .exec(["sh", "-c", "echo started; sleep 1000"])
        .spawn()?;
    assert_eq!(process.read(Stream::Stdout, LONG)?, b"started\n");
    // The kernel's own end, at once and without a word to anybody.
    host.write_file("/proc/sysrq-trigger", b"c").ok();
    let error = process.wait(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Host);
    assert!(error.to_string().contains("Kernel panic"), "{error}");
    Ok(())
}

#[test]
fn a_host_that_does_not_start_says_why() {
    let error = Host::boot(HostConfig::new(HostChip::Plic).cpu("no-such-cpu")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Host);
    assert!(
        error
            .summary()
            .starts_with("the nested host did not start: QEMU ended with"),
        "{error}"
    );
    assert!(error.summary().contains("no-such-cpu"), "{error}");
    assert!(error.logs().is_some());

    let config = HostConfig::new(HostChip::Plic).boot_timeout(SHORT);
    let error = Host::boot(config).unwrap_err();
    assert!(error.is_timeout(), "{error}");
}
