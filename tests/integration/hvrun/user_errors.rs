//! What a user gets for what does not work: one line that says what is wrong and what to do, and exit code 1 (or 2, for
//! the command line itself).

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;

use hv_lab::host::{Host, HostChip, HostConfig};
use hv_lab::provision;
use tempfile::TempDir;

use crate::fixture::{Kernel, STEP, command, host, hvrun, text};

/// hvrun fails with one line, which has all of these in it.
fn fails_on(host: &Host, arguments: &[String], expected: &[&str]) {
    let finished = command(host, arguments.iter().cloned())
        .output(STEP)
        .unwrap();
    assert_eq!(finished.status.code(), Some(1), "{arguments:?}: {finished}");
    let error = finished.stderr_text();
    assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    assert!(error.starts_with("hvrun: "), "{error}");
    for part in expected {
        assert!(
            error.contains(part),
            "{arguments:?}: {part:?} is not in: {error}"
        );
    }
    assert_eq!(finished.stdout_text(), "");
}

fn fails(arguments: &[String], expected: &[&str]) {
    fails_on(host(HostChip::Plic), arguments, expected);
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments
        .iter()
        .map(|&argument| argument.to_owned())
        .collect()
}

fn stable_with(more: &[&str]) -> Vec<String> {
    let mut arguments = Kernel::Stable.arguments();
    arguments.extend(owned(more));
    arguments
}

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        text(&self.0.path().join(name))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn kernels_that_cannot_boot() {
    let files = Files::new();
    let kernel = |path: &str, expected: &[&str]| {
        fails(&owned(&["--kernel", path]), &[&[path], expected].concat())
    };
    kernel(&files.path("missing"), &["no such file"]);
    kernel(&files.write("empty", b""), &["empty"]);
    kernel(&files.path(""), &["directory"]);
    kernel(&files.write("text", &[b'x'; 10_000]), &["text file"]);
    kernel(
        &files.write("disk", b"QFI\xfb\0\0\0\x03"),
        &["qcow2", "--disk"],
    );
    kernel(&files.write("initrd", b"07070100"), &["--initrd"]);
    kernel(&files.write("zeros", &[0; 10_000]), &["zeros"]);
    let mut volume = vec![0x13; 4096];
    volume[0x28..0x2c].copy_from_slice(b"_FVH");
    kernel(&files.write("edk2.fd", &volume), &["EDK2", "U-Boot"]);
    let large = files.path("large");
    let file = fs::File::create(&large).unwrap();
    file.set_len(600 << 20).unwrap();
    file.write_at(&[0x13], 0).unwrap();
    kernel(&large, &["602 MiB", "512", "--memory"]);

    let image = fs::read(&Kernel::Stable.arguments()[1]).unwrap();
    kernel(
        &files.write("truncated", &image[..image.len() / 2]),
        &["truncated"],
    );
    let zboot = fs::read(&Kernel::Backports.arguments()[1]).unwrap();
    kernel(
        &files.write("truncated-zboot", &zboot[..zboot.len() / 2]),
        &["truncated"],
    );

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&image[..1 << 20]).unwrap();
    let gzip = gzip.finish().unwrap();
    kernel(
        &files.write("truncated.gz", &gzip[..gzip.len() / 2]),
        &["end early"],
    );

    let mut arm = vec![0; 4096];
    arm[56..60].copy_from_slice(b"ARM\x64");
    kernel(&files.write("arm", &arm), &["64-bit Arm", "RISC-V"]);
    // A program of the developer's machine.
    kernel(&text(&std::env::current_exe().unwrap()), &["x86", "RISC-V"]);
}

/// Debian's U-Boot for machine mode, which lies beside the one that works.
#[test]
fn firmware_for_machine_mode_is_refused() {
    let u_boot = provision::u_boot().unwrap();
    for file in [&u_boot.binary, &u_boot.executable] {
        let machine_mode = text(file).replace("qemu-riscv64_smode", "qemu-riscv64");
        for option in ["--firmware", "--kernel"] {
            fails(
                &owned(&[option, &machine_mode]),
                &[&machine_mode, "machine mode", "qemu-riscv64_smode"],
            );
        }
    }
}

#[test]
fn things_that_do_not_fit_into_memory() {
    fails(&stable_with(&["--memory", "16M"]), &["memory", "--memory"]);
    let files = Files::new();
    let large = files.path("large-initrd");
    fs::File::create(&large)
        .unwrap()
        .set_len(600 << 20)
        .unwrap();
    let kernel = Kernel::Stable.arguments()[1].clone();
    fails(
        &owned(&["--kernel", &kernel, "--initrd", &large]),
        &["initrd", "512 MiB", "--memory"],
    );
}

#[test]
fn sizes_and_counts_out_of_range() {
    fails(&stable_with(&["--memory", "0"]), &["0 bytes", "--memory"]);
    fails(
        &stable_with(&["--memory", "900000T"]),
        &["guest-physical", "--memory"],
    );
    fails(&stable_with(&["--cpus", "0"]), &["--cpus"]);
    fails(&stable_with(&["--cpus", "100000"]), &["100000", "--cpus"]);
    fails(
        &stable_with(&["--irqchip", "aia"]),
        &["AIA", "--irqchip plic"],
    );
}

#[test]
fn initrds_and_disks_that_cannot_be_used() {
    let files = Files::new();
    let kernel = Kernel::Stable.arguments()[1].clone();
    let with = |option: &str, value: &str| owned(&["--kernel", &kernel, option, value]);
    let missing = files.path("missing");
    fails(&with("--initrd", &missing), &[&missing, "no such file"]);
    fails(&with("--initrd", &files.write("empty", b"")), &["empty"]);
    fails(&with("--initrd", &files.path("")), &["directory"]);
    fails(&with("--disk", &missing), &[&missing, "does not exist"]);
    fails(&with("--disk", &files.path("")), &["directory"]);
    fails(&with("--disk", &files.write("empty.img", b"")), &["empty"]);
    // What is no raw disk, and no initrd.
    for (name, magic, expected) in [
        (
            "a.qcow2",
            &b"QFI\xfb\0\0\0\x03"[..],
            "qemu-img convert -O raw",
        ),
        ("a.vmdk", b"KDMV\x01\0\0\0", "qemu-img convert -O raw"),
        ("a.vhdx", b"vhdxfile", "qemu-img convert -O raw"),
    ] {
        let image = files.write(name, &[magic, &[0; 4096]].concat());
        fails(&with("--disk", &image), &[&image, expected, "format=raw"]);
        fails(&with("--initrd", &image), &[&image, expected, "--disk"]);
    }
    for (name, magic, expected) in [
        ("a.img.gz", &b"\x1f\x8b\x08\0"[..], "gzip -dc"),
        ("a.img.xz", b"\xfd7zXZ\0", "xz -dc"),
        ("a.img.zst", b"\x28\xb5\x2f\xfd", "zstd -dc"),
    ] {
        let image = files.write(name, &[magic, &[0; 4096]].concat());
        fails(&with("--disk", &image), &[&image, expected, "format=raw"]);
    }

    // Somebody who may read an image and not write it.
    let image = files.write("readonly.img", &[0; 4096]);
    let nested = format!("{}{image}", hv_lab::host::LOCAL_ROOT);
    let host = host(HostChip::Plic);
    host.exec([
        "sh",
        "-c",
        &format!(
            "cp {nested} /tmp/readonly.img && chmod 444 /tmp/readonly.img && chmod 666 /dev/kvm"
        ),
    ])
    .check(STEP)
    .unwrap();
    let as_user = host
        .exec([format!("{}{}", hv_lab::host::LOCAL_ROOT, text(hvrun()))])
        .args([
            "--kernel",
            &format!("{}{kernel}", hv_lab::host::LOCAL_ROOT),
            "--disk",
            "/tmp/readonly.img",
        ])
        .user(1000, 1000)
        .output(STEP)
        .unwrap();
    let error = as_user.stderr_text();
    assert_eq!(
        (as_user.status.code(), error.lines().count()),
        (Some(1), 1),
        "{error}"
    );
    assert!(
        error.contains("/tmp/readonly.img") && error.contains("readonly=on"),
        "{error}"
    );
}

/// A pipe can be read once, and nobody may ever write to it.
#[test]
fn pipes_are_refused_and_not_waited_for() {
    let pipe = "/dev/shm/pipe";
    let make = host(HostChip::Plic).exec(["mkfifo", pipe]);
    make.check(STEP).unwrap();
    let expected = [pipe, "is a pipe", "give it as a file"];
    fails(&owned(&["--kernel", pipe]), &expected);
    fails(&owned(&["--firmware", pipe]), &expected);
    let kernel = Kernel::Stable.arguments()[1].clone();
    fails(&owned(&["--kernel", &kernel, "--initrd", pipe]), &expected);
    fails(&stable_with(&["--dtb", pipe]), &expected);
    fails(&stable_with(&["--disk", pipe]), &[pipe, "a pipe"]);
}

#[test]
fn device_trees_that_cannot_be_used() {
    let files = Files::new();
    let with = |path: &str, expected: &[&str]| {
        fails(
            &stable_with(&["--dtb", path]),
            &[&["device tree", path], expected].concat(),
        );
    };
    with(&files.path("missing"), &["no such file"]);
    with(&files.path(""), &["directory"]);
    with(&files.write("empty", b""), &["empty"]);
    with(&files.write("tree.dts", b"/dts-v1/;\n/ { };\n"), &["dtc"]);
    with(&files.write("image", &[0; 64]), &["no device tree"]);
    with(
        &files.write("truncated", b"\xd0\x0d\xfe\xed\0\0\x20\0\0\0\0\x38"),
        &["truncated", "8192"],
    );
    with(
        &files.write("large", b"\xd0\x0d\xfe\xed\x10\0\0\0"),
        &["268435456 bytes"],
    );
}

/// One byte more than Linux keeps.
#[test]
fn a_command_line_that_linux_would_cut_off_is_told_of() {
    let files = Files::new();
    for (length, lines) in [(1023, 0), (1024, 1)] {
        let finished = command(host(HostChip::Plic), Kernel::Stable.arguments())
            .args(["--dump-dtb", &files.path("tree"), "--cmdline"])
            .args(["x".repeat(length)])
            .check(STEP)
            .unwrap();
        let told = finished.stderr_text();
        assert_eq!(told.lines().count(), lines, "{told}");
        assert_eq!(told.contains("1024 bytes"), lines == 1, "{told}");
    }
}

#[test]
fn files_that_cannot_be_written() {
    let files = Files::new();
    let nowhere = files.path("none/x");
    let long = files.path(&"x".repeat(200));
    for (option, value, expected) in [
        ("--dump-dtb", nowhere.clone(), "no such directory"),
        ("--dump-dtb", files.path(""), "is a directory"),
        (
            "--console",
            format!("serial,to=file:{nowhere}"),
            "no such directory",
        ),
        (
            "--console",
            format!("serial,to=unix:{nowhere}"),
            "no such directory",
        ),
        ("--console", format!("serial,to=unix:{long}"), "too long"),
        (
            "--vsock",
            format!("cid=3,path={nowhere}"),
            "no such directory",
        ),
        ("--vsock", format!("cid=3,path={long}"), "at most 96 bytes"),
        (
            "--vsock",
            format!("cid=3,path={}", files.write("taken", b"text")),
            "a file is there that is no socket",
        ),
    ] {
        let path = value.rsplit([':', '=']).next().unwrap();
        fails(&stable_with(&[option, &value]), &[path, expected]);
    }
}

#[test]
fn a_command_line_that_makes_no_sense() {
    for (arguments, expected) in [
        (&[][..], "--kernel"),
        (
            &["--kernel", "Image", "--firmware", "u-boot.bin"],
            "exclude each other",
        ),
        (
            &["--firmware", "u-boot.bin", "--initrd", "initrd"],
            "--initrd goes with --kernel",
        ),
        (&["--kernle", "Image"], "--kernel"),
        (&["--kernel", "Image", "--memory", "lots"], "512M"),
        (&["--kernel", "Image", "--disk", "a.img,ro"], "readonly=on"),
        (&["--kernel", "Image", "--irqchip", "gic"], "plic"),
        (&["-hda", "disk.img"], "two dashes"),
        (
            &["--kernel", "Image", "--vsock", "cid=2,path=x"],
            "3 to 4294967294",
        ),
        (&["--kernel", "Image", "--vsock", "cid=3"], "path=PATH"),
        (&["--kernel", "Image", "--memory", "1.5G"], "1536M"),
        (&["--kernel", "Image", "--console", "vga"], "serial, virtio"),
        (
            &[
                "--kernel",
                "Image",
                "--console",
                "serial",
                "--console",
                "virtio",
            ],
            "to=pty",
        ),
    ] {
        let finished = command(host(HostChip::Plic), arguments.iter().copied())
            .output(STEP)
            .unwrap();
        assert_eq!(finished.status.code(), Some(2), "{arguments:?}: {finished}");
        assert!(
            finished.stderr_text().contains(expected),
            "{arguments:?}: {finished}"
        );
    }
}

#[test]
fn nine_disks_are_too_many() {
    let files = Files::new();
    let mut arguments = Kernel::Stable.arguments();
    for number in 0..9 {
        arguments.extend([
            "--disk".into(),
            files.write(&format!("{number}.img"), &[0; 512]),
        ]);
    }
    fails(&arguments, &["9 virtio devices", "8"]);
}

/// The error says what the doctor says, which knows whose the file is.
#[test]
fn no_permission_on_the_host_s_devices() {
    let config = HostConfig::new(HostChip::Plic).module("vhost_net");
    let host = Host::boot(config).unwrap();
    let program = format!("{}{}", hv_lab::host::LOCAL_ROOT, text(hvrun()));
    let kernel = format!(
        "{}{}",
        hv_lab::host::LOCAL_ROOT,
        Kernel::Stable.arguments()[1]
    );
    let as_user = |arguments: &[&str]| {
        let exec = host.exec([program.clone()]).args(arguments.iter().copied());
        exec.user(1000, 1000).output(STEP).unwrap()
    };
    let told = |subject: &str| {
        let finished = as_user(&["doctor", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&finished.stdout_text()).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["subject"] == subject);
        check.unwrap()["advice"].as_str().unwrap().to_owned()
    };
    let set = |device: &str, group: &str, mode: &str| {
        let command = format!("chgrp {group} {device} && chmod {mode} {device}");
        host.exec(["sh", "-c", &command]).check(STEP).unwrap();
    };
    let refused = |net: Option<&str>, device: &str, advice: &str, expected: &str| {
        let mut arguments = vec!["--kernel", &kernel];
        arguments.extend(net.iter().flat_map(|net| ["--net", net]));
        let finished = as_user(&arguments);
        let error = finished.stderr_text();
        assert_eq!(
            (finished.status.code(), error.lines().count()),
            (Some(1), 1),
            "{error}"
        );
        for part in ["no permission", device, advice, expected] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    };

    set("/dev/kvm", "100", "660");
    let advice = told("KVM");
    refused(None, "/dev/kvm", &advice, "sudo usermod -aG 100 $USER");
    // Its group does not help.
    set("/dev/kvm", "0", "600");
    let advice = told("KVM");
    refused(None, "/dev/kvm", &advice, "sudo chgrp kvm /dev/kvm");

    set("/dev/kvm", "0", "666");
    set("/dev/net/tun", "0", "600");
    let advice = told("network");
    let net = "tap=tap0,vhost=off";
    refused(Some(net), "/dev/net/tun", &advice, "sudo chmod 666");
    set("/dev/vhost-net", "0", "600");
    let advice = told("vhost-net");
    let net = "tap=tap0,vhost=on";
    refused(Some(net), "/dev/vhost-net", &advice, "leave vhost=on away");
    refused(Some(net), "/dev/vhost-net", &advice, "sudo chgrp kvm");
}

#[test]
fn no_kvm_module_and_no_hypervisor_extension() {
    let kernel = Kernel::Stable.arguments()[1].clone();
    let without_module = Host::boot(HostConfig::new(HostChip::Plic).without_kvm()).unwrap();
    fails_on(
        &without_module,
        &owned(&["--kernel", &kernel]),
        &["/dev/kvm", "modprobe kvm"],
    );
    drop(without_module);
    let without_h = Host::boot(
        HostConfig::new(HostChip::Plic)
            .without_kvm()
            .cpu("rv64,h=false"),
    )
    .unwrap();
    fails_on(
        &without_h,
        &owned(&["--kernel", &kernel]),
        &["hypervisor extension"],
    );
}

/// No file of the machine's is emptied for an output, whichever it is and by whatever name.
#[test]
fn outputs_do_not_overwrite_what_the_machine_is_made_of() {
    let files = Files::new();
    let disk = files.write("disk", &[7; 4096]);
    let link = files.path("link");
    fs::hard_link(&disk, &link).unwrap();
    let kernel = files.path("kernel");
    fs::copy(&Kernel::Stable.arguments()[1], &kernel).unwrap();
    let initrd = files.write("initrd", b"070701");
    let before = fs::read(&kernel).unwrap();
    let machine = ["--kernel", &kernel, "--initrd", &initrd, "--disk", &disk];
    let log = files.write("log", b"from before");
    for (output, expected) in [
        (&disk, "this machine's disk"),
        (&link, "this machine's disk"),
        (&kernel, "this machine's kernel"),
        (&initrd, "this machine's initrd"),
    ] {
        let console = format!("serial,to=file:{output}");
        let port = format!("virtio,port=a,to=file:{output}");
        for more in [
            &["--console", &console][..],
            &["--console", "none", "--console", &port],
            &["--dump-dtb", output],
        ] {
            fails(&owned(&[&machine, more].concat()), &[output, expected]);
        }
    }
    // One file for two outputs, also where one of them is the device tree.
    let console = format!("serial,to=file:{log}");
    let port = format!("virtio,port=a,to=file:{log}");
    for more in [
        &["--console", &console, "--console", &port][..],
        &["--console", &console, "--dump-dtb", &log],
    ] {
        fails(&owned(&[&machine, more].concat()), &[&log, "given twice"]);
    }
    // Nor is a console's file by what fails for another reason.
    let missing = files.path("missing");
    let arguments = ["--kernel", &missing, "--console", &console];
    fails(&owned(&arguments), &["no such file"]);
    assert_eq!(fs::read(&log).unwrap(), b"from before");
    assert_eq!(fs::read(&disk).unwrap(), [7; 4096]);
    assert_eq!(fs::read(&initrd).unwrap(), b"070701");
    assert!(fs::read(&kernel).unwrap() == before);
}
