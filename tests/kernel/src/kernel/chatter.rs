//! Two guests at one screen: one that prints much and in the other's name, and one that says a word at a time.

use super::{power, sbi};

const DBCN: usize = 0x4442_434e;
const WRITE: usize = 0;
const WRITE_BYTE: usize = 2;

/// What the first one prints, over and over: lines as if they were the other's.
const FAKE: &[u8; 64] =
    b"x\r[asks] a fake\x1b[1G[asks] a fake\x1b[H[asks] a fake\x08\x08[asks]!!!!!!!\n";

/// Bytes of one call, and calls' worth.
const PIECE: usize = 64 << 10;
const PIECES: usize = 8;

#[repr(align(4096))]
struct Text {
    _bytes: [u8; PIECE],
}

static mut TEXT: Text = Text { _bytes: [0; PIECE] };

/// Talks or asks as the command line says, and ends.
pub fn run(how: &str) -> ! {
    match how {
        "talk" => talk(),
        _ => ask(),
    }
    power::off()
}

fn talk() {
    let text = (&raw mut TEXT).cast::<u8>();
    for at in (0..PIECE).step_by(FAKE.len()) {
        // SAFETY: it lies within the text, which nobody refers to.
        unsafe { text.add(at).cast::<[u8; 64]>().write(*FAKE) };
    }
    let mut left = PIECES * PIECE;
    while left > 0 {
        let answer = sbi::call(DBCN, WRITE, &[left.min(PIECE), text as usize, 0]);
        if answer.error != 0 {
            power::fail(1)
        }
        left -= answer.value.min(left);
    }
}

fn ask() {
    for byte in b"a word\n".iter().cycle().take(7 * 120) {
        if sbi::call(DBCN, WRITE_BYTE, &[(*byte).into(), 0, 0]).error != 0 {
            power::fail(1)
        }
    }
}
