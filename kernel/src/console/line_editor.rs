//! The line editor: bytes from a serial line in, finished lines and echo bytes out.
//!
//! [`LineEditor`] does no I/O and reads no clock, so the console task, a test and a fuzzer drive the
//! same code. The console feeds it one byte at a time with [`LineEditor::input`] and sends whatever
//! it appends to `echo`; an [`Edit`] says that a line is finished or given up.
//!
//! Decision: the line is shown in *one* row, scrolled sideways when it is longer than the row,
//! instead of wrapping over several rows as readline does. A serial line cannot tell us where its
//! terminal wrapped or scrolled, so a wrapped line cannot be erased reliably; a single row can
//! (`CR`, erase to end of line), and that is what lets log lines from other CPUs pass without
//! tearing the line being edited.
//!
//! Source: ECMA-48 (control functions), and the key bindings of 4.4BSD's editline.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

#[cfg(test)]
mod tests;

/// Longest line, in bytes. One more byte rings the bell and is dropped.
pub const MAX_LINE_BYTES: usize = 1024;
/// Lines kept in the history; the oldest goes first.
pub const MAX_HISTORY_LINES: usize = 64;
/// Row width assumed until [`LineEditor::set_columns`] says otherwise.
pub const DEFAULT_COLUMNS: usize = 80;

const BELL: u8 = 0x07;
const ERASE_TO_END: &[u8] = b"\x1b[K";

/// What a byte of input completed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a finished line is lost if nobody runs it"]
pub enum Edit {
    /// The line goes on.
    More,
    /// Enter: this line is finished (it may be empty).
    Line(String),
    /// Ctrl-C: the line was given up.
    Cancelled,
    /// Ctrl-D on an empty line.
    EndOfInput,
}

/// The words that could stand where the cursor is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Byte of the line at which the word being completed starts.
    pub start: usize,
    /// The words, each complete. Those that do not begin with what is typed are ignored.
    pub words: Vec<String>,
}

/// Answers Tab: which words fit at the end of `before_cursor`?
pub trait Complete {
    /// Returns candidates for the word that ends at the end of `before_cursor`.
    fn candidates(&self, before_cursor: &str) -> Candidates;
}

impl<F: Fn(&str) -> Candidates> Complete for F {
    fn candidates(&self, before_cursor: &str) -> Candidates {
        self(before_cursor)
    }
}

/// Where in an escape sequence the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Plain,
    Escape,
    /// `ESC O`: one more byte names the key.
    SingleShift,
    /// `ESC [`: parameters, then a final byte. Only the first number matters to us.
    Control {
        number: u16,
        first: bool,
    },
}

/// A key, whatever bytes it came as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    Delete,
}

/// One line being edited, and those before it.
///
/// Having a `LineEditor` tells you: the line is printable ASCII of at most [`MAX_LINE_BYTES`], so
/// byte positions are character positions and columns.
#[derive(Debug)]
pub struct LineEditor {
    prompt: String,
    line: String,
    cursor: usize,
    /// First byte of the line that the row shows.
    scroll: usize,
    columns: usize,
    input: Input,
    /// The last byte was CR, so an LF right behind it belongs to the same Enter.
    after_return: bool,
    /// The last key was a Tab that could not add anything: the next one lists.
    tab_pending: bool,
    history: VecDeque<String>,
    /// Line of the history being looked at; `None` while the newest line is.
    recalled: Option<usize>,
    /// The unfinished line put aside while the history is being looked at.
    draft: String,
}

impl LineEditor {
    /// An editor with an empty line and no history.
    #[must_use]
    pub fn new(prompt: &str) -> Self {
        Self {
            prompt: prompt.chars().filter(|c| matches!(c, ' '..='~')).collect(),
            line: String::new(),
            cursor: 0,
            scroll: 0,
            columns: DEFAULT_COLUMNS,
            input: Input::Plain,
            after_return: false,
            tab_pending: false,
            history: VecDeque::new(),
            recalled: None,
            draft: String::new(),
        }
    }

    /// Tells the editor how wide the terminal's row is. Widths below 20 count as 20.
    pub fn set_columns(&mut self, columns: usize) {
        self.columns = columns.max(20);
    }

    /// The line as it stands.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The lines of the history, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &str> {
        self.history.iter().map(String::as_str)
    }

    /// Wipes the row, so that other text can be printed; [`LineEditor::redraw`] brings it back.
    pub fn erase(&self, echo: &mut Vec<u8>) {
        echo.push(b'\r');
        echo.extend_from_slice(ERASE_TO_END);
    }

    /// Draws prompt, visible part of the line, and cursor, over whatever the row holds.
    pub fn redraw(&mut self, echo: &mut Vec<u8>) {
        echo.push(b'\r');
        let back = self.draw(echo);
        echo.extend_from_slice(ERASE_TO_END);
        move_back(back, echo);
    }

    /// As [`LineEditor::redraw`], in a row that is empty with the cursor at its start: plain text, so that a
    /// program that reads the console finds the prompt right behind the end of a line.
    pub fn draw_in_fresh_row(&mut self, echo: &mut Vec<u8>) {
        let back = self.draw(echo);
        move_back(back, echo);
    }

    /// Prompt and visible part of the line; returns how far behind the cursor that ends.
    fn draw(&mut self, echo: &mut Vec<u8>) -> usize {
        let room = self.room();
        if self.cursor < self.scroll {
            self.scroll = self.cursor;
        } else if self.cursor - self.scroll > room {
            self.scroll = self.cursor - room;
        }
        let end = self.line.len().min(self.scroll + room);
        echo.extend_from_slice(self.shown_prompt().as_bytes());
        echo.extend_from_slice(&self.line.as_bytes()[self.scroll..end]);
        end - self.cursor
    }

    /// Takes one byte; appends what the terminal must see to `echo`.
    pub fn input(&mut self, byte: u8, complete: &dyn Complete, echo: &mut Vec<u8>) -> Edit {
        let after_return = core::mem::take(&mut self.after_return);
        let tab_pending = core::mem::take(&mut self.tab_pending);
        // A control byte ends a half-received escape sequence: Enter and Ctrl-C must always work.
        if byte < 0x20 && byte != 0x1b {
            self.input = Input::Plain;
        }
        match self.input {
            Input::Plain => match byte {
                b'\n' if after_return => {}
                b'\r' | b'\n' => {
                    self.after_return = byte == b'\r';
                    return self.finish(echo);
                }
                b'\t' => self.tab(tab_pending, complete, echo),
                0x1b => self.input = Input::Escape,
                b' '..=b'~' => self.insert(byte, echo),
                _ => return self.control(byte, echo),
            },
            Input::Escape => {
                self.input = match byte {
                    b'[' => Input::Control {
                        number: 0,
                        first: true,
                    },
                    b'O' => Input::SingleShift,
                    0x1b => Input::Escape,
                    _ => Input::Plain,
                };
            }
            Input::SingleShift => {
                self.input = if byte == 0x1b {
                    Input::Escape
                } else {
                    Input::Plain
                };
                if let Some(key) = key_of_final(byte, 0) {
                    self.press(key, echo);
                }
            }
            Input::Control { number, first } => self.control_sequence(byte, number, first, echo),
        }
        Edit::More
    }

    /// One byte of an `ESC [` sequence (ECMA-48 5.4: parameters 30-3F, intermediates 20-2F, then
    /// one final byte 40-7E).
    fn control_sequence(&mut self, byte: u8, number: u16, first: bool, echo: &mut Vec<u8>) {
        match byte {
            b'0'..=b'9' if first => {
                let number = number
                    .saturating_mul(10)
                    .saturating_add(u16::from(byte - b'0'));
                self.input = Input::Control { number, first };
            }
            0x20..=0x3f => {
                self.input = Input::Control {
                    number,
                    first: false,
                }
            }
            0x40..=0x7e => {
                self.input = Input::Plain;
                if let Some(key) = key_of_final(byte, number) {
                    self.press(key, echo);
                }
            }
            0x1b => self.input = Input::Escape,
            _ => self.input = Input::Plain,
        }
    }

    /// Ctrl-letter keys. Bytes that mean nothing to us (8-bit, NUL, other controls) are ignored.
    fn control(&mut self, byte: u8, echo: &mut Vec<u8>) -> Edit {
        const fn ctrl(letter: u8) -> u8 {
            letter & 0x1f
        }
        match byte {
            b if b == ctrl(b'A') => self.press(Key::Home, echo),
            b if b == ctrl(b'B') => self.press(Key::Left, echo),
            b if b == ctrl(b'C') => {
                if self.cursor - self.scroll + 2 <= self.room() {
                    echo.extend_from_slice(b"^C");
                }
                echo.extend_from_slice(b"\r\n");
                self.reset();
                return Edit::Cancelled;
            }
            b if b == ctrl(b'D') && self.line.is_empty() => return Edit::EndOfInput,
            b if b == ctrl(b'D') => self.press(Key::Delete, echo),
            b if b == ctrl(b'E') => self.press(Key::End, echo),
            b if b == ctrl(b'F') => self.press(Key::Right, echo),
            b if b == ctrl(b'K') => self.remove(self.cursor, self.line.len(), echo),
            b if b == ctrl(b'L') => {
                echo.extend_from_slice(b"\x1b[H\x1b[2J");
                self.redraw(echo);
            }
            b if b == ctrl(b'N') => self.press(Key::Down, echo),
            b if b == ctrl(b'P') => self.press(Key::Up, echo),
            b if b == ctrl(b'U') => self.remove(0, self.cursor, echo),
            b if b == ctrl(b'W') => self.remove(self.word_start(), self.cursor, echo),
            0x08 | 0x7f => self.backspace(echo),
            _ => {}
        }
        Edit::More
    }

    fn press(&mut self, key: Key, echo: &mut Vec<u8>) {
        match key {
            Key::Left if self.cursor == 0 => echo.push(BELL),
            Key::Left => self.move_to(self.cursor - 1, echo),
            Key::Right if self.cursor == self.line.len() => echo.push(BELL),
            Key::Right => self.move_to(self.cursor + 1, echo),
            Key::Home => self.move_to(0, echo),
            Key::End => self.move_to(self.line.len(), echo),
            Key::Delete if self.cursor == self.line.len() => echo.push(BELL),
            Key::Delete => self.remove(self.cursor, self.cursor + 1, echo),
            Key::Up => self.recall_older(echo),
            Key::Down => self.recall_newer(echo),
        }
    }

    fn insert(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if self.line.len() >= MAX_LINE_BYTES {
            echo.push(BELL);
            return;
        }
        self.line.insert(self.cursor, char::from(byte));
        self.cursor += 1;
        // Typing at the end is the common case; it costs one byte of echo, not a redrawn row.
        if self.cursor == self.line.len() && self.cursor - self.scroll <= self.room() {
            echo.push(byte);
        } else {
            self.redraw(echo);
        }
    }

    fn backspace(&mut self, echo: &mut Vec<u8>) {
        if self.cursor == 0 {
            echo.push(BELL);
        } else if self.cursor == self.line.len() && self.cursor > self.scroll {
            self.line.pop();
            self.cursor -= 1;
            echo.extend_from_slice(b"\x08 \x08");
        } else {
            self.remove(self.cursor - 1, self.cursor, echo);
        }
    }

    /// Removes the bytes `from..to` and leaves the cursor at `from`.
    fn remove(&mut self, from: usize, to: usize, echo: &mut Vec<u8>) {
        if from == to {
            echo.push(BELL);
            return;
        }
        self.line.replace_range(from..to, "");
        self.cursor = from;
        self.redraw(echo);
    }

    fn move_to(&mut self, cursor: usize, echo: &mut Vec<u8>) {
        if cursor != self.cursor {
            self.cursor = cursor;
            self.redraw(echo);
        }
    }

    /// Start of the word before the cursor, as Ctrl-W sees it: blanks, then non-blanks.
    fn word_start(&self) -> usize {
        let before = self.line[..self.cursor].trim_end_matches(' ');
        before.rfind(' ').map_or(0, |blank| blank + 1)
    }

    fn finish(&mut self, echo: &mut Vec<u8>) -> Edit {
        echo.extend_from_slice(b"\r\n");
        let line = core::mem::take(&mut self.line);
        self.remember(&line);
        self.reset();
        Edit::Line(line)
    }

    fn reset(&mut self) {
        self.line.clear();
        self.draft.clear();
        self.cursor = 0;
        self.scroll = 0;
        self.recalled = None;
        self.input = Input::Plain;
    }

    /// Puts a finished line at the new end of the history; an equal older one is dropped.
    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        self.history.retain(|old| old != line);
        if self.history.len() == MAX_HISTORY_LINES {
            self.history.pop_front();
        }
        self.history.push_back(String::from(line));
    }

    fn recall_older(&mut self, echo: &mut Vec<u8>) {
        let older = match self.recalled {
            None => self.history.len().checked_sub(1),
            Some(at) => at.checked_sub(1),
        };
        let Some(at) = older else {
            echo.push(BELL);
            return;
        };
        if self.recalled.is_none() {
            self.draft = core::mem::take(&mut self.line);
        }
        self.recalled = Some(at);
        self.show(self.history[at].clone(), echo);
    }

    fn recall_newer(&mut self, echo: &mut Vec<u8>) {
        let Some(at) = self.recalled else {
            echo.push(BELL);
            return;
        };
        let line = match self.history.get(at + 1) {
            Some(newer) => {
                self.recalled = Some(at + 1);
                newer.clone()
            }
            None => {
                self.recalled = None;
                core::mem::take(&mut self.draft)
            }
        };
        self.show(line, echo);
    }

    fn show(&mut self, line: String, echo: &mut Vec<u8>) {
        self.line = line;
        self.cursor = self.line.len();
        self.scroll = 0;
        self.redraw(echo);
    }

    /// Tab: adds what all candidates agree on; where they agree on no more, the second Tab lists
    /// them.
    fn tab(&mut self, second: bool, complete: &dyn Complete, echo: &mut Vec<u8>) {
        let Candidates { start, words } = complete.candidates(&self.line[..self.cursor]);
        let Some(typed) = self.line.get(start..self.cursor) else {
            echo.push(BELL);
            return;
        };
        let fits = |word: &&String| {
            word.starts_with(typed) && word.bytes().all(|b| matches!(b, b' '..=b'~'))
        };
        let words: Vec<&str> = words.iter().filter(fits).map(String::as_str).collect();
        let Some(agreed) = common_prefix(&words) else {
            echo.push(BELL);
            return;
        };
        let mut addition = String::from(&agreed[typed.len()..]);
        if words.len() == 1 {
            addition.push(' ');
        }
        if addition.is_empty() {
            if second {
                echo.extend_from_slice(b"\r\n");
                list_in_columns(&words, self.columns, echo);
                self.draw_in_fresh_row(echo);
            } else {
                echo.push(BELL);
                self.tab_pending = true;
            }
            return;
        }
        for byte in addition.bytes() {
            self.insert(byte, echo);
        }
    }

    /// Columns left for the line. The last column stays free: writing there makes some terminals
    /// wrap at once and others at the next byte.
    fn room(&self) -> usize {
        self.columns - 1 - self.shown_prompt().len()
    }

    /// The prompt, or its end if it would take more than half the row.
    fn shown_prompt(&self) -> &str {
        let most = self.columns / 2;
        &self.prompt[self.prompt.len().saturating_sub(most)..]
    }
}

fn move_back(columns: usize, echo: &mut Vec<u8>) {
    if columns > 0 {
        echo.extend_from_slice(alloc::format!("\x1b[{columns}D").as_bytes());
    }
}

/// Maps the final byte (and number) of `ESC [ n X` and `ESC O X` to a key. Covers xterm, VT220,
/// rxvt and the Linux console, which disagree on Home and End.
fn key_of_final(byte: u8, number: u16) -> Option<Key> {
    Some(match (byte, number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', 1 | 7) => Key::Home,
        (b'F', _) | (b'~', 4 | 8) => Key::End,
        (b'~', 3) => Key::Delete,
        _ => return None,
    })
}

/// The longest text all words begin with; `None` if there are no words.
fn common_prefix<'a>(words: &[&'a str]) -> Option<&'a str> {
    let (first, rest) = words.split_first()?;
    let agreed = rest.iter().fold(first.len(), |length, word| {
        let same = first
            .bytes()
            .zip(word.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        length.min(same)
    });
    Some(&first[..agreed])
}

fn list_in_columns(words: &[&str], columns: usize, echo: &mut Vec<u8>) {
    let widest = words.iter().map(|word| word.len()).max().unwrap_or(0) + 2;
    let per_row = (columns / widest).max(1);
    for row in words.chunks(per_row) {
        for (place, word) in row.iter().enumerate() {
            echo.extend_from_slice(word.as_bytes());
            if place + 1 < row.len() {
                echo.resize(echo.len() + widest - word.len(), b' ');
            }
        }
        echo.extend_from_slice(b"\r\n");
    }
}
