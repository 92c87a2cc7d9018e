//! Takes a console line apart: commands at `;`, words at blanks.
//!
//! [`split`] knows single quotes (everything literal), double quotes (`\"` and `\\` inside), `\x`
//! outside quotes, and `#` at the start of a word (the rest is a comment). There are no variables
//! and no substitution.
//!
//! Decision: an unclosed quote is an error, not "to the end of the line": the password that lost its
//! closing quote must not swallow the words behind it in silence.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Why a line cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// A quote (the character) is opened and never closed: close it, or write `\` before it.
    UnclosedQuote(char),
    /// The line ends in a backslash: there is no next line to join.
    TrailingBackslash,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnclosedQuote(quote) => {
                write!(
                    f,
                    "quote {quote} is never closed; close it or write \\{quote}"
                )
            }
            Self::TrailingBackslash => f.write_str("nothing follows the last \\; take it away"),
        }
    }
}

/// The words of one command; the first names it.
pub type Words = Vec<String>;

/// Splits a line into commands and their words. Empty commands are dropped.
///
/// # Errors
/// [`SplitError`] if a quote or a backslash is left open.
pub fn split(line: &str) -> Result<Vec<Words>, SplitError> {
    let mut commands = Vec::new();
    let mut words = Words::new();
    // `None` between words; an empty pair of quotes makes an empty word.
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_none() => break,
            ' ' | '\t' => words.extend(word.take()),
            ';' => {
                words.extend(word.take());
                if !words.is_empty() {
                    commands.push(core::mem::take(&mut words));
                }
            }
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(SplitError::UnclosedQuote(c)),
                        Some(close) if close == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            None => return Err(SplitError::UnclosedQuote(c)),
                            Some(escaped @ ('"' | '\\')) => word.push(escaped),
                            Some(other) => word.extend(['\\', other]),
                        },
                        Some(inside) => word.push(inside),
                    }
                }
            }
            '\\' => {
                let escaped = chars.next().ok_or(SplitError::TrailingBackslash)?;
                word.get_or_insert_default().push(escaped);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if !words.is_empty() {
        commands.push(words);
    }
    Ok(commands)
}

/// The known name nearest to a mistyped one, if it is near enough to be meant: at most a third of
/// its letters (at least one) differ, by the Damerau-Levenshtein distance (optimal string alignment),
/// or it begins with the typed text.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (typed.len() / 3).max(1);
    let score = |name: &str| {
        let begins = typed.len() > 1 && name.starts_with(typed);
        if begins {
            1
        } else {
            distance(typed.as_bytes(), name.as_bytes())
        }
    };
    known
        .into_iter()
        .map(|name| (score(name), name))
        .filter(|(score, _)| *score <= bound)
        .min()
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of neighbours) between `a` and `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut two_back = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i);
        for j in 1..=b.len() {
            let replace = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(previous[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let swapped: usize = two_back[j - 2];
                best = best.min(swapped + 1);
            }
            row.push(best);
        }
        two_back = core::mem::replace(&mut previous, row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let cases: [(&str, &[&[&str]]); 12] = [
            ("", &[]),
            ("  \t ", &[]),
            ("ps", &[&["ps"]]),
            ("  ifconfig   carp0\tup ", &[&["ifconfig", "carp0", "up"]]),
            ("a; b ;;c", &[&["a"], &["b"], &["c"]]),
            ("echo 'a; b' \"c d\"", &[&["echo", "a; b", "c d"]]),
            ("echo ''", &[&["echo", ""]]),
            ("pass 'it'\\''s'", &[&["pass", "it's"]]),
            (r#"echo "a\"b\\c\d""#, &[&["echo", r#"a"b\c\d"#]]),
            ("echo a#b # comment", &[&["echo", "a#b"]]),
            ("# only a comment ; ps", &[]),
            ("echo \\; \\#", &[&["echo", ";", "#"]]),
        ];
        for (line, expected) in cases {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn open_ends_are_errors() {
        assert_eq!(split("echo 'a"), Err(SplitError::UnclosedQuote('\'')));
        assert_eq!(split("echo \"a\\"), Err(SplitError::UnclosedQuote('"')));
        assert_eq!(split("echo a\\"), Err(SplitError::TrailingBackslash));
    }

    #[test]
    fn the_nearest_name_is_found_only_if_near() {
        let known = ["ifconfig", "ping", "ps", "poweroff", "netstat", "stat"];
        for (typed, expected) in [
            ("ifocnfig", Some("ifconfig")),
            ("ipconfig", Some("ifconfig")),
            ("pign", Some("ping")),
            ("sp", Some("ps")),
            ("power", Some("poweroff")),
            ("netsat", Some("netstat")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), expected, "{typed}");
        }
    }
}
