//! Tests of the line editor. [`Screen`] is a small terminal that knows just the control functions
//! the editor uses, so that tests compare what a person would see, not bytes.

use super::*;
use alloc::string::ToString;
use alloc::vec;

const NOTHING: fn(&str) -> Candidates = |_| Candidates::default();

/// One row of a terminal: what the user sees, and where the cursor stands.
struct Screen {
    columns: usize,
    row: Vec<u8>,
    cursor: usize,
    bells: usize,
    rows_above: Vec<String>,
}

impl Screen {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            row: vec![],
            cursor: 0,
            bells: 0,
            rows_above: vec![],
        }
    }

    fn show(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let [byte, tail @ ..] = rest {
            rest = tail;
            match byte {
                b'\r' => self.cursor = 0,
                b'\n' => {
                    let row = core::mem::take(&mut self.row);
                    self.rows_above.push(String::from_utf8(row).unwrap());
                }
                0x07 => self.bells += 1,
                0x08 => self.cursor -= 1,
                0x1b => {
                    let end = rest
                        .iter()
                        .skip(1)
                        .position(u8::is_ascii_alphabetic)
                        .unwrap()
                        + 1;
                    let number = core::str::from_utf8(&rest[1..end])
                        .unwrap()
                        .parse()
                        .unwrap_or(0);
                    match rest[end] {
                        b'K' => self.row.truncate(self.cursor),
                        b'D' => self.cursor -= number,
                        b'H' => self.cursor = 0,
                        b'J' => self.row.clear(),
                        other => panic!("the editor sent ESC [ {number} {}", char::from(other)),
                    }
                    rest = &rest[end + 1..];
                }
                byte => {
                    if self.cursor == self.row.len() {
                        self.row.push(*byte);
                    } else {
                        self.row[self.cursor] = *byte;
                    }
                    self.cursor += 1;
                    assert!(self.cursor < self.columns, "the row wrapped");
                }
            }
        }
    }

    fn text(&self) -> String {
        core::str::from_utf8(&self.row)
            .unwrap()
            .trim_end()
            .to_string()
    }
}

struct Typist {
    editor: LineEditor,
    screen: Screen,
    edits: Vec<Edit>,
}

impl Typist {
    fn new() -> Self {
        let mut editor = LineEditor::new("# ");
        let mut screen = Screen::new(DEFAULT_COLUMNS);
        let mut echo = vec![];
        editor.draw_in_fresh_row(&mut echo);
        screen.show(&echo);
        Self {
            editor,
            screen,
            edits: vec![],
        }
    }

    fn keys_with(&mut self, keys: &[u8], complete: &dyn Complete) -> &mut Self {
        for &byte in keys {
            let mut echo = vec![];
            let edit = self.editor.input(byte, complete, &mut echo);
            if edit != Edit::More {
                if edit == Edit::EndOfInput {
                    self.editor.redraw(&mut echo);
                } else {
                    self.editor.draw_in_fresh_row(&mut echo);
                }
                self.edits.push(edit);
            }
            self.screen.show(&echo);
            self.check();
        }
        self
    }

    fn keys(&mut self, keys: &[u8]) -> &mut Self {
        self.keys_with(keys, &NOTHING)
    }

    /// What must hold after every byte: the row shows the editor's idea of line and cursor.
    fn check(&self) {
        let editor = &self.editor;
        assert!(editor.cursor <= editor.line.len() && editor.line.len() <= MAX_LINE_BYTES);
        let end = editor.line.len().min(editor.scroll + editor.room());
        let shown = alloc::format!("# {}", &editor.line[editor.scroll..end]);
        assert_eq!(self.screen.text(), shown.trim_end());
        assert_eq!(self.screen.cursor, 2 + editor.cursor - editor.scroll);
    }

    fn finished(&self) -> Vec<&str> {
        let mut lines = vec![];
        for edit in &self.edits {
            if let Edit::Line(line) = edit {
                lines.push(line.as_str());
            }
        }
        lines
    }
}

#[test]
fn typed_text_is_echoed_byte_by_byte_and_finished_by_enter() {
    let mut editor = LineEditor::new("# ");
    let mut echo = vec![];
    assert_eq!(editor.input(b'p', &NOTHING, &mut echo), Edit::More);
    assert_eq!(editor.input(b's', &NOTHING, &mut echo), Edit::More);
    assert_eq!(
        editor.input(b'\r', &NOTHING, &mut echo),
        Edit::Line("ps".into())
    );
    assert_eq!(echo, b"ps\r\n");
}

#[test]
fn cr_lf_and_crlf_each_end_a_line_once() {
    let mut typist = Typist::new();
    typist.keys(b"a\rb\nc\r\nd\r\r\n\n");
    assert_eq!(typist.finished(), ["a", "b", "c", "d", "", ""]);
}

#[test]
fn edits_inside_the_line() {
    for (keys, expected) in [
        (&b"abc\x08\r"[..], "ab"),
        (b"abc\x7f\x7f\x7f\x7f\r", ""),
        (b"bc\x01a\r", "abc"),
        (b"ab\x01\x05c\r", "abc"),
        (b"abc\x02\x02\x0b\r", "a"),
        (b"abc\x02\x15\r", "c"),
        (b"ping  host \x17x\r", "ping  x"),
        (b"ping  host \x17\x17x\r", "x"),
        (b"ac\x1b[Db\r", "abc"),
        (b"ac\x1bODb\r", "abc"),
        (b"ac\x1b[D\x1b[D\x1b[D\x1b[Cb\r", "abc"),
        (b"bc\x1b[Ha\x1b[Fd\r", "abcd"),
        (b"bc\x1bOHa\x1bOFd\r", "abcd"),
        (b"bc\x1b[1~a\x1b[4~d\r", "abcd"),
        (b"bc\x1b[7~a\x1b[8~d\r", "abcd"),
        (b"abc\x1b[D\x1b[3~\r", "ab"),
        (b"abc\x01\x04\r", "bc"),
        (b"a\x1b[1;5Db\r", "ba"),
        (b"a\x0cb\r", "ab"),
        (b"a\x1b[200~b\r", "ab"),
        (b"\xc3\xa4a\xff\x80\x00b\x9b\r", "ab"),
        (b"a\x1b[999999999999Db\r", "ba"),
        (b"a\x1b\x1b[Db\r", "ba"),
        (b"a\x1b[12\rb\x1b\r", "a"),
    ] {
        let mut typist = Typist::new();
        typist.keys(keys);
        assert_eq!(typist.finished()[0], expected, "{}", keys.escape_ascii());
    }
}

#[test]
fn ctrl_c_gives_the_line_up_and_ctrl_d_ends_input_only_on_an_empty_line() {
    let mut typist = Typist::new();
    typist.keys(b"abc\x03\x04a\x04");
    assert_eq!(typist.edits, [Edit::Cancelled, Edit::EndOfInput]);
    assert_eq!(typist.editor.line(), "a");
}

#[test]
fn history_is_walked_both_ways_and_keeps_the_draft() {
    let mut typist = Typist::new();
    typist.keys(b"one\rtwo\rdraft\x1b[A\x1b[A\x1b[A");
    assert_eq!(typist.editor.line(), "one");
    assert_eq!(typist.screen.bells, 1);
    typist.keys(b"\x1bOB");
    assert_eq!(typist.editor.line(), "two");
    typist.keys(b"\x1b[B");
    assert_eq!(typist.editor.line(), "draft");
    typist.keys(b"\x10!\r");
    assert_eq!(typist.finished(), ["one", "two", "two!"]);
}

#[test]
fn history_has_no_duplicates_no_blanks_and_a_bound() {
    let mut typist = Typist::new();
    typist.keys(b"a\rb\r  \ra\r");
    assert_eq!(typist.editor.history().collect::<Vec<_>>(), ["b", "a"]);
    for number in 0..2 * MAX_HISTORY_LINES {
        typist.keys(alloc::format!("line {number}\r").as_bytes());
    }
    assert_eq!(typist.editor.history().count(), MAX_HISTORY_LINES);
    assert_eq!(typist.editor.history().last(), Some("line 127"));
}

#[test]
fn a_line_wider_than_the_row_scrolls_and_comes_back_whole() {
    let long: String = (0..300)
        .map(|n| char::from(b'a' + (n % 26) as u8))
        .collect();
    let mut typist = Typist::new();
    typist.keys(long.as_bytes());
    assert!(typist.screen.rows_above.is_empty());
    typist.keys(b"\x01").keys(b"X\x05Y\r");
    assert_eq!(typist.finished(), [alloc::format!("X{long}Y")]);
}

#[test]
fn an_overlong_line_rings_the_bell_and_is_kept_to_the_bound() {
    let mut typist = Typist::new();
    typist.keys(&[b'x'; MAX_LINE_BYTES + 5]).keys(b"\r");
    assert_eq!(typist.screen.bells, 5);
    assert_eq!(typist.finished()[0].len(), MAX_LINE_BYTES);
}

fn commands(before: &str) -> Candidates {
    let start = before.rfind(' ').map_or(0, |blank| blank + 1);
    let words = ["ifconfig", "ping", "poweroff", "ps", "p\u{e4}"];
    Candidates {
        start,
        words: words.iter().map(|w| w.to_string()).collect(),
    }
}

#[test]
fn tab_completes_a_single_candidate_with_a_blank() {
    let mut typist = Typist::new();
    typist.keys_with(b"ifc\tx\r", &commands);
    assert_eq!(typist.finished(), ["ifconfig x"]);
}

#[test]
fn tab_completes_in_the_middle_of_a_line() {
    let mut typist = Typist::new();
    typist.keys_with(b"help po now\x1b[D\x1b[D\x1b[D\x1b[D\t", &commands);
    assert_eq!(typist.editor.line(), "help poweroff  now");
}

#[test]
fn second_tab_lists_what_the_first_could_not_decide() {
    let mut typist = Typist::new();
    typist.keys_with(b"p\t", &commands);
    assert_eq!(
        (typist.screen.bells, typist.screen.rows_above.len()),
        (1, 0)
    );
    typist.keys_with(b"\t", &commands);
    assert_eq!(typist.screen.rows_above, ["# p", "ping      poweroff  ps"]);
    assert_eq!(typist.editor.line(), "p");
    // A key between two Tabs starts over.
    typist.keys_with(b"\to\x08\t", &commands);
    assert_eq!(typist.screen.rows_above.len(), 2);
}

#[test]
fn tab_with_no_or_nonsensical_candidates_rings_the_bell() {
    let mut typist = Typist::new();
    typist.keys_with(b"zz\t", &commands);
    typist.keys_with(b"\t", &|_: &str| Candidates {
        start: 99,
        words: vec!["zz9".into()],
    });
    assert_eq!((typist.editor.line(), typist.screen.bells), ("zz", 2));
}

#[test]
fn a_log_line_can_pass_under_the_line_being_edited() {
    let mut typist = Typist::new();
    typist.keys(b"pin\x1b[D");
    let mut echo = vec![];
    typist.editor.erase(&mut echo);
    echo.extend_from_slice(b"cpu1: hello\r\n");
    typist.editor.draw_in_fresh_row(&mut echo);
    typist.screen.show(&echo);
    typist.check();
    assert_eq!(typist.screen.rows_above, ["cpu1: hello"]);
    assert_eq!(typist.screen.text(), "# pin");
}

#[test]
fn narrow_terminals_and_overlong_prompts_do_not_panic() {
    let mut editor = LineEditor::new(&"very long prompt ".repeat(20));
    editor.set_columns(0);
    let mut echo = vec![];
    for byte in b"some text\x01\x05\x1b[D\r" {
        let _ = editor.input(*byte, &NOTHING, &mut echo);
    }
}

/// 100,000 random sequences: no panic, and after every byte the screen shows line and cursor.
#[test]
fn random_bytes_never_tear_the_row() {
    // The bytes that steer the editor come more often than chance would have them.
    const STEERING: &[u8] =
        b"\x1b[OABCDHF~13478;\x01\x02\x03\x04\x05\x08\t\n\x0b\x0c\r\x15\x17\x7f ";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    let mut typist = Typist::new();
    typist.editor.set_columns(24);
    typist.screen.columns = 24;
    for _ in 0..100_000 {
        let length = random() % 12;
        let keys: Vec<u8> = (0..length)
            .map(|_| match random() % 4 {
                0 => random() as u8,
                1 => b'a' + (random() % 26) as u8,
                _ => STEERING[random() as usize % STEERING.len()],
            })
            .collect();
        typist.keys_with(&keys, &commands);
        typist.edits.clear();
        typist.screen.rows_above.clear();
    }
}
