use std::string::ToString;
use std::vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::terminal::{NAMES, Terminal};
use super::*;

/// What comes out of this, the guests printing in turn, the first with the keyboard.
fn printed(pieces: &[(usize, &[u8])]) -> String {
    let mut output = Output::new(&NAMES);
    let mut screen = Terminal::new(1);
    for (guest, bytes) in pieces {
        screen.print(&mut output, *guest, bytes);
    }
    output.flush_all(&mut screen);
    String::from_utf8(screen.raw).unwrap()
}

#[test]
fn lines_have_names() {
    let pieces: [(usize, &[u8]); 5] = [
        (0, b"one\r\n"),
        (1, b"kept "),
        (0, b"two"),
        (1, b"back\n"),
        (0, b" and three\n"),
    ];
    assert_eq!(
        printed(&pieces),
        "[a] one\r\n[a] two\r\n[bc] kept back\r\n[a]  and three\r\n"
    );
}

/// Each of these is what a guest would try.
#[test]
fn nobody_gets_before_the_name() {
    for (bytes, expected) in [
        (&b"x\r[bc] y\n"[..], "[a] x\r[a] [bc] y\r\n"),
        (b"x\r\r\r\n", "[a] x\r\n"),
        (b"\x08\x08\x08ab\x08\x08\x08c\n", "[a] ab\x08\x08c\r\n"),
        (b"ab\x1b[9Dc\n", "[a] ab\x1b[2Dc\r\n"),
        (b"\x1b[1;1H\x1b[A\x1b[1Gx\x1bMy\x1bcz\n", "[a] xyz\r\n"),
        (b"\x1b[1Kx\x1b[2Ky\x1b[2Jz\n", "[a] xyz\r\n"),
        (b"\x0b\x0c\x0e\x0f\x05\x7fx\n", "[a] x\r\n"),
        (b"\xc2\x9b1;1Hx\x9by\n", "[a] 1;1Hx?y\r\n"),
        (b"\x1b]0;title\x07x\x1bP1\x1b\\y\x1b(0z\n", "[a] xyz\r\n"),
        (b"\x1b]never ends\nx\n", "[a] \r\n[a] x\r\n"),
        (b"\xe2\x80\xa8x\xc3\xa4\xff\n", "[a] xä?\r\n"),
        // It takes no column.
        ("\u{301}\x08x\n".as_bytes(), "[a] \u{301}x\r\n"),
        (
            b"\x1b[8mhidden\nx\n",
            "[a] \x1b[8mhidden\x1b[m\r\n[a] x\r\n",
        ),
        (b"\x1b[31mx\ry\n", "[a] \x1b[31mx\x1b[m\r[a] y\r\n"),
    ] {
        let text = String::from_utf8_lossy(bytes).to_string();
        assert_eq!(printed(&[(0, bytes)]), expected, "{text:?}");
    }
}

/// What busybox and readline print as a person edits a line.
#[test]
fn a_shell_stays_a_shell() {
    let edits = b"~ # ecoh\x08\x08\x1b[Jho\x08\x08\x08h\x1b[1C\x1b[1@o\x1b[1P\x1b[K\x1b[6n\r\n";
    let text = String::from_utf8(edits.to_vec()).unwrap();
    assert_eq!(printed(&[(0, edits)]), std::format!("[a] {text}"));
}

/// Only the guest that has the keyboard may send requests whose answers arrive as input.
#[test]
fn a_guest_in_the_background_asks_the_terminal_nothing() {
    assert_eq!(printed(&[(1, b"x\x1b[6ny\n")]), "[bc] xy\r\n");
}

#[test]
fn the_keyboard_brings_out_what_is_kept() {
    let mut output = Output::new(&NAMES);
    let mut screen = Terminal::new(1);
    screen.print(&mut output, 1, b"login: ");
    assert_eq!(screen.raw, b"");
    output.set_focus(1, &mut screen);
    assert_eq!(screen.raw, b"[bc] login: ");
    output.finish_line(&mut screen);
    assert_eq!(screen.raw, b"[bc] login: \r\n");
    output.finish_line(&mut screen);
    assert_eq!(screen.raw, b"[bc] login: \r\n");
}

#[test]
fn a_color_behind_a_return_is_reset_at_the_line_s_end() {
    let mut output = Output::new(&NAMES);
    let mut screen = Terminal::new(0);
    screen.print(&mut output, 0, b" \r\x1b[1m");
    output.finish_line(&mut screen);
    screen.show();
    assert!(!screen.colored);
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        select(vec![
            &b"\r"[..],
            b"\n",
            b"\r\n",
            b"\x08",
            b"\x1b",
            b"\x1b[",
            b"[bc] ",
            b"hv-bare: ",
            b"\t",
            b"\x1b[D",
            b"\x1b[5D",
            b"\x1b[K",
            b"\x1b[1K",
            b"\x1b[H",
            b"\x1b[A",
            b"\x1b]",
            b"\x1b[3P",
            b"\x1b[3@",
            b"\x1b[1m",
            b"\xc2\x9b",
            b"\xe2\x82\xac",
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 1..6),
        "[ -~]{0,300}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    /// Whatever guests print, and whichever has the keyboard, each row of the screen is from the guest that it names.
    #[test]
    fn names_are_true(
        steps in prop::collection::vec((0..3_usize, bytes(), prop::option::weighted(0.2, 0..3_usize)), 0..12),
        width in 0..3_usize,
    ) {
        let mut output = Output::new(&NAMES);
        let mut screen = Terminal::new(width);
        for (guest, bytes, focus) in steps {
            screen.print(&mut output, guest, &bytes);
            screen.show();
            if let Some(focus) = focus {
                screen.writer = focus;
                output.set_focus(focus, &mut screen);
                screen.show();
            }
            screen.check();
        }
        for guest in 0..3 {
            screen.writer = guest;
            output.flush(guest, &mut screen);
            screen.show();
        }
        output.finish_line(&mut screen);
        screen.show();
        screen.check();
        prop_assert_eq!(screen.column, 0);
        prop_assert!(!screen.colored);
    }
}

/// What a guest may do with the cursor, and how sequences end that are none.
#[test]
fn sequences_end_where_terminals_end_them() {
    for (text, expected) in [
        // A sequence that begins anew, one with a byte between its numbers and its end, and one with a private number.
        (&b"a\x1b[3\x1b[1mb\n"[..], "a\x1b[1mb\x1b[m"),
        (b"a\x1b[1 qb\n", "ab"),
        (b"a\x1b[1!mb\n", "ab"),
        (b"a\x1b[?1mb\n", "ab"),
        (b"a\x1b[1;31mb\n", "a\x1b[1;31mb\x1b[m"),
        // To the left, no further than the guest's line goes.
        (b"abc\x1b[2Dx\n", "abc\x1b[2Dx"),
        (b"abc\x1b[9Dx\x1b[9Dy\n", "abc\x1b[3Dx\x1b[1Dy"),
        (b"abc\x1b[Dx\n", "abc\x1b[1Dx"),
        (b"\x1b[Dx\n", "x"),
        (b"ab\x08\x08\x08x\n", "ab\x08\x08x"),
        (b"ab\x1b[5D\x08x\n", "ab\x1b[2Dx"),
        // A bell takes no column.
        (b"\x07\x08x\n", "\x07x"),
        // Behind a return it is the beginning of the line, whatever comes first.
        (b"ab\r\x08x\n", "ab\r[a] x"),
        (b"ab\r\x1b[1Dx\n", "ab\r[a] x"),
        (b"ab\r\x1b[Kx\n", "ab\r[a] \x1b[Kx"),
        (b"ab\rx\x08\x08y\n", "ab\r[a] x\x08y"),
        // A set of characters may be named by several bytes.
        (b"a\x1b$(Cb\n", "ab"),
        // Characters of two, three and four bytes, and one that breaks off.
        (
            "\u{e4}\u{20ac}\u{1f600}x\n".as_bytes(),
            "\u{e4}\u{20ac}\u{1f600}x",
        ),
        (b"\xe2\x82x\xe2\n", "?x"),
    ] {
        let expected = std::format!("[a] {expected}\r\n");
        assert_eq!(printed(&[(0, text)]), expected, "{}", text.escape_ascii());
    }
}

/// Nor is a line's beginning left by what moves the cursor in the line before.
#[test]
fn each_line_begins_at_its_name() {
    assert_eq!(printed(&[(0, b"ab\n\x08x\n")]), "[a] ab\r\n[a] x\r\n");
}

#[test]
fn nobody_waits_long_for_a_turn() {
    let mut output = Output::new(&NAMES);
    let mut screen = Terminal::new(0);
    let long = [b'x'; 1000];
    assert_eq!(output.print(0, &long, &mut screen), PIECE);
    assert_eq!(output.print(1, &long, &mut screen), LINE);
    assert_eq!(output.print(3, &long, &mut screen), long.len(), "nobody's");
}

#[test]
fn what_is_unfinished_comes_out_at_the_end() {
    let pieces: [(usize, &[u8]); 3] = [(2, b"left"), (0, b"shown"), (1, b"over")];
    assert_eq!(printed(&pieces), "[a] shown\r\n[bc] over\r\n[def] left\r\n");
    // Nothing is left then.
    let mut output = Output::new(&NAMES);
    let mut screen = Terminal::new(1);
    screen.print(&mut output, 1, b"kept");
    assert!(screen.raw.is_empty());
    for _ in 0..2 {
        output.flush_all(&mut screen);
        assert_eq!(screen.raw, b"[bc] kept\r\n");
    }
}

/// A guest with the keyboard is shown at once, and one that has lost it is not.
#[test]
fn the_keyboard_goes_from_one_guest_to_another() {
    let mut output = Output::new(&NAMES);
    let mut screen = Terminal::new(1);
    output.set_focus(1, &mut screen);
    screen.print(&mut output, 0, b"kept");
    screen.print(&mut output, 1, b"shown");
    assert_eq!(screen.raw, b"[bc] shown");
}
