//! Linux, unmodified: from an initrd, from a disk that is the host's, and two at once; and U-Boot.

use std::fs;
use std::path::{Path, PathBuf};

use hv_lab::bare::bundle::Guest;
use hv_lab::initramfs::Initramfs;
use hv_lab::provision::{self, DebianKernel, GUEST_GREETING, GUEST_PROMPT};

use crate::fixture::{Chip, MAX_CPU, Setup, guest, lines_of};
use crate::guest_disk::Disk;
use crate::session::Session;

/// Debian's kernel, with its modules and a small userland in an initrd.
fn debian(name: &str, harts: u32, command_line: &str) -> Guest {
    let files = provision::debian_kernel(DebianKernel::Stable).unwrap();
    Guest {
        harts,
        memory_mib: 256,
        initrd: Some(provision::guest_initrd(&files).unwrap()),
        command_line: Some(command_line.into()),
        ..guest(name, &files.image)
    }
}

/// A kernel with its drivers built in.
fn small(name: &str, harts: u32, command_line: &str) -> Guest {
    Guest {
        harts,
        memory_mib: 256,
        command_line: Some(command_line.into()),
        ..guest(name, &provision::small_kernel().unwrap().image)
    }
}

fn power_off(mut run: Session) {
    run.send("poweroff\n");
    let (code, output) = run.finish();
    assert_eq!(code, Some(0), "{output}");
}

/// A shell to which a person types.
#[test]
fn debian_gives_a_shell_from_its_initrd() {
    for (chip, harts, cpu) in [
        (Chip::AplicDirect, 1, None),
        (Chip::Plic, 4, None),
        (Chip::Aia, 2, Some(MAX_CPU)),
    ] {
        let setup = Setup {
            cpu,
            ..Setup::new(chip, [debian("linux", harts, "console=ttyS0 quiet")])
        };
        let mut run = setup.boot();
        run.wait_for(GUEST_PROMPT);
        assert_eq!(run.run("nproc"), harts.to_string());
        run.send("read line; echo \"<$line>\"\nwhat was typed\n");
        run.wait_for("<what was typed>\n");
        power_off(run);
    }
}

/// What is written to the disk is there when it is read again, in the guest, after a restart, and from outside.
fn lives_on_a_disk(chip: Chip, legacy_virtio: bool, guest: Guest) {
    let disk = Disk::new();
    let setup = Setup {
        legacy_virtio,
        ..Setup::new(chip, [guest]).passed_disk(&disk.image, 0, Some(2))
    };
    let mut run = setup.boot();
    run.wait_for(GUEST_PROMPT);
    run.run("test -e /sys/bus/platform/devices/10003000.virtio_mmio/virtio*/block/vda");
    run.run("head -c 6000000 /dev/urandom > /root/random; seq 200000 > /root/numbers; sync");
    run.run("echo 3 > /proc/sys/vm/drop_caches");
    let sum = run.run("md5sum < /root/random");
    run.run("echo 3 > /proc/sys/vm/drop_caches");
    assert_eq!(run.run("md5sum < /root/random"), sum);
    run.send("reboot\n");
    run.wait_for(GUEST_GREETING);
    run.wait_for(GUEST_PROMPT);
    assert_eq!(run.run("md5sum < /root/random"), sum);
    assert_eq!(
        run.run("md5sum < /root/numbers"),
        run.run("seq 200000 | md5sum")
    );
    power_off(run);
    disk.assert_clean();
    assert_eq!(disk.read_file("/root/numbers").lines().count(), 200_000);
}

#[test]
fn debian_lives_on_a_legacy_disk() {
    let guest = debian("linux", 2, "console=ttyS0 quiet root=/dev/vda rw");
    lives_on_a_disk(Chip::Plic, true, guest);
}

#[test]
fn a_small_kernel_lives_on_a_modern_disk() {
    let guest = small("linux", 2, "console=ttyS0 quiet root=/dev/vda rw");
    lives_on_a_disk(Chip::Aia, false, guest);
}

/// U-Boot, as a flat binary and as an ELF file, to its prompt, restarted and switched off by its own commands. A disk it can have
/// none here: its first stack is below the address that it is linked to, and the memory of guests with a device begins there.
#[test]
fn u_boot_gives_a_prompt() {
    let u_boot = provision::u_boot().unwrap();
    for (chip, firmware) in [
        (Chip::Plic, &u_boot.binary),
        (Chip::Aia, &u_boot.executable),
    ] {
        let mut run = Setup::new(chip, [guest("u-boot", firmware)]).boot();
        for end in ["reset\n", "poweroff\n"] {
            run.wait_for("U-Boot 20");
            run.wait_for("Hit any key");
            run.send(" ");
            run.wait_for("\n=> ");
            run.send("setexpr sum 0x2a + 0x800; echo is-${sum}\n");
            run.wait_for("is-82a");
            run.send(end);
        }
        let (code, output) = run.finish();
        assert_eq!(code, Some(0), "{output}");
    }
}

/// U-Boot, as a flat binary, finds the kernel on the disk by its own means and boots it, also a second time.
#[test]
fn u_boot_boots_linux_from_a_disk() {
    let u_boot = provision::u_boot().unwrap();
    let disk = Disk::new();
    let firmware = Guest {
        harts: 2,
        memory_mib: 256,
        ..guest("u-boot", &u_boot.binary)
    };
    let setup = Setup::new(Chip::Plic, [firmware]).passed_disk(&disk.bootable(), 0, None);
    let mut run = setup.boot();
    for is_last in [false, true] {
        run.wait_for("U-Boot 20");
        run.wait_for(GUEST_PROMPT);
        let line = run.run("cat /proc/cmdline");
        assert!(line.ends_with("root=/dev/vda1 rw from=extlinux"), "{line}");
        assert_eq!(run.run("nproc"), "2");
        if !is_last {
            run.send("reboot\n");
        }
    }
    power_off(run);
}

/// An initrd whose first process is this script for busybox's shell.
fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let mut archive = Initramfs::new();
    let busybox = fs::read(provision::busybox().unwrap()).unwrap();
    archive.file("busybox", 0o755, &busybox);
    for path in ["dev", "proc", "tmp"] {
        archive.directory(path);
    }
    let head = "#!/busybox sh\n/busybox mount -t devtmpfs none /dev\n/busybox mount -t proc none /proc\n\
                /busybox mount -t tmpfs none /tmp\nexec >/dev/console 2>&1\n";
    archive.file("init", 0o755, format!("{head}{text}").as_bytes());
    let path = directory.join(name);
    fs::write(&path, archive.finish()).unwrap();
    path
}

/// Copies data on every hart, and compares, until a line is typed.
const COPIES: &str = "
copy() {
    count=0
    /busybox dd if=/dev/urandom of=/tmp/$1 bs=64k count=32 2>/dev/null
    sum=$(/busybox md5sum </tmp/$1)
    until [ $count -gt 0 -a -e /tmp/stop ]; do
        /busybox cp /tmp/$1 /tmp/$1.copy
        [ \"$(/busybox md5sum </tmp/$1.copy)\" = \"$sum\" ] || { echo \"copy $1 is wrong\"; return; }
        count=$((count + 1))
    done
    echo \"all of $count copies are right\"
}
copy one & copy two &
read line </dev/console
: >/tmp/stop
wait
/busybox poweroff -f
";

/// Each of two harts, and one guest restarts over and over meanwhile.
#[test]
fn a_guest_restarts_alone() {
    let directory = tempfile::tempdir().unwrap();
    let restarts = Guest {
        initrd: Some(script(
            directory.path(),
            "restarts",
            "echo \"runs on $(/busybox nproc)\"\n/busybox reboot -f\n",
        )),
        ..small("restarts", 2, "console=ttyS0 quiet")
    };
    let copies = Guest {
        initrd: Some(script(directory.path(), "copies", COPIES)),
        ..small("copies", 2, "console=ttyS0 quiet")
    };
    for chip in [Chip::Plic, Chip::Aia] {
        let mut run = Setup::new(chip, [restarts.clone(), copies.clone()]).boot();
        for _ in 0..3 {
            run.wait_for("runs on 2");
        }
        // To the second guest, and back.
        run.send("\x012\n\x011");
        run.wait_for("hv-bare: guest copies has ended with code 0\n");
        // It goes on without the other.
        for _ in 0..2 {
            run.wait_for("runs on 2");
        }
        run.send("\x01x");
        run.wait_for("hv-bare: switched off");
        let (code, output) = run.finish();
        assert_eq!(code, Some(0), "{output}");
        let said = lines_of(&output, "copies");
        assert_eq!(said.matches("are right").count(), 2, "{output}");
    }
}
