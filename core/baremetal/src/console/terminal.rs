//! A model of a terminal, for the tests of [`Output`] and its fuzz target (`tests/fuzz/`), which includes this file.

use std::string::String;
use std::vec;
use std::vec::Vec;

use super::{Output, Screen};

/// The most that is printed at a time, bytes: a line, of which each character may become several.
const MOST: usize = 4 * 256;

/// The most columns that a sequence moves by, as the screens of real terminals have an end.
const FAR: usize = 100;

/// The guests' names.
pub const NAMES: [&str; 3] = ["a", "bc", "def"];

/// A terminal of endless width, whose cells know who wrote them.
pub struct Terminal {
    rows: Vec<Vec<(char, usize)>>,
    /// Where the cursor is.
    pub column: usize,
    /// Who prints.
    pub writer: usize,
    /// Columns that a character beyond ASCII takes.
    width: usize,
    /// What was printed and is not shown yet.
    pub raw: Vec<u8>,
    /// Colors are other than usual.
    pub colored: bool,
}

impl Terminal {
    /// An empty screen.
    pub fn new(width: usize) -> Self {
        Self {
            rows: vec![Vec::new()],
            column: 0,
            writer: 0,
            width,
            raw: Vec::new(),
            colored: false,
        }
    }

    /// Shows what was printed.
    pub fn show(&mut self) {
        let text = String::from_utf8(core::mem::take(&mut self.raw)).unwrap();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let row = self.rows.last_mut().unwrap();
            match character {
                '\n' => {
                    assert_eq!(self.column, 0, "a line feed without a return");
                    self.rows.push(Vec::new());
                }
                '\r' => self.column = 0,
                '\x08' => self.column = self.column.saturating_sub(1),
                '\t' => self.column = (self.column / 8 + 1) * 8,
                '\x07' => {}
                '\x1b' => {
                    assert_eq!(characters.next(), Some('['));
                    let mut number = String::new();
                    let end = characters.find(|character| match character {
                        '0'..=';' => {
                            number.push(*character);
                            false
                        }
                        _ => true,
                    });
                    let count = number.parse().unwrap_or(0_usize);
                    match end.unwrap() {
                        'm' => self.colored = !(number.is_empty() || number == "0"),
                        'C' => self.column += count.clamp(1, FAR),
                        'D' => self.column = self.column.saturating_sub(count.max(1)),
                        '@' if self.column < row.len() => {
                            for _ in 0..count.clamp(1, FAR) {
                                row.insert(self.column, (' ', self.writer));
                            }
                        }
                        'P' if self.column < row.len() => {
                            let end = row.len().min(self.column.saturating_add(count.max(1)));
                            row.drain(self.column..end);
                        }
                        'J' | 'K' => row.truncate(self.column),
                        '@' | 'P' | 'n' => {}
                        other => panic!("{other:?} came through"),
                    }
                }
                _ => {
                    assert!(!character.is_control(), "{character:?} came through");
                    let width = if character.is_ascii() { 1 } else { self.width };
                    for _ in 0..width {
                        if row.len() <= self.column {
                            row.resize(self.column + 1, (' ', self.writer));
                        }
                        row[self.column] = (character, self.writer);
                        self.column += 1;
                    }
                }
            }
        }
    }

    /// Every row begins with the name of the guest that wrote all of it.
    pub fn check(&self) {
        for row in self.rows.iter().filter(|row| !row.is_empty()) {
            let text: String = row.iter().map(|(character, _)| *character).collect();
            let (_, writer) = row[0];
            let prefix = std::format!("[{}] ", NAMES[writer]);
            assert!(text.starts_with(&prefix), "{text:?} of {}", NAMES[writer]);
            assert!(row.iter().all(|(_, other)| *other == writer), "{text:?}");
        }
    }

    /// Has a guest print all of `bytes`.
    pub fn print(&mut self, output: &mut Output, guest: usize, bytes: &[u8]) {
        self.writer = guest;
        let mut rest = bytes;
        // Nothing is taken once, at a return that ends no line.
        let mut in_vain = 0;
        while !rest.is_empty() {
            let before = self.raw.len();
            let taken = output.print(guest, rest, self);
            rest = &rest[taken..];
            in_vain = if taken == 0 { in_vain + 1 } else { 0 };
            assert!(in_vain < 3, "nothing is taken any more");
            let printed = self.raw.len() - before;
            assert!(printed <= MOST, "{printed} bytes at a time");
        }
    }
}

impl Screen for Terminal {
    fn write(&mut self, bytes: &[u8]) {
        self.raw.extend(bytes);
    }
}
