//! On a machine that is not RISC-V, hvrun says what it needs and what to do.

#![cfg(not(target_arch = "riscv64"))]
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn says_in_one_line_how_to_run_in_the_lab() {
    for arguments in [&[][..], &["--kernel", "Image"]] {
        let finished = Command::new(env!("CARGO_BIN_EXE_hvrun"))
            .args(arguments)
            .output()
            .unwrap();
        let error = String::from_utf8(finished.stderr).unwrap();
        assert_eq!(finished.status.code(), Some(1), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains("RISC-V host") && error.contains("'cargo hvrun'"),
            "{error}"
        );
        assert!(finished.stdout.is_empty());
    }
}

#[test]
fn help_and_version_work_anywhere() {
    for (argument, expected) in [
        ("--help", "Exit codes:"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let finished = Command::new(env!("CARGO_BIN_EXE_hvrun"))
            .arg(argument)
            .output()
            .unwrap();
        assert!(finished.status.success());
        assert!(
            String::from_utf8(finished.stdout)
                .unwrap()
                .contains(expected)
        );
    }
}

/// A script with a line of QEMU's does not succeed without a guest.
#[test]
fn an_option_of_qemu_is_no_request_for_help() {
    let finished = Command::new(env!("CARGO_BIN_EXE_hvrun"))
        .args(["-hda", "disk.img"])
        .output()
        .unwrap();
    let error = String::from_utf8(finished.stderr).unwrap();
    assert_eq!(finished.status.code(), Some(2), "{error}");
    assert!(error.contains("unexpected argument '-hda'"), "{error}");
    assert!(finished.stdout.is_empty());
}

/// The doctor prints all that it can, and where to go.
#[test]
fn the_doctor_sends_to_the_lab() {
    for arguments in [&["doctor"][..], &["doctor", "--json"]] {
        let finished = Command::new(env!("CARGO_BIN_EXE_hvrun"))
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(finished.stdout).unwrap();
        assert_eq!(finished.status.code(), Some(1), "{text}");
        assert!(
            text.contains("RISC-V host") && text.contains("'cargo hvrun'"),
            "{text}"
        );
        assert!(
            text.contains(std::env::consts::ARCH) && text.contains("/dev/net/tun"),
            "{text}"
        );
        assert!(finished.stderr.is_empty());
        if arguments.contains(&"--json") {
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(report["can_boot"], false);
            assert!(report["kvm"].is_null());
        }
    }
}

#[test]
fn the_manual_and_the_completions_work_anywhere() {
    for (arguments, expected) in [
        (&["man"][..], ".TH HVRUN 1"),
        (&["completions", "bash"], "complete "),
        (&["completions", "fish"], "complete -c hvrun"),
        (&["completions", "zsh"], "#compdef hvrun"),
    ] {
        let finished = Command::new(env!("CARGO_BIN_EXE_hvrun"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(finished.status.success(), "{arguments:?}");
        let text = String::from_utf8(finished.stdout).unwrap();
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}
