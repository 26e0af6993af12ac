//! hvrun's keys (Ctrl-a) among the input for a guest, in pieces of any size.

use std::cell::RefCell;

use hv_vmm::InputFilter;
use hvrun_cli::Keys;

use crate::input::{Input, Script};

const CTRL_A: u8 = 1;

/// Filters the input in pieces.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let keys = Keys::default();
    let printed = RefCell::new(Vec::new());
    let (mut typed, mut got) = (Vec::new(), Vec::new());
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let count = input.below(8);
        // Few of all keys mean something.
        let piece: Vec<u8> = input
            .bytes(count)
            .iter()
            .map(|byte| match byte % 8 {
                0 | 1 => CTRL_A,
                2 => b'x',
                3 => b'h',
                4 => b'a',
                _ => *byte,
            })
            .collect();
        got.extend(keys.filter(&piece, &|text| printed.borrow_mut().extend_from_slice(text)));
        typed.extend(piece);
    }
    let (expected, helps) = expected(&typed);
    assert_eq!(got, expected);
    let printed = String::from_utf8(printed.into_inner()).expect("help is text");
    assert_eq!(printed.matches("Ctrl-a x").count(), helps);
}

/// What the guest gets, and how often the keys are listed.
fn expected(typed: &[u8]) -> (Vec<u8>, usize) {
    let (mut guest, mut helps) = (Vec::new(), 0);
    let mut rest = typed.iter();
    while let Some(byte) = rest.next() {
        if *byte != CTRL_A {
            guest.push(*byte);
            continue;
        }
        match rest.next() {
            None | Some(b'x' | b'X') => {}
            Some(b'h' | b'H' | b'?') => helps += 1,
            Some(b'a' | b'A') => guest.push(CTRL_A),
            Some(other) => guest.push(*other),
        }
    }
    (guest, helps)
}

/// Each command, whole and in two pieces.
pub fn seeds() -> Vec<Vec<u8>> {
    let whole = Script::new()
        .byte(7)
        .bytes(b"q\0\x02q\0\x04q")
        .byte(4)
        .bytes(b"\0\x03\0\0");
    let pieces = Script::new()
        .byte(1)
        .byte(0)
        .byte(1)
        .byte(3)
        .byte(2)
        .bytes(b"ok");
    [whole, pieces].map(Script::done).into()
}
