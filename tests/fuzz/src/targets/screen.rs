//! The console of the bare-metal hypervisor: whatever guests print, each row of the screen is from the guest that it names.

use hv_bare::console::{Output, Screen};

use crate::input::{Input, Script};

#[path = "../../../../core/baremetal/src/console/terminal.rs"]
mod terminal;

use terminal::{NAMES, Terminal};

/// What guests try, and what shells print.
const PIECES: [&[u8]; 24] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\x08",
    b"\x1b",
    b"\x1b[",
    b"[bc] ",
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
    b"\x1b[C",
    b"\x1b[6n",
    b"\xc2\x9b",
    b"\xe2\x82\xac",
    b"text ",
    b"\x07",
];

/// Prints, as the input says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut output = Output::new(&NAMES);
    let mut screen = Terminal::new(input.below(3));
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let guest = input.below(3);
        match input.below(8) {
            0 => {
                screen.writer = guest;
                output.set_focus(guest, &mut screen);
            }
            1 => {
                screen.writer = guest;
                output.flush(guest, &mut screen);
            }
            2 => output.finish_line(&mut screen),
            _ => {
                let mut bytes = Vec::new();
                for _ in 0..=input.below(8) {
                    if input.byte() < 128 {
                        bytes.extend(input.choose(&PIECES));
                    } else {
                        let count = input.below(20);
                        bytes.extend(input.bytes(count));
                    }
                }
                screen.print(&mut output, guest, &bytes);
            }
        }
        screen.show();
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
    assert_eq!(screen.column, 0);
    assert!(
        !screen.colored,
        "the colors of a guest stay behind its line"
    );
}

/// Lines of all guests, and a shell's line editing.
pub fn seeds() -> Vec<Vec<u8>> {
    let print = |script: Script, guest: u8, text: &[u8]| {
        script
            .bytes(&[guest, 3, 0, 255, text.len() as u8])
            .bytes(text)
    };
    let lines = print(
        print(print(Script::new().byte(1), 0, b"one\r\n"), 1, b"kept "),
        0,
        b"two",
    );
    let lines = print(lines, 1, b"back\n").bytes(&[1, 0, 2, 1]);
    let shell = print(
        print(Script::new().byte(1), 0, b"~ # ecoh\x08\x08\x1b[Jho"),
        0,
        b"\x08\x1b[1@o\x1b[K\x1b[6n\r\n",
    );
    let colors = print(
        print(Script::new().byte(2), 2, b"\x1b[31mx\ry\n"),
        0,
        b"\xe2\x82\xac\x1b[5D\x08z",
    );
    [lines, shell, colors].map(Script::done).into()
}
