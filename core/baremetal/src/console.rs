//! Multiplexes the output of several guests on one screen. Each line begins with the name of the guest that printed it.
//!
//! A line begins with its guest's name, `[name] `, and no guest can get before that, or to another line: what moves the cursor
//! there is left out, or has the name printed again. What a shell needs to edit a line stays: carriage returns, backspaces, colors,
//! and erasing, inserting and deleting from the cursor on (ECMA-48, section 8.3; `console_codes(4)`). Programs that use the whole
//! screen do not work with several guests. A line that is longer than the screen is wide goes on in the next row, without a name.

use alloc::string::String;
use alloc::vec::Vec;

/// The most of an unfinished line that is kept back, bytes.
const LINE: usize = 256;

/// The most that is printed of a guest that has the keyboard before another one has a chance, bytes.
const PIECE: usize = 64;

/// The most bytes of parameters that a control sequence has here.
const PARAMETERS: usize = 16;

const BELL: u8 = 7;
const BACKSPACE: u8 = 8;
const ESCAPE: u8 = 0x1b;

/// Where a screen's bytes go.
pub trait Screen {
    /// Prints bytes.
    fn write(&mut self, bytes: &[u8]);
}

/// The guests' output on its way to the screen.
#[derive(Debug)]
pub struct Output {
    guests: Vec<Stream>,
    /// The guest that has the keyboard: what it prints comes out at once, and that of the others when a line is whole.
    focus: usize,
    /// The guest whose line is unfinished on the screen.
    unfinished: Option<usize>,
}

/// What one guest prints.
#[derive(Debug)]
struct Stream {
    prefix: String,
    /// What it printed and is not on the screen yet.
    line: Vec<u8>,
    filter: Filter,
}

impl Output {
    /// For guests of these names, of which the first has the keyboard.
    #[must_use]
    pub fn new(names: &[&str]) -> Self {
        let stream = |name: &&str| Stream {
            prefix: alloc::format!("[{name}] "),
            line: Vec::with_capacity(LINE),
            filter: Filter::default(),
        };
        Self {
            guests: names.iter().map(stream).collect(),
            focus: 0,
            unfinished: None,
        }
    }

    /// Gives the keyboard to a guest.
    pub fn set_focus(&mut self, guest: usize, screen: &mut impl Screen) {
        self.focus = guest;
        self.flush(guest, screen);
    }

    /// Takes some of what a guest prints, at most a line, and answers how much: so that nobody waits long for a turn.
    pub fn print(&mut self, guest: usize, bytes: &[u8], screen: &mut impl Screen) -> usize {
        let Some(stream) = self.guests.get_mut(guest) else {
            return bytes.len();
        };
        let has_focus = guest == self.focus;
        let limit = if has_focus { PIECE } else { LINE };
        let mut taken: usize = 0;
        let mut is_due = has_focus;
        for byte in bytes {
            // A return that ends no line has the name printed once more.
            let again = stream.line.last() == Some(&b'\r') && *byte != b'\n';
            if again || stream.line.len() >= limit {
                is_due = true;
                break;
            }
            stream.line.push(*byte);
            taken = taken.saturating_add(1);
            if *byte == b'\n' {
                is_due = true;
                break;
            }
        }
        if is_due {
            self.flush(guest, screen);
        }
        taken
    }

    /// Prints what there is of a guest's line.
    pub fn flush(&mut self, guest: usize, screen: &mut impl Screen) {
        let is_whole = self.guests.get(guest).is_none_or(|it| it.line.is_empty());
        if is_whole {
            return;
        }
        if self.unfinished != Some(guest) {
            self.finish_line(screen);
        }
        let Some(stream) = self.guests.get_mut(guest) else {
            return;
        };
        let mut terminal = Terminal {
            screen,
            prefix: stream.prefix.as_bytes(),
            has_keyboard: guest == self.focus,
            is_new: self.unfinished != Some(guest),
        };
        if terminal.is_new {
            stream.filter.column = 0;
            stream.filter.returned = false;
        }
        for byte in stream.line.drain(..) {
            stream.filter.put(byte, &mut terminal);
        }
        self.unfinished = (!terminal.is_new).then_some(guest);
    }

    /// Prints what all guests have left unfinished, and ends the line.
    pub fn flush_all(&mut self, screen: &mut impl Screen) {
        for guest in 0..self.guests.len() {
            self.flush(guest, screen);
        }
        self.finish_line(screen);
    }

    /// Ends a line on the screen that a guest has not.
    pub fn finish_line(&mut self, screen: &mut impl Screen) {
        if let Some(stream) = self
            .unfinished
            .take()
            .and_then(|at| self.guests.get_mut(at))
        {
            stream.filter.reset_colors(screen);
            screen.write(b"\r\n");
        }
    }
}

/// The screen, for one guest.
struct Terminal<'a, S> {
    screen: &'a mut S,
    prefix: &'a [u8],
    has_keyboard: bool,
    /// The cursor is at the beginning of a line, before the name.
    is_new: bool,
}

impl<S: Screen> Terminal<'_, S> {
    /// Prints in the guest's line.
    fn write(&mut self, bytes: &[u8]) {
        if core::mem::take(&mut self.is_new) {
            self.screen.write(self.prefix);
        }
        self.screen.write(bytes);
    }
}

/// What a guest's bytes are in the middle of.
#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    /// A character of several bytes: those so far, and how many more.
    Character(Vec<u8>, usize),
    /// Behind an escape.
    Escape,
    /// Behind an escape that takes one more byte.
    Designation,
    /// In a control sequence, with these parameters; `None` if it is none that passes.
    Sequence(Option<Vec<u8>>),
    /// In a string for the terminal, which ends with a bell or an escape.
    String,
}

/// What a guest may do to the screen.
#[derive(Debug, Default)]
struct Filter {
    state: State,
    /// At least so many columns are between the name and the cursor.
    column: usize,
    /// A carriage return has come, and what is behind it has not.
    returned: bool,
    /// Colors may be other than usual.
    colored: bool,
}

impl Filter {
    fn put<S: Screen>(&mut self, byte: u8, terminal: &mut Terminal<'_, S>) {
        match core::mem::take(&mut self.state) {
            // Whatever has begun, these end it: the guest's next line is a line again.
            _ if byte == b'\n' => self.end_line(terminal),
            State::Text => self.text(byte, terminal),
            State::Character(mut bytes, more) => {
                if byte & 0xc0 != 0x80 {
                    self.unknown(terminal);
                    return self.text(byte, terminal);
                }
                bytes.push(byte);
                match more {
                    0 | 1 => self.character(&bytes, terminal),
                    _ => self.state = State::Character(bytes, more.saturating_sub(1)),
                }
            }
            State::Escape => {
                self.state = match byte {
                    b'[' => State::Sequence(Some(Vec::new())),
                    b']' | b'P' | b'X' | b'^' | b'_' => State::String,
                    b' '..=b'/' => State::Designation,
                    ESCAPE => State::Escape,
                    _ => State::Text,
                };
            }
            State::Designation => {
                if matches!(byte, b' '..=b'/') {
                    self.state = State::Designation;
                }
            }
            State::Sequence(parameters) => self.sequence(byte, parameters, terminal),
            State::String => {
                self.state = match byte {
                    BELL => State::Text,
                    ESCAPE => State::Escape,
                    _ => State::String,
                };
            }
        }
    }

    fn text<S: Screen>(&mut self, byte: u8, terminal: &mut Terminal<'_, S>) {
        match byte {
            b'\r' => self.returned = true,
            ESCAPE => self.state = State::Escape,
            BACKSPACE => {
                self.follow_return(terminal);
                if self.column > 0 {
                    self.column = self.column.saturating_sub(1);
                    terminal.write(&[byte]);
                }
            }
            b'\t' | BELL => self.pass(&[byte], 0, terminal),
            b' '..=b'~' => self.pass(&[byte], 1, terminal),
            0xc2..=0xdf => self.state = State::Character(alloc::vec![byte], 1),
            0xe0..=0xef => self.state = State::Character(alloc::vec![byte], 2),
            0xf0..=0xf4 => self.state = State::Character(alloc::vec![byte], 3),
            0x80.. => self.unknown(terminal),
            _ => {}
        }
    }

    /// A character beyond ASCII. How wide it is depends on the terminal: it may take no column at all.
    fn character<S: Screen>(&mut self, bytes: &[u8], terminal: &mut Terminal<'_, S>) {
        let character = core::str::from_utf8(bytes).ok();
        match character.and_then(|text| text.chars().next()) {
            None => self.unknown(terminal),
            // Control characters, and separators of lines and paragraphs.
            Some('\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}') => {}
            Some(_) => self.pass(bytes, 0, terminal),
        }
    }

    fn unknown<S: Screen>(&mut self, terminal: &mut Terminal<'_, S>) {
        self.pass(b"?", 1, terminal);
    }

    fn sequence<S: Screen>(
        &mut self,
        byte: u8,
        parameters: Option<Vec<u8>>,
        terminal: &mut Terminal<'_, S>,
    ) {
        match byte {
            ESCAPE => self.state = State::Escape,
            b'0'..=b'?' => {
                let mut parameters = parameters.filter(|so_far| so_far.len() < PARAMETERS);
                if let Some(parameters) = &mut parameters {
                    parameters.push(byte);
                }
                self.state = State::Sequence(parameters);
            }
            b' '..=b'/' => self.state = State::Sequence(None),
            b'@'..=b'~' => {
                if let Some(parameters) = parameters {
                    self.finish_sequence(byte, &parameters, terminal);
                }
            }
            // Control characters within a sequence do what they do elsewhere, on some terminals. Here they end it.
            _ => {}
        }
    }

    fn finish_sequence<S: Screen>(
        &mut self,
        end: u8,
        parameters: &[u8],
        terminal: &mut Terminal<'_, S>,
    ) {
        let numbers = parameters.iter().all(|byte| matches!(byte, b'0'..=b';'));
        let number = || {
            let text = core::str::from_utf8(parameters).ok()?;
            if text.is_empty() {
                Some(0)
            } else {
                text.parse().ok()
            }
        };
        match end {
            b'm' if numbers => {
                self.pass_sequence(parameters, end, terminal);
                // Only now: a return before it has had the colors of before reset.
                self.colored = true;
            }
            // To the right; insert and delete there.
            b'C' | b'@' | b'P' if number().is_some() => {
                self.pass_sequence(parameters, end, terminal);
            }
            // To the left, as far as the guest's line goes.
            b'D' => {
                self.follow_return(terminal);
                let count = number().unwrap_or(0_usize).max(1).min(self.column);
                if count > 0 {
                    self.column = self.column.saturating_sub(count);
                    terminal.write(alloc::format!("\x1b[{count}D").as_bytes());
                }
            }
            // Erase from the cursor to the end of the line, or of the screen.
            b'J' | b'K' if number() == Some(0_usize) => {
                self.pass_sequence(parameters, end, terminal);
            }
            // Where the cursor is: the answer comes by the keyboard.
            b'n' if terminal.has_keyboard && number() == Some(6_usize) => {
                self.pass_sequence(parameters, end, terminal);
            }
            _ => {}
        }
    }

    fn pass_sequence<S: Screen>(
        &mut self,
        parameters: &[u8],
        end: u8,
        terminal: &mut Terminal<'_, S>,
    ) {
        self.follow_return(terminal);
        terminal.write(b"\x1b[");
        terminal.write(parameters);
        terminal.write(&[end]);
    }

    /// Prints what moves the cursor by at least so many columns.
    fn pass<S: Screen>(&mut self, bytes: &[u8], columns: usize, terminal: &mut Terminal<'_, S>) {
        self.follow_return(terminal);
        terminal.write(bytes);
        self.column = self.column.saturating_add(columns);
    }

    /// Something follows a carriage return: it comes behind the name.
    fn follow_return<S: Screen>(&mut self, terminal: &mut Terminal<'_, S>) {
        if core::mem::take(&mut self.returned) && !terminal.is_new {
            self.column = 0;
            self.reset_colors(terminal.screen);
            terminal.screen.write(b"\r");
            terminal.screen.write(terminal.prefix);
        }
    }

    fn end_line<S: Screen>(&mut self, terminal: &mut Terminal<'_, S>) {
        self.returned = false;
        self.column = 0;
        terminal.write(b"");
        self.reset_colors(terminal.screen);
        terminal.screen.write(b"\r\n");
        terminal.is_new = true;
    }

    /// The name, and what others print, is seen as it is.
    fn reset_colors(&mut self, screen: &mut impl Screen) {
        if core::mem::take(&mut self.colored) {
            screen.write(b"\x1b[m");
        }
    }
}

#[cfg(test)]
mod terminal;
#[cfg(test)]
mod tests;
