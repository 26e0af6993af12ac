//! The legacy console calls, which return a single value, and leave a1 alone.

use sbi_spec::legacy::{LEGACY_CONSOLE_GETCHAR, LEGACY_CONSOLE_PUTCHAR};

use super::{Answer, ERR_NOT_SUPPORTED, base, call};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::time;

tests! { TESTS:
    "legacy-putchar" => putchar,
    "legacy-getchar" => getchar,
    "legacy-getchar-of-what-is-typed" => getchar_typed,
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

/// What getchar returns without a character: -1, but for machines that were told otherwise, and then so was the kernel.
fn empty(machine: &Machine) -> isize {
    let told = machine.argument("getchar-empty");
    told.and_then(|value| value.parse().ok()).unwrap_or(-1)
}

/// Nothing is typed while this runs.
fn getchar(machine: &Machine) -> Outcome {
    super::needs(LEGACY_CONSOLE_GETCHAR, "legacy getchar")?;
    let (answer, empty) = (legacy(LEGACY_CONSOLE_GETCHAR, 0), empty(machine));
    check!(
        answer.error == empty,
        "getchar returns {}, not {empty}, where nothing was typed",
        answer.error
    );
    check_eq!(answer.value, A1, "a1 after getchar");
    Ok(())
}

/// The test's driver says on the command line what it will type, and types it when asked.
fn getchar_typed(machine: &Machine) -> Outcome {
    super::needs(LEGACY_CONSOLE_GETCHAR, "legacy getchar")?;
    let Some(expected) = machine.argument("typed") else {
        skip!("nobody types");
    };
    println!("# type: {expected}");
    for byte in expected.bytes() {
        let mut answer = legacy(LEGACY_CONSOLE_GETCHAR, 0);
        let came = time::wait_longer_for(|| {
            if answer.error == empty(machine) {
                answer = legacy(LEGACY_CONSOLE_GETCHAR, 0);
            }
            answer.error != empty(machine)
        });
        check!(came, "character {byte:#x} does not come");
        check_eq!(answer.error, isize::from(byte), "what was typed");
        check_eq!(answer.value, A1, "a1 after getchar");
    }
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
