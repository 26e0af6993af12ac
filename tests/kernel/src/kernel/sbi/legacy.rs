//! The legacy console calls, which return a single value, and leave a1 alone.

use sbi_spec::legacy::{LEGACY_CONSOLE_GETCHAR, LEGACY_CONSOLE_PUTCHAR};

use super::{Answer, ERR_NOT_SUPPORTED, base, call};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;

tests! { TESTS:
    "legacy-putchar" => putchar,
    "legacy-getchar" => getchar,
    "legacy-absent-is-not-supported" => absent,
}

/// What a1 holds before each call.
const A1: usize = 0x5a5a_1234;

fn legacy(extension: usize, argument: usize) -> Answer {
    call(extension, 0, &[argument, A1])
}

fn putchar(_: &Machine) -> Outcome {
    super::needs(LEGACY_CONSOLE_PUTCHAR, "legacy putchar")?;
    for byte in *b"# by the legacy console\r\n" {
        let answer = legacy(LEGACY_CONSOLE_PUTCHAR, byte.into());
        check!(answer.error == 0, "putchar returns {}", answer.error);
        check_eq!(answer.value, A1, "a1 after putchar");
    }
    Ok(())
}

/// A character that waits, or -1. Nothing is typed while this runs.
fn getchar(_: &Machine) -> Outcome {
    super::needs(LEGACY_CONSOLE_GETCHAR, "legacy getchar")?;
    let answer = legacy(LEGACY_CONSOLE_GETCHAR, 0);
    check!(
        answer.error == -1,
        "getchar returns {} where nothing was typed",
        answer.error
    );
    check_eq!(answer.value, A1, "a1 after getchar");
    Ok(())
}

/// What the probe denies is answered as every unknown extension is.
fn absent(_: &Machine) -> Outcome {
    for extension in [LEGACY_CONSOLE_PUTCHAR, LEGACY_CONSOLE_GETCHAR] {
        if base::has(extension) {
            skip!("the legacy extensions are there");
        }
        let answer = legacy(extension, usize::from(b'!'));
        check!(
            answer.error == ERR_NOT_SUPPORTED,
            "legacy call {extension} is answered with {}",
            answer.error
        );
    }
    Ok(())
}
