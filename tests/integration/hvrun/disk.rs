//! What the guest's disks promise.

use std::fs;
use std::path::Path;

use hv_lab::host::HostChip;
use hv_lab::provision::GUEST_PROMPT;

use crate::fixture::{
    BOOT, Disk, Kernel, STEP, chips, command, guest, host, hvrun, power_off, run, text,
};

/// hvrun dies by SIGKILL while the guest writes: every block that the guest was told is flushed is in the image.
#[test]
fn acknowledged_writes_survive_kill_9() {
    const BLOCK: usize = 4096;
    for chip in chips() {
        let disk = Disk::new();
        let data = disk.beside("data.img");
        fs::File::create(&data).unwrap().set_len(8 << 20).unwrap();
        let mut console = guest(host(chip), Kernel::Small, &disk, &["--disk", &text(&data)]);
        // Each block is its own number over and over; dd says nothing before its fsync has come back.
        console
            .send_line(
                "n=0; while n=$((n + 1)); do yes $n | tr -d '\\n' | \
                 dd of=/dev/vdb bs=4096 seek=$n count=1 iflag=fullblock conv=notrunc,fsync 2>/dev/null && \
                 echo flushed=$n.; done",
            )
            .unwrap();
        console.wait_for("flushed=40.", STEP).unwrap();
        console.process().signal(libc::SIGKILL).unwrap();
        let _ = console.wait_for_end(STEP).unwrap();
        // The echo of the command line has no number there.
        let flushed: Vec<usize> = console
            .transcript()
            .split("flushed=")
            .filter_map(|rest| rest.split_once('.')?.0.parse().ok())
            .collect();
        assert!(flushed.len() >= 40, "{flushed:?}");
        let image = fs::read(&data).unwrap();
        for number in flushed {
            let expected: Vec<u8> = number
                .to_string()
                .into_bytes()
                .into_iter()
                .cycle()
                .take(BLOCK)
                .collect();
            assert!(
                image[number * BLOCK..][..BLOCK] == expected,
                "block {number} on {chip:?}"
            );
        }
    }
}

#[test]
fn two_writers_of_one_image_are_refused() {
    let disk = Disk::new();
    let host = host(HostChip::Plic);
    let console = guest(host, Kernel::Small, &disk, &[]);
    for option in ["", ",readonly=on"] {
        let second = command(host, Kernel::Small.arguments())
            .args(["--disk".to_owned(), text(&disk.image) + option])
            .output(STEP)
            .unwrap();
        assert_eq!(second.status.code(), Some(1), "{second}");
        let error = second.stderr_text();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains("root.img") && error.contains("in use"),
            "{error}"
        );
    }
    power_off(console);
    // And nothing stays locked.
    power_off(guest(host, Kernel::Small, &disk, &[]));
}

#[test]
fn readers_share_an_image_and_cannot_write_it() {
    let disk = Disk::new();
    let shared = disk.beside("shared.img");
    fs::write(&shared, vec![0x5a; 1 << 20]).unwrap();
    let argument = text(&shared) + ",readonly=on";
    let other = Disk::new();
    let mut first = guest(
        host(HostChip::Plic),
        Kernel::Small,
        &disk,
        &["--disk", &argument],
    );
    let mut second = guest(
        host(HostChip::Plic),
        Kernel::Small,
        &other,
        &["--disk", &argument],
    );
    for console in [&mut first, &mut second] {
        assert_eq!(run(console, "cat /sys/block/vdb/ro"), "1");
        let written = console
            .run(
                "dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync",
                STEP,
            )
            .unwrap();
        assert_ne!(written.code, 0, "{}", written.text);
    }
    power_off(first);
    power_off(second);
    assert_eq!(fs::read(&shared).unwrap(), vec![0x5a; 1 << 20]);
}

/// As under QEMU: the capacity is rounded up to whole sectors, what is behind the end reads as zeros and can be written.
#[test]
fn a_size_that_is_no_multiple_of_512_is_rounded_up() {
    let disk = Disk::new();
    let odd = disk.beside("odd.img");
    fs::write(&odd, vec![0xaa; 1300]).unwrap();
    let mut console = guest(
        host(HostChip::Aia),
        Kernel::Small,
        &disk,
        &["--disk", &text(&odd)],
    );
    assert_eq!(run(&mut console, "cat /sys/block/vdb/size"), "3");

    assert_eq!(
        run(&mut console, "tr -cd '\\252' < /dev/vdb | wc -c"),
        "1300"
    );
    assert_eq!(
        run(&mut console, "tail -c 236 /dev/vdb | tr -d '\\0' | wc -c"),
        "0"
    );
    run(
        &mut console,
        "printf end | dd of=/dev/vdb bs=1 seek=1533 conv=notrunc,fsync 2>/dev/null",
    );
    power_off(console);
    let image = fs::read(&odd).unwrap();
    assert_eq!(image.len(), 1536);
    assert!(image.ends_with(b"\0end") && image.starts_with(&[0xaa; 1300]));
}

#[test]
fn a_guest_has_up_to_eight_disks_with_serials() {
    let disk = Disk::new();
    let mut more = Vec::new();
    for number in 1..8 {
        let image = disk.beside(&format!("disk,{number}.img"));
        fs::File::create(&image)
            .unwrap()
            .set_len(number << 20)
            .unwrap();
        more.push("--disk".to_owned());
        more.push(format!(
            "{},serial=S-{number}",
            text(&image).replace(',', ",,")
        ));
    }
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let mut console = guest(host(HostChip::Plic), Kernel::Small, &disk, &more);
    for (number, letter) in (1..8).zip('b'..) {
        let sectors = run(&mut console, &format!("cat /sys/block/vd{letter}/size"));
        assert_eq!(sectors, (number * 2048).to_string());
        assert_eq!(
            run(&mut console, &format!("cat /sys/block/vd{letter}/serial")),
            format!("S-{number}")
        );
    }
    power_off(console);
}

/// A discarded range gives its space back to the host, and reads as zeros there.
#[test]
fn discards_free_space() {
    let host = host(HostChip::Aia);
    let disk = Disk::new();
    // In the nested host's own memory: the developer's files are behind a protocol that cannot punch holes.
    let on_host = |line: &str| {
        host.exec(["sh", "-c", line])
            .check(STEP)
            .unwrap()
            .stdout_text()
    };
    let blocks = || {
        on_host("stat -c %b /dev/discard.img")
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    on_host(&format!(
        "{} | head -c 8388608 > /dev/discard.img",
        lines_of("1")
    ));
    let before = blocks();
    let mut console = guest(host, Kernel::Small, &disk, &["--disk", "/dev/discard.img"]);
    run(&mut console, "blkdiscard -o 1048576 -l 6291456 /dev/vdb");
    power_off(console);
    let after = blocks();
    assert!(after < before / 2, "{before} blocks before, {after} after");
    let left = on_host(
        "tr -d '\\0' < /dev/discard.img | wc -c; stat -c %s /dev/discard.img; rm /dev/discard.img",
    );
    assert_eq!(
        left.split_whitespace().collect::<Vec<_>>(),
        ["2097152", "8388608"]
    );
}

/// A shell command that prints lines with this number without end, as fast as an emulated hart can: few long lines.
fn lines_of(number: &str) -> String {
    format!("yes $(printf %0999d {number})")
}

/// 8 MiB around the page cache, with several harts at once, come back as they were.
#[test]
fn data_is_not_mixed_up() {
    for chip in chips() {
        let disk = Disk::new();
        let data = disk.beside("data.img");
        fs::File::create(&data).unwrap().set_len(8 << 20).unwrap();
        let mut console = guest(
            host(chip),
            Kernel::Small,
            &disk,
            &["--cpus", "4", "--disk", &text(&data)],
        );
        run(
            &mut console,
            &format!(
                "for n in 0 1 2 3; do ({} | dd of=/dev/vdb bs=64k seek=$((n * 32)) count=32 iflag=fullblock oflag=direct \
                 conv=notrunc 2>/dev/null) & done; wait; sync; echo 3 > /proc/sys/vm/drop_caches",
                lines_of("$n")
            ),
        );
        for number in 0..4 {
            let read = run(
                &mut console,
                &format!(
                    "dd if=/dev/vdb bs=64k skip=$(({number} * 32)) count=32 2>/dev/null | md5sum"
                ),
            );
            let expected = run(
                &mut console,
                &format!(
                    "{} | head -c 2097152 | md5sum",
                    lines_of(&number.to_string())
                ),
            );
            assert_eq!(read, expected);
        }
        power_off(console);
    }
}

/// Small requests, one by one and from several harts at once, of a file that is in the host's memory, and of a block device
/// that is in its page cache: those that vCPUs serve themselves.
#[test]
fn small_requests_are_not_mixed_up() {
    // What is in /dev is in memory, and is there for hvrun as well.
    const MAKE: &str =
        "truncate -s 4M /dev/small /tmp/small && losetup -f && losetup $(losetup -f) /tmp/small";
    for chip in chips() {
        let host = host(chip);
        let said = host.exec(["sh", "-c", MAKE]).check(STEP).unwrap();
        let device = said.stdout_text();
        let disk = Disk::new();
        let more = [
            "--cpus",
            "4",
            "--disk",
            "/dev/small",
            "--disk",
            device.trim(),
        ];
        let mut console = guest(host, Kernel::Small, &disk, &more);
        for disk in ["vdb", "vdc"] {
            for block in [512, 16384] {
                let lines = lines_of(&format!("{block}$n"));
                run(
                    &mut console,
                    &format!(
                        "for n in 0 1 2 3; do ({lines} | dd of=/dev/{disk} bs={block} seek=$((n * 64)) \
                         count=64 iflag=fullblock oflag=direct conv=notrunc 2>/dev/null) & done; wait"
                    ),
                );
                let read = run(
                    &mut console,
                    &format!(
                        "dd if=/dev/{disk} bs={block} count=256 iflag=direct 2>/dev/null | md5sum"
                    ),
                );
                let expected = run(
                    &mut console,
                    &format!(
                        "for n in 0 1 2 3; do {lines} | head -c $((64 * {block})); done | md5sum"
                    ),
                );
                assert_eq!(read, expected, "{disk} on {chip:?} by {block}");
            }
        }
        let guests = run(&mut console, "cat /dev/vdb | md5sum; cat /dev/vdc | md5sum");
        power_off(console);
        let look = format!(
            "cat /dev/small | md5sum; cat {0} | md5sum; losetup -d {0}; rm /dev/small /tmp/small",
            device.trim()
        );
        let hosts = host.exec(["sh", "-c", &look]).check(STEP).unwrap();
        assert_eq!(guests.trim(), hosts.stdout_text().trim(), "on {chip:?}");
    }
}

/// A disk can be one of the host's block devices.
#[test]
fn a_block_device_is_a_disk() {
    let host = host(HostChip::Plic);
    let disk = Disk::new();
    let nested = format!("{}{}", hv_lab::host::LOCAL_ROOT, text(&disk.image));
    let device = host
        .exec([
            "sh",
            "-c",
            &format!("losetup -f && losetup $(losetup -f) {nested}"),
        ])
        .check(STEP)
        .unwrap();
    let device = device.stdout_text();
    let mut console = command(host, Kernel::Small.arguments())
        .args(["--disk", device.trim()])
        .console()
        .unwrap();
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    run(
        &mut console,
        "echo through a block device > /root/file; sync",
    );
    power_off(console);
    host.exec(["losetup", "-d", device.trim()])
        .check(STEP)
        .unwrap();
    disk.assert_clean();
    assert_eq!(disk.read_file("/root/file"), "through a block device\n");
}

/// A file that may not grow any further (RLIMIT_FSIZE) is an I/O error of the request that would have it grow, and of no other.
#[test]
fn a_limit_of_the_file_s_size_is_an_io_error() {
    let host = host(HostChip::Plic);
    let disk = Disk::new();
    let data = disk.beside("data.img");
    fs::File::create(&data).unwrap().set_len(100 << 20).unwrap();
    let local = |path: &str| host.local_path(Path::new(path)).display().to_string();
    let files = Kernel::Stable.arguments();
    let boot: Vec<String> = files
        .chunks(2)
        .map(|option| format!("{} {}", option[0], local(&option[1])))
        .collect();
    // In units of 512 bytes: the root disk, of 64 MiB, does not reach it.
    let line = format!(
        "trap '' XFSZ; ulimit -f {}; exec {} {} --disk {} --disk {}",
        (80 << 20) / 512,
        local(&text(hvrun())),
        boot.join(" "),
        local(&text(&disk.image)),
        local(&text(&data)),
    );
    let mut console = host
        .exec(["sh", "-c", &line])
        .console()
        .unwrap()
        .reject("Kernel panic");
    console.wait_for(GUEST_PROMPT, BOOT).unwrap();
    let write = |console: &mut _, block: u32| {
        let line =
            format!("dd if=/proc/1/exe of=/dev/vdb bs=1M seek={block} count=1 conv=notrunc,fsync");
        hv_lab::host::Console::run(console, &line, STEP)
            .unwrap()
            .code
    };
    assert_eq!(write(&mut console, 10), 0);
    assert_ne!(write(&mut console, 90), 0, "beyond the limit");
    assert_eq!(write(&mut console, 20), 0, "the guest lives");
    power_off(console);
    let image = fs::read(&data).unwrap();
    assert_eq!(image[10 << 20..][..4], *b"\x7fELF");
    assert_eq!(image[20 << 20..][..4], *b"\x7fELF");
    assert_eq!(image[90 << 20..][..4], [0; 4]);
}

/// What the host itself uses cannot be written by a guest, and only one guest can write what it does not.
#[test]
fn a_block_device_has_one_writer() {
    let host = host(HostChip::Aia);
    let on_host = |line: &str| {
        let finished = host.exec(["sh", "-c", line]).check(STEP).unwrap();
        finished.stdout_text()
    };
    on_host(
        "dd if=/dev/zero of=/tmp/block.img bs=1M count=8 2>/dev/null && losetup /dev/loop6 /tmp/block.img && \
         mkswap /dev/loop6 >/dev/null && swapon /dev/loop6",
    );
    let disk = Disk::new();
    let refused = || {
        let finished = command(host, Kernel::Stable.arguments())
            .args(["--disk", "/dev/loop6"])
            .output(STEP)
            .unwrap();
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        let error = finished.stderr_text();
        assert_eq!(error.lines().count(), 1, "{error}");
        let expected = "disk image '/dev/loop6' is mounted or otherwise in use on this host";
        assert!(error.contains(expected), "{error}");
    };
    refused();
    let mut console = guest(
        host,
        Kernel::Stable,
        &disk,
        &["--disk", "/dev/loop6,readonly=on"],
    );
    assert_eq!(run(&mut console, "cat /sys/block/vdb/ro"), "1");
    power_off(console);
    on_host("swapoff /dev/loop6");
    let mut console = guest(host, Kernel::Stable, &disk, &["--disk", "/dev/loop6"]);
    refused();
    run(
        &mut console,
        "printf written | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null",
    );
    power_off(console);
    assert_eq!(on_host("head -c 7 /dev/loop6"), "written");
    on_host("losetup -d /dev/loop6; rm /tmp/block.img");
}
