//! Several consoles of a guest on one output: whatever they print, and however slow the output is, nothing is lost, doubled or out
//! of order of what one console alone prints.

use std::sync::{Arc, Mutex};

use hv_devices::chardev::{Merged, OutputSink};
use vmm_sys_util::eventfd::EventFd;

use crate::input::{Input, Script};

const CONSOLES: usize = 3;

/// An output with room for some bytes.
#[derive(Default)]
struct Screen(Mutex<(Vec<u8>, usize)>);

impl OutputSink for Screen {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().0.extend(bytes);
    }

    fn try_write(&self, bytes: &[u8]) -> usize {
        let (text, room) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(*room);
        *room -= count;
        text.extend(&bytes[..count]);
        count
    }

    fn set_room_event(&self, _: Arc<EventFd>) {}
}

/// A letter that only this console prints.
fn letter(console: usize, byte: u8) -> u8 {
    [b'a', b'i', b'q'][console] + byte % 8
}

/// What a console prints: letters of its own, and what time stamps and lines are made of. A line with one of its letters is no
/// other console's.
fn piece(input: &mut Input<'_>, console: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..=input.below(12) {
        match input.byte() {
            byte @ 0..64 => text.push(letter(console, byte)),
            64..96 => text.push(b'\n'),
            96..128 => text.extend(b"[    0.123456] "),
            byte @ 128..160 => {
                text.extend(format!("[    0.00000{}] COMMON\r\n", byte % 10).bytes())
            }
            byte => text.push(b"[ .]0123456789\r"[usize::from(byte) % 15]),
        }
    }
    text
}

/// Prints, as the input says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let screen = Arc::<Screen>::default();
    let mut merged = Merged::new(screen.clone());
    let consoles: Vec<_> = (0..CONSOLES).filter_map(|_| merged.stream()).collect();
    let mut printed = vec![Vec::new(); CONSOLES];
    // What a device has tried and could not print yet.
    let mut waiting = vec![Vec::new(); CONSOLES];
    for _ in 0..128 {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..3 => {
                let text = piece(&mut input, 0);
                consoles[0].write(&text);
                printed[0].extend(text);
            }
            console @ (3 | 4) => {
                let console = console - 2;
                if waiting[console].is_empty() {
                    let text = piece(&mut input, console);
                    printed[console].extend(&text);
                    waiting[console] = text;
                }
                attempt(&consoles[console], &mut waiting[console]);
            }
            5 => screen.0.lock().unwrap().1 = input.below(200),
            6 => drop(merged.release()),
            _ => {
                // A guest starts anew when all has gone out.
                finish(&screen, &merged, &consoles, &mut waiting);
                merged.restart();
                screen.0.lock().unwrap().1 = 0;
            }
        }
    }
    finish(&screen, &merged, &consoles, &mut waiting);
    let text = std::mem::take(&mut screen.0.lock().unwrap().0);
    assert!(
        text.len() <= printed.iter().map(Vec::len).sum(),
        "something is doubled"
    );
    for (console, printed) in printed.iter().enumerate() {
        let own = |text: &[u8]| -> Vec<u8> {
            let own: Vec<u8> = (0..8).map(|n| letter(console, n)).collect();
            text.iter()
                .copied()
                .filter(|byte| own.contains(byte))
                .collect()
        };
        assert_eq!(
            String::from_utf8_lossy(&own(&text)),
            String::from_utf8_lossy(&own(printed)),
            "console {console}"
        );
    }
}

/// All that was tried goes out.
fn finish(
    screen: &Screen,
    merged: &Merged,
    consoles: &[Arc<dyn OutputSink>],
    waiting: &mut [Vec<u8>],
) {
    screen.0.lock().unwrap().1 = usize::MAX;
    for (console, waiting) in consoles.iter().zip(waiting) {
        while !waiting.is_empty() {
            let before = waiting.len();
            attempt(console, waiting);
            assert!(waiting.len() < before, "an output with room takes nothing");
        }
    }
    assert!(merged.release(), "an output with room takes not all");
}

fn attempt(console: &Arc<dyn OutputSink>, waiting: &mut Vec<u8>) {
    let taken = console.try_write(waiting);
    assert!(taken <= waiting.len());
    waiting.drain(..taken);
}

/// A log on all consoles, with and without room.
pub fn seeds() -> Vec<Vec<u8>> {
    let log = |script: Script, console: u8| {
        script
            .byte(console)
            .byte(7)
            .bytes(&[128, 129, 1, 2, 64, 100, 3, 64])
    };
    let roomy = Script::new().bytes(&[5, 199]);
    let all = log(log(log(roomy.clone(), 0), 3), 4);
    let slow = log(log(Script::new().bytes(&[5, 10]), 3), 0).bytes(&[5, 30, 3, 5, 90, 3, 7, 6]);
    [log(all.clone(), 3), slow, all].map(Script::done).into()
}
