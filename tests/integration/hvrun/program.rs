//! Guests of a few instructions, for what Linux does not do.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use hv_lab::host::{HostChip, Stdio, Stream};

use crate::fixture::{CHIPS, STEP, chips, command, host, newest_host, text};

/// A RISC-V Image whose first instruction after the header is the first of these.
pub fn image(code: &[u32]) -> (TempDir, PathBuf) {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(&0x0400_006f_u32.to_le_bytes()); // j 64
    bytes[8..16].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    bytes[16..24].copy_from_slice(&0x1000_u64.to_le_bytes());
    bytes[48..60].copy_from_slice(b"RISCV\0\0\0RSC\x05");
    bytes.extend(
        code.iter()
            .flat_map(|instruction| instruction.to_le_bytes()),
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Image");
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

pub const A0: u32 = 10;
pub const A1: u32 = 11;
const A2: u32 = 12;
const A6: u32 = 16;
const A7: u32 = 17;
const S0: u32 = 8;
const ECALL: u32 = 0x73;
/// `j .`
const LOOP: u32 = 0x6f;

const TEST_DEVICE: i32 = 0x10_0000;
const RTC: i32 = 0x10_1000;
const UART: i32 = 0x1000_0000;
pub const PASS: u32 = 0x5555;
pub const FAIL: u32 = 0x3333;
const RESET: u32 = 0x7777;

/// `li register, value` in two instructions.
pub fn li(register: u32, value: i32) -> [u32; 2] {
    let low = value << 20 >> 20;
    let high = value.wrapping_sub(low).cast_unsigned();
    [
        high | register << 7 | 0x37,
        (low.cast_unsigned() << 20) | register << 15 | register << 7 | 0x1b,
    ]
}

fn srst(kind: i32, reason: u32) -> Vec<u32> {
    let mut code = Vec::new();
    code.extend(li(A7, 0x5352_5354));
    code.extend(li(A6, 0));
    code.extend(li(A0, kind));
    code.extend(li(A1, reason.cast_signed()));
    code.push(ECALL);
    code
}

/// `bne a, b, +bytes` and `beq`.
pub fn branch(function: u32, a: u32, b: u32, bytes: u32) -> u32 {
    (bytes >> 12 & 1) << 31
        | (bytes >> 5 & 0x3f) << 25
        | b << 20
        | a << 15
        | function << 12
        | (bytes >> 1 & 0xf) << 8
        | (bytes >> 11 & 1) << 7
        | 0x63
}

/// `sw value, offset(base)`, for offsets below 32.
fn sw(value: u32, base: u32, offset: u32) -> u32 {
    value << 20 | base << 15 | 2 << 12 | offset << 7 | 0x23
}

/// `lw register, offset(base)`.
pub fn lw(register: u32, base: u32, offset: u32) -> u32 {
    offset << 20 | base << 15 | 2 << 12 | register << 7 | 0x03
}

/// A write to the test device, and a wait for what comes of it.
pub fn test_device(value: u32) -> Vec<u32> {
    let mut code = li(A1, TEST_DEVICE).to_vec();
    code.extend(li(A0, value.cast_signed()));
    code.extend([sw(A0, A1, 0), LOOP]);
    code
}

/// Runs the program and gives hvrun's exit code and what it printed.
fn exit_code(code: &[u32]) -> Vec<(i32, String, String)> {
    exit_code_with(&[], code)
}

/// The same with further arguments.
fn exit_code_with(more: &[&str], code: &[u32]) -> Vec<(i32, String, String)> {
    let (_directory, path) = image(code);
    CHIPS
        .into_iter()
        .map(|chip| {
            let finished = command(host(chip), ["--kernel", &text(&path)])
                .args(more.iter().copied())
                .output(STEP)
                .unwrap();
            let code = finished.status.code().unwrap();
            (code, finished.stdout_text(), finished.stderr_text())
        })
        .collect()
}

#[test]
fn the_reset_reason_decides_the_exit_code() {
    for (reason, expected) in [(0, 0), (1, 3)] {
        for (code, _, error) in exit_code(&srst(0, reason)) {
            assert_eq!(
                code, expected,
                "SRST shutdown with reason {reason}: {error}"
            );
        }
    }
}

/// Vendor, experimental and unknown SBI calls come back as not supported, and the guest goes on.
#[test]
fn unknown_sbi_calls_are_answered() {
    for extension in [0x0900_0000, 0x0800_0000, 0x0a00_0000, 0x7fff_ffff] {
        let mut program = Vec::new();
        program.extend(li(A7, extension));
        program.extend(li(A6, 5));
        program.push(ECALL);
        program.extend(li(S0, -2));
        let failed = srst(0, 1);
        let skip = u32::try_from(4 * failed.len() + 4).unwrap();
        program.push(branch(0, A0, S0, skip));
        program.extend(&failed);
        program.extend(srst(0, 0));
        for (code, _, error) in exit_code(&program) {
            assert_eq!(code, 0, "extension {extension:#x}: {error}");
        }
    }
}

/// `rdtime register`, `mv to, from`, `add to, a, b`, `csrs sie, register`.
fn rdtime(register: u32) -> u32 {
    0xc01 << 20 | 2 << 12 | register << 7 | 0x73
}
fn add(to: u32, a: u32, b: u32) -> u32 {
    b << 20 | a << 15 | to << 7 | 0x33
}
fn set_sie(register: u32) -> u32 {
    0x104 << 20 | register << 15 | 2 << 12 | 0x73
}
/// `auipc register, 0`
fn auipc(register: u32) -> u32 {
    register << 7 | 0x17
}

/// SBI system suspend: the guest sleeps until its timer is due, and goes on where it asked to, with what it left itself.
#[test]
fn a_suspended_guest_wakes_by_its_timer() {
    const OPAQUE: i32 = 0x1234;
    const SUSP: i32 = 0x5355_5350;
    const TIME: i32 = 0x5449_4d45;
    let mut program = Vec::new();
    // A reserved sleep type is an invalid parameter.
    program.extend(li(A7, SUSP));
    program.extend(li(A6, 0));
    program.extend(li(A0, 1));
    program.push(ECALL);
    program.extend(li(S0, -3));
    let failed = srst(0, 1);
    let skip = u32::try_from(4 * failed.len() + 4).unwrap();
    program.push(branch(0, A0, S0, skip));
    program.extend(&failed);
    // The timer in half a second, at the board's 10 MHz, which may interrupt.
    program.push(rdtime(A0));
    program.extend(li(A1, 5_000_000));
    program.push(add(A0, A0, A1));
    program.extend(li(A7, TIME));
    program.push(ECALL);
    program.extend(li(A1, 1 << 5));
    program.push(set_sie(A1));
    // The suspend to RAM does not return: what is behind it fails.
    let mut suspend = Vec::new();
    suspend.extend(li(A2, OPAQUE));
    suspend.extend(li(A0, 0));
    suspend.extend(li(A6, 0));
    suspend.extend(li(A7, SUSP));
    suspend.push(ECALL);
    suspend.extend(&failed);
    // The address behind all this: from the auipc over 4 further instructions.
    let distance = i32::try_from(4 * (4 + suspend.len())).unwrap();
    program.push(auipc(A1));
    program.extend(li(S0, distance));
    program.push(add(A1, A1, S0));
    program.extend(suspend);
    program.extend(li(S0, OPAQUE));
    program.push(branch(0, A1, S0, skip));
    program.extend(&failed);
    program.extend(srst(0, 0));
    let (_directory, path) = image(&program);
    let finished = command(
        newest_host(HostChip::Plic),
        ["--kernel", &text(&path), "--log-level", "debug"],
    )
    .output(STEP)
    .unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished}");
    let told = finished.stderr_text();
    assert!(
        told.contains("suspended") && told.contains("wakes up"),
        "{told}"
    );
}

/// Loads and stores where nothing is, of every width, do no harm.
#[test]
fn accesses_to_nothing_do_no_harm() {
    let mut program = Vec::new();
    for address in [
        0x0000_1000,
        0x0c00_0000,
        0x0fff_fff8,
        0x1000_0000,
        0x1000_1100,
        0x1000_8ff8,
        0x2000_0000,
    ] {
        program.extend(li(A1, address));
        for width in 0..4 {
            program.push(A1 << 15 | width << 12 | A2 << 7 | 0x03); // l{b,h,w,d} a2, 0(a1)
            program.push(A2 << 20 | A1 << 15 | width << 12 | 0x23); // s{b,h,w,d} a2, 0(a1)
        }
    }
    program.extend(srst(0, 0));
    for (code, _, error) in exit_code(&program) {
        assert_eq!(code, 0, "{error}");
    }
}

/// What KVM does not carry out ends the machine with one line that says where the guest was.
#[test]
fn accesses_that_kvm_does_not_emulate_are_explained() {
    let load = A1 << 15 | 2 << 12 | A2 << 7 | 0x03; // lw a2, 0(a1)
    let add = A2 << 20 | A1 << 15 | 2 << 12 | A2 << 7 | 0x2f; // amoadd.w a2, a2, (a1)
    for (instruction, address, expected) in [
        (load, 0x1000_0001, "not aligned"),
        (add, 0x1000_0000, "does not emulate"),
    ] {
        let mut program = li(A1, address).to_vec();
        program.push(instruction);
        program.extend(srst(0, 0));
        for (code, _, error) in exit_code(&program) {
            assert_eq!((code, error.lines().count()), (1, 1), "{error}");
            assert!(
                error.contains("vCPU 0 stopped at pc 0x80200048") && error.contains(expected),
                "{error}"
            );
        }
    }
}

/// The debug console takes a length that is larger than the guest's memory as an error, and a good one as output.
#[test]
fn the_debug_console_bounds_what_a_guest_asks() {
    // The addresses are given by half, since those of RAM lie above 2 GiB.
    let call = |length: i32, half_address: i32, high: i32| {
        let mut code = Vec::new();
        code.extend(li(A7, 0x4442_434e));
        code.extend(li(A6, 0));
        code.extend(li(A0, length));
        code.extend(li(A1, half_address));
        code.push(1 << 20 | A1 << 15 | 1 << 12 | A1 << 7 | 0x13); // slli a1, a1, 1
        code.extend(li(A2, high));
        code.push(ECALL);
        code
    };
    let mut program = Vec::new();
    let expect = |program: &mut Vec<u32>, error: i32| {
        program.extend(li(S0, error));
        let failed = srst(0, 1);
        program.push(branch(
            0,
            A0,
            S0,
            u32::try_from(4 * failed.len() + 4).unwrap(),
        ));
        program.extend(failed);
    };
    let header = 0x4010_0000;
    // ERR_INVALID_PARAM for what is not guest memory.
    for (length, half_address, high) in [(i32::MAX, header, 0), (16, 0x800, 0), (16, header, 1)] {
        program.extend(call(length, half_address, high));
        expect(&mut program, -3);
    }
    // "RISCV" of the Image's own header.
    program.extend(call(5, header + 48 / 2, 0));
    expect(&mut program, 0);
    program.extend(srst(0, 0));
    for (code, output, error) in exit_code(&program) {
        assert_eq!((code, output.as_str()), (0, "RISCV"), "{error}");
    }
}

/// What a guest prints by the UART and by SBI goes to the console that has stdout, whichever that is.
#[test]
fn early_output_goes_where_the_console_goes() {
    let mut program = li(A1, UART).to_vec();
    program.extend(li(A0, b'u'.into()));
    program.push(A0 << 20 | A1 << 15 | 0x23); // sb a0, 0(a1)
    program.extend(li(A7, 0x4442_434e));
    program.extend(li(A6, 2)); // write byte
    program.extend(li(A0, b's'.into()));
    program.push(ECALL);
    program.extend(test_device(PASS));
    for (consoles, expected) in [
        (&[][..], "us"),
        (&["--console", "serial"], "us"),
        (&["--console", "virtio"], "us"),
        (&["--console", "none"], ""),
        (&["--console", "serial,to=pty", "--console", "virtio"], "s"),
        (
            &[
                "--console",
                "virtio,to=unix:/dev/shm/early",
                "--console",
                "serial",
            ],
            "us",
        ),
    ] {
        for (code, output, error) in exit_code_with(consoles, &program) {
            assert_eq!(
                (code, output.as_str()),
                (0, expected),
                "{consoles:?}: {error}"
            );
        }
    }
}

/// A failure never looks like success, however little of its code an exit code can carry.
#[test]
fn the_test_device_decides_the_exit_code() {
    for (value, expected) in [
        (PASS, 0),
        (5 << 16 | FAIL, 5),
        (FAIL, 1),
        (0x0100 << 16 | FAIL, 1),
        (0xffff << 16 | FAIL, 255),
    ] {
        for (code, _, error) in exit_code(&test_device(value)) {
            assert_eq!((code, error.as_str()), (expected, ""), "{value:#x}");
        }
    }
}

/// A reset by the test device boots the guest again, and the time that it set is still set. That is also how the program
/// knows that it runs for the second time: by then the clock's upper half is that of 1970.
#[test]
fn a_reset_boots_again_and_keeps_the_time() {
    const BLTU: u32 = 6;
    let mut program = li(A1, RTC).to_vec();
    program.extend([lw(A0, A1, 0), lw(A0, A1, 4)]);
    program.extend(li(S0, 0x1000_0000));
    let mut first_time = vec![sw(0, A1, 4), sw(0, A1, 0)];
    first_time.extend(test_device(RESET));
    let skip = u32::try_from(4 * first_time.len() + 4).unwrap();
    program.push(branch(BLTU, A0, S0, skip));
    program.extend(first_time);
    program.extend(test_device(7 << 16 | FAIL));
    for (code, _, error) in exit_code(&program) {
        assert_eq!(code, 7, "{error}");
    }
}

/// Every way to reset the machine ends hvrun if the user wants it so, with an exit code that tells it from a power-off.
#[test]
fn no_reboot_ends_at_a_reset() {
    for program in [srst(1, 0), srst(2, 1), test_device(RESET)] {
        for (code, output, error) in exit_code_with(&["--no-reboot"], &program) {
            assert_eq!((code, output.as_str(), error.as_str()), (4, "", ""));
        }
    }
    for (code, _, error) in exit_code_with(&["--no-reboot"], &srst(0, 0)) {
        assert_eq!((code, error.as_str()), (0, ""));
    }
}

/// A guest that does nothing but reset itself is told of once, however often it does it.
#[test]
fn a_guest_that_boots_for_ever_is_noticed() {
    let (_directory, path) = image(&test_device(RESET));
    for chip in chips() {
        let hvrun = command(
            host(chip),
            ["--kernel", &text(&path), "--log-level", "info"],
        )
        .spawn()
        .unwrap();
        let mut told = String::new();
        while told.matches("the guest reboots").count() < 12 {
            let piece = hvrun.read(Stream::Stderr, STEP).unwrap();
            assert!(!piece.is_empty(), "{told}");
            told += &String::from_utf8(piece).unwrap();
        }
        hvrun.signal(libc::SIGTERM).unwrap();
        let finished = hvrun.finish(STEP).unwrap();
        assert_eq!(finished.status.code(), Some(143), "{finished}");
        told += &finished.stderr_text();
        assert_eq!(told.matches("--no-reboot").count(), 1, "{told}");
    }
}

/// A reboot is from the kernel's file that was opened at the start, whatever its path names by then.
#[test]
fn a_reboot_is_from_the_file_that_was_opened_at_the_start() {
    // Prints x, waits until there is input, and resets the machine.
    let mut program = li(A1, UART).to_vec();
    program.extend(li(A2, i32::from(b'x')));
    program.extend([
        A2 << 20 | A1 << 15 | 0x23,                           // sb a2, 0(a1)
        5 << 20 | A1 << 15 | 4 << 12 | A2 << 7 | 0x03,        // lbu a2, 5(a1)
        1 << 20 | A2 << 15 | 7 << 12 | A2 << 7 | 0x13,        // andi a2, a2, 1
        0xfe00_0000 | A2 << 15 | 0b1100 << 8 | 1 << 7 | 0x63, // beqz a2, -8
    ]);
    program.extend(test_device(RESET));
    let (_directory, path) = image(&program);
    let host = host(HostChip::Plic);
    let kernel = "/dev/shm/kernel-that-becomes-a-pipe";
    host.write_file(kernel, &fs::read(&path).unwrap()).unwrap();
    let hvrun = command(host, ["--kernel", kernel])
        .stdin(Stdio::Pipe)
        .spawn()
        .unwrap();
    assert_eq!(hvrun.read(Stream::Stdout, STEP).unwrap(), b"x");
    for change in [
        format!("mkfifo {kernel}.fifo && mv {kernel}.fifo {kernel}"),
        format!("rm {kernel}"),
    ] {
        host.exec(["sh", "-c", &change]).check(STEP).unwrap();
        hvrun.write_stdin(b"!", STEP).unwrap();
        assert_eq!(hvrun.read(Stream::Stdout, STEP).unwrap(), b"x");
    }
    hvrun.signal(libc::SIGTERM).unwrap();
    let finished = hvrun.finish(STEP).unwrap();
    assert_eq!(finished.status.code(), Some(143), "{finished}");
}

/// The clock shows the host's time.
#[test]
fn the_clock_has_the_hosts_time() {
    let mut program = li(A1, RTC).to_vec();
    program.extend([lw(A2, A1, 0), lw(S0, A1, 4)]);
    program.extend(li(A1, UART));
    for register in [A2, S0] {
        for _ in 0..4 {
            program.push(register << 20 | A1 << 15 | 0x23); // sb register, 0(a1)
            program.push(8 << 20 | register << 15 | 5 << 12 | register << 7 | 0x13); // srli register, register, 8
        }
    }
    program.extend(test_device(PASS));
    let (_directory, path) = image(&program);
    for chip in chips() {
        let host = host(chip);
        let seconds = || -> u64 {
            let date = host.exec(["date", "+%s"]).check(STEP).unwrap();
            date.stdout_text().trim().parse().unwrap()
        };
        let before = seconds();
        let finished = command(host, ["--kernel", &text(&path)])
            .check(STEP)
            .unwrap();
        let time = u64::from_le_bytes(finished.stdout.try_into().unwrap()) / 1_000_000_000;
        let after = seconds();
        assert!(
            before <= time && time <= after,
            "{before} <= {time} <= {after}"
        );
    }
}

/// An alarm goes off by itself, and its interrupt arrives at the chip.
#[test]
fn the_clocks_alarm_interrupts() {
    const BNE: u32 = 1;
    const SOURCE: u32 = 11;
    for chip in chips() {
        let mut program = Vec::new();
        let pending = match chip {
            // The word of pending bits of sources 0 to 31 (PLIC specification, "Interrupt Pending Bits").
            HostChip::Plic => 0x0c00_1000,
            // The source is active while its IRQ line is high (sourcecfg's mode 6), which in_clrip shows (AIA specification,
            // sections 4.5.2 and 4.5.8).
            HostChip::Aia | HostChip::AiaFiles => {
                program.extend(li(A1, 0x0d00_0000 + 4 * SOURCE.cast_signed()));
                program.extend(li(A0, 6));
                program.push(sw(A0, A1, 0));
                0x0d00_1d00
            }
        };
        program.extend(li(A1, RTC));
        program.extend(li(A0, 1));
        program.push(sw(A0, A1, 0x10)); // interrupt enabled
        // An alarm 2^26 nanoseconds from now, a carry included.
        program.extend([lw(A2, A1, 0), lw(S0, A1, 4)]);
        program.push(32 << 20 | A2 << 15 | 1 << 12 | A2 << 7 | 0x13); // slli a2, a2, 32
        program.push(32 << 20 | A2 << 15 | 5 << 12 | A2 << 7 | 0x13); // srli a2, a2, 32
        program.extend(li(A0, 1 << 26));
        program.push(A0 << 20 | A2 << 15 | A2 << 7 | 0x33); // add a2, a2, a0
        program.push(32 << 20 | A2 << 15 | 5 << 12 | A0 << 7 | 0x13); // srli a0, a2, 32
        program.push(A0 << 20 | S0 << 15 | S0 << 7 | 0x33); // add s0, s0, a0
        program.extend([sw(S0, A1, 0x0c), sw(A2, A1, 0x08)]);
        // Until it is no longer armed.
        program.push(lw(A0, A1, 0x18));
        program.push(branch(BNE, A0, 0, 0x1ffc)); // to the load, 4 bytes back
        program.extend(li(A1, pending));
        program.push(lw(A0, A1, 0));
        program.push(SOURCE << 20 | A0 << 15 | 5 << 12 | A0 << 7 | 0x13); // srli a0, a0, SOURCE
        program.push(1 << 20 | A0 << 15 | 7 << 12 | A0 << 7 | 0x13); // andi a0, a0, 1
        let failed = test_device(2 << 16 | FAIL);
        let skip = u32::try_from(4 * failed.len() + 4).unwrap();
        program.push(branch(BNE, A0, 0, skip));
        program.extend(failed);
        program.extend(test_device(PASS));
        let (_directory, path) = image(&program);
        command(host(chip), ["--kernel", &text(&path)])
            .check(STEP)
            .unwrap();
    }
}
