//! The supervisor binary interface (RISC-V SBI Specification 3.0), one module for each extension.
//!
//! Implementations of older versions lack some of the extensions, and then answer so.

pub mod base;
pub mod dbcn;
pub mod hsm;
pub mod ipi;
pub mod legacy;
mod resume;
pub mod retained;
pub mod rfence;
pub mod srst;
pub mod susp;
pub mod time;

use core::arch::asm;

use super::report::Outcome;

// The error codes (binary encoding, "Standard SBI Errors").
pub const SUCCESS: isize = 0;
pub const ERR_NOT_SUPPORTED: isize = -2;
pub const ERR_INVALID_PARAM: isize = -3;
pub const ERR_DENIED: isize = -4;
pub const ERR_INVALID_ADDRESS: isize = -5;
pub const ERR_ALREADY_AVAILABLE: isize = -6;

/// What a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub error: isize,
    pub value: usize,
}

/// Makes a call.
pub fn call(extension: usize, function: usize, arguments: &[usize]) -> Answer {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    let (error, value);
    // SAFETY: the implementation changes a0 and a1 alone (binary encoding), and memory only where a call asks it to, which
    // the callers have set aside for it.
    unsafe {
        asm!("ecall", inout("a0") argument(0) => error, inout("a1") argument(1) => value, in("a2") argument(2),
            in("a3") argument(3), in("a4") argument(4), in("a5") argument(5), in("a6") function, in("a7") extension,
            options(nostack));
    }
    Answer { error, value }
}

/// Asserts a call's error.
fn expect_error(answer: Answer, error: isize, what: &str) -> Outcome {
    check!(
        answer.error == error,
        "{what} is answered with {}, not {error}",
        answer.error
    );
    Ok(())
}

/// Asserts that a call succeeded, and gives its value.
fn expect_success(answer: Answer, what: &str) -> Outcome<usize> {
    expect_error(answer, SUCCESS, what)?;
    Ok(answer.value)
}

/// What a test of an extension begins with that need not be there.
fn needs(extension: usize, name: &str) -> Outcome {
    if !base::has(extension) {
        skip!("there is no {name} extension");
    }
    Ok(())
}
