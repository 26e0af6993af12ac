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
