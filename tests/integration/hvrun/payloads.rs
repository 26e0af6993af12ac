//! What hart 0 begins with, apart from a Linux kernel as it is built: firmware, compressed files, flat and ELF programs, and
//! device trees of the user's.

use std::fs;
use std::io::Write;
use std::path::Path;

use hv_lab::host::HostChip;
use hv_lab::initramfs::Initramfs;
use hv_lab::provision::{self, GUEST_PROMPT};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::fixture::{BOOT, Disk, Kernel, STEP, chips, command, host, power_off, run, text};
use crate::program::{A0, A1, FAIL, PASS, branch, li, lw, test_device};

/// The file, compressed by the program that the kind of host stands for, so that both are seen in few boots.
fn pack(chip: HostChip, bytes: &[u8]) -> (&'static str, Vec<u8>) {
    match chip {
        HostChip::Plic => ("zst", compress_to_vec(bytes, CompressionLevel::Fastest)),
        HostChip::Aia | HostChip::AiaFiles => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).unwrap();
            ("gz", gzip.finish().unwrap())
        }
    }
}

/// U-Boot, as a flat binary and as an ELF file, finds the kernel on the disk by its own means and boots it, also a second time.
#[test]
fn u_boot_boots_linux_from_a_disk() {
    let u_boot = provision::u_boot().unwrap();
    for chip in chips() {
        let firmware = match chip {
            HostChip::Plic => &u_boot.binary,
            HostChip::Aia | HostChip::AiaFiles => &u_boot.executable,
        };
        let disk = Disk::new();
        let image = disk.bootable();
        let mut console = command(host(chip), ["--firmware", &text(firmware)])
            .args(["--disk", &text(&image), "--cpus", "2"])
            .console()
            .unwrap()
            .reject("Kernel panic")
            .reject("Oops");
        for _ in 0..2 {
            console.wait_for("U-Boot 20", BOOT).unwrap();
            console.wait_for(GUEST_PROMPT, BOOT).unwrap();
            let line = run(&mut console, "cat /proc/cmdline");
            assert!(line.ends_with("root=/dev/vda1 rw from=extlinux"), "{line}");
            assert_eq!(run(&mut console, "nproc"), "2");
            console.send_line("reboot").unwrap();
        }
        console.wait_for("U-Boot 20", BOOT).unwrap();
        console.wait_for(GUEST_PROMPT, BOOT).unwrap();
        power_off(console);
    }
}

#[test]
fn kernels_may_be_compressed() {
    let kernel = fs::read(provision::small_kernel().unwrap().image).unwrap();
    for chip in chips() {
        let disk = Disk::new();
        let (extension, packed) = pack(chip, &kernel);
        let path = disk.beside(&format!("Image.{extension}"));
        fs::write(&path, packed).unwrap();
        let mut console = command(host(chip), ["--kernel", &text(&path)])
            .args(disk.argument())
            .console()
            .unwrap();
        console.wait_for(GUEST_PROMPT, BOOT).unwrap();
        power_off(console);
    }
}

/// The small kernel undoes no zstd, and gets its initrd unpacked.
#[test]
fn initrds_may_be_compressed() {
    let mut archive = Initramfs::new();
    archive.file(
        "busybox",
        0o755,
        &fs::read(provision::busybox().unwrap()).unwrap(),
    );
    archive.file(
        "init",
        0o755,
        b"#!/busybox sh\n/busybox echo The initrd runs.\n/busybox poweroff -f\n",
    );
    let archive = archive.finish();
    let directory = tempfile::tempdir().unwrap();
    for chip in chips() {
        let (extension, packed) = pack(chip, &archive);
        let path = directory.path().join(format!("initrd.{extension}"));
        fs::write(&path, packed).unwrap();
        let kernel = text(&provision::small_kernel().unwrap().image);
        let finished = command(host(chip), ["--kernel", &kernel, "--initrd", &text(&path)])
            .check(STEP)
            .unwrap();
        let output = finished.stdout_text();
        assert!(output.contains("The initrd runs."), "{output}");
    }
}

/// Code that goes on if the registers are equal, and ends with this exit code if they are not.
fn expect_equal(a: u32, b: u32, exit_code: u32) -> Vec<u32> {
    const BEQ: u32 = 0;
    let failed = test_device(exit_code << 16 | FAIL);
    let skip = u32::try_from(4 * failed.len() + 4).unwrap();
    [vec![branch(BEQ, a, b, skip)], failed].concat()
}

/// A program that succeeds if it begins at twice this address, in hart 0 and with a device tree. (Twice, because RAM lies above
/// the positive numbers of 32 bits.)
fn program(half_address: i32) -> Vec<u8> {
    const A2: u32 = 12;
    let mut code = vec![A2 << 7 | 0x17]; // auipc a2, 0
    code.extend(expect_equal(A0, 0, 2));
    code.extend(li(A0, half_address));
    code.push(1 << 20 | A0 << 15 | 1 << 12 | A0 << 7 | 0x13); // slli a0, a0, 1
    code.extend(expect_equal(A0, A2, 3));
    code.push(lw(A2, A1, 0));
    code.extend(li(A0, 0xd00d_feed_u32.swap_bytes().cast_signed()));
    code.extend(expect_equal(A0, A2, 4));
    code.extend(test_device(PASS));
    code.iter()
        .flat_map(|instruction| instruction.to_le_bytes())
        .collect()
}

/// An ELF executable of this one segment, entered at its beginning.
fn executable(code: &[u8], virtual_address: u64, physical_address: u64) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let half = u16::to_le_bytes;
    let word = u32::to_le_bytes;
    let size = u64::try_from(code.len()).unwrap();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([half(2), half(243)].concat()); // an executable for RISC-V
    file.extend(word(1));
    for value in [virtual_address, 64, 0] {
        file.extend(value.to_le_bytes()); // entry point, program headers, section headers
    }
    file.extend(word(0));
    file.extend([64, 56, 1, 0, 0, 0].map(half).concat());
    file.extend([word(1), word(5)].concat()); // loaded, readable and executable
    for value in [HEADERS, virtual_address, physical_address, size, size, 4] {
        file.extend(value.to_le_bytes());
    }
    file.extend(code);
    file
}

#[test]
fn flat_binaries_and_elf_files_are_entered_where_they_belong() {
    let high = 0xffff_ffff_c000_0000;
    let directory = tempfile::tempdir().unwrap();
    for chip in chips() {
        for (name, file) in [
            ("flat", program(0x4010_0000)),
            (
                "identical.elf",
                executable(&program(0x4010_0000), 0x8020_0000, 0x8020_0000),
            ),
            (
                "low.elf",
                executable(&program(0x4000_0000), high, 0x8000_0000),
            ),
            (
                "high.elf",
                executable(&program(0x4400_0000), high, 0x8800_0000),
            ),
        ] {
            let (extension, packed) = pack(chip, &file);
            for (option, name, bytes) in [
                ("--kernel", name.to_owned(), file),
                ("--firmware", format!("{name}.{extension}"), packed),
            ] {
                let path = directory.path().join(&name);
                fs::write(&path, bytes).unwrap();
                let finished = command(host(chip), [option, &text(&path)])
                    .output(STEP)
                    .unwrap();
                assert_eq!(finished.status.code(), Some(0), "{name}: {finished}");
            }
        }
    }
}

/// Writes the tree of a guest with these arguments, and gives its source.
fn dump(chip: HostChip, arguments: &[String], blob: &Path) -> String {
    command(host(chip), arguments.iter().cloned())
        .args(["--dump-dtb", &text(blob)])
        .check(STEP)
        .unwrap();
    let source = provision::dtc()
        .unwrap()
        .args(["-I", "dtb", "-O", "dts"])
        .arg(blob)
        .output()
        .unwrap();
    assert!(source.status.success(), "{source:?}");
    String::from_utf8(source.stdout).unwrap()
}

/// A tree that was dumped, changed and given back is the guest's, and the initrd is where it says.
#[test]
fn a_device_tree_of_the_users_makes_the_round_trip() {
    let directory = tempfile::tempdir().unwrap();
    let [blob, source, changed] =
        ["dumped.dtb", "changed.dts", "changed.dtb"].map(|name| directory.path().join(name));
    for (chip, own_line) in [
        (HostChip::Plic, None),
        (HostChip::Aia, Some("console=ttyS0 own=line")),
    ] {
        let disk = Disk::new();
        let mut arguments = Kernel::Stable.arguments();
        arguments.extend(disk.argument());
        let text_of_tree = dump(chip, &arguments, &blob);
        let model = "model = \"riscv-virtio,hvrun\"";
        assert!(text_of_tree.contains(model), "{text_of_tree}");
        // Larger than before, so that an initrd beside it cannot stay where it was.
        let replaced = format!("model = \"of my own\"; note = \"{}\"", "x".repeat(5000));
        fs::write(&source, text_of_tree.replace(model, &replaced)).unwrap();
        let compiled = provision::dtc()
            .unwrap()
            .args(["-q", "-I", "dts", "-O", "dtb", "-o"])
            .args([&changed, &source])
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{compiled:?}");

        arguments.extend(["--dtb".to_owned(), text(&changed)]);
        if let Some(line) = own_line {
            arguments.extend(["--cmdline".to_owned(), line.to_owned()]);
        }
        let mut console = command(host(chip), arguments).console().unwrap();
        console.wait_for(GUEST_PROMPT, BOOT).unwrap();
        let model = run(&mut console, "tr -d '\\0' < /proc/device-tree/model; echo");
        assert_eq!(model, "of my own");
        let line = run(&mut console, "cat /proc/cmdline");
        assert_eq!(line, own_line.unwrap_or("console=ttyS0 root=/dev/vda rw"));
        power_off(console);
    }
}
