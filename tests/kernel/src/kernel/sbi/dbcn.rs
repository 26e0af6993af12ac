//! The debug console.

use sbi_spec::dbcn::{CONSOLE_READ, CONSOLE_WRITE, CONSOLE_WRITE_BYTE, EID_DBCN};

use super::{
    Answer, ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, call, expect_error, expect_success, needs,
};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;

tests! { TESTS:
    "dbcn-write" => write,
    "dbcn-write-byte" => write_byte,
    "dbcn-write-of-nothing" => write_nothing,
    "dbcn-write-of-no-memory" => write_no_memory,
    "dbcn-write-beyond-memory" => write_beyond,
    "dbcn-high-address-word" => high_word,
    "dbcn-read" => read,
    "dbcn-read-to-no-memory" => read_no_memory,
    "dbcn-unknown-function" => unknown_function,
}

fn present() -> Outcome {
    needs(EID_DBCN, "DBCN")
}

fn console(function: usize, size: usize, address: usize, high: usize) -> Answer {
    call(EID_DBCN, function, &[size, address, high])
}

/// Writes a text, in as many calls as it takes, and each writes something.
fn write(_: &Machine) -> Outcome {
    present()?;
    let mut text = &b"# by the debug console\r\n"[..];
    while !text.is_empty() {
        let written = expect_success(
            console(CONSOLE_WRITE, text.len(), text.as_ptr() as usize, 0),
            "a write",
        )?;
        check!(
            written <= text.len(),
            "{written} of {} bytes are written",
            text.len()
        );
        text = &text[written..];
    }
    Ok(())
}

fn write_byte(_: &Machine) -> Outcome {
    present()?;
    for byte in *b"# a byte at a time\r\n" {
        let value = expect_success(call(EID_DBCN, CONSOLE_WRITE_BYTE, &[byte.into()]), "a byte")?;
        check_eq!(value, 0, "the value of a byte written");
    }
    Ok(())
}

fn write_nothing(_: &Machine) -> Outcome {
    present()?;
    static TEXT: u8 = b'!';
    let address = &raw const TEXT as usize;
    for function in [CONSOLE_WRITE, CONSOLE_READ] {
        let moved = expect_success(console(function, 0, address, 0), "a write of no bytes")?;
        check_eq!(moved, 0, "how many of no bytes are moved");
    }
    Ok(())
}

/// No address at which there is no memory is good, nor one of a device.
fn write_no_memory(machine: &Machine) -> Outcome {
    present()?;
    for address in [machine.ram_end, usize::MAX & !0xfff, 0x1000] {
        let answer = console(CONSOLE_WRITE, 4, address, 0);
        expect_error(answer, ERR_INVALID_PARAM, "a write of no memory")?;
    }
    Ok(())
}

/// A range that begins in memory and does not end there, however long: it is not gone through.
fn write_beyond(machine: &Machine) -> Outcome {
    present()?;
    for (size, address) in [
        (2, machine.ram_end - 1),
        (usize::MAX, machine.ram_end - 4096),
        (usize::MAX / 2, machine.ram_end - 4096),
    ] {
        let answer = console(CONSOLE_WRITE, size, address, 0);
        expect_error(answer, ERR_INVALID_PARAM, "a write from beyond memory")?;
    }
    Ok(())
}

/// The upper half of the address counts.
fn high_word(_: &Machine) -> Outcome {
    present()?;
    let text = "# not to be seen\r\n";
    for function in [CONSOLE_WRITE, CONSOLE_READ] {
        for high in [1, usize::MAX] {
            let answer = console(function, text.len(), text.as_ptr() as usize, high);
            expect_error(answer, ERR_INVALID_PARAM, "a high address word")?;
        }
    }
    Ok(())
}

/// A read returns at once, with what there is.
fn read(_: &Machine) -> Outcome {
    present()?;
    let mut buffer = [0xa5_u8; 64];
    let address = buffer.as_mut_ptr() as usize;
    let count = expect_success(console(CONSOLE_READ, 32, address, 0), "a read")?;
    check!(count <= 32, "{count} bytes are read where 32 fit");
    // SAFETY: the read may have changed them, which the compiler cannot know.
    let after: [u8; 64] = unsafe { (&raw const buffer).read_volatile() };
    check!(
        after[count..].iter().all(|byte| *byte == 0xa5),
        "a read of {count} bytes writes beyond"
    );
    Ok(())
}

fn read_no_memory(machine: &Machine) -> Outcome {
    present()?;
    for (size, address) in [(4, machine.ram_end), (2, machine.ram_end - 1)] {
        let answer = console(CONSOLE_READ, size, address, 0);
        expect_error(answer, ERR_INVALID_PARAM, "a read to no memory")?;
    }
    Ok(())
}

fn unknown_function(_: &Machine) -> Outcome {
    present()?;
    expect_error(call(EID_DBCN, 3, &[]), ERR_NOT_SUPPORTED, "function 3")
}
