//! What the kernel was told at boot: its environment and its rc text.
//!
//! [`Environment`] is the kernel command line taken apart into `name=value` words (`kenv` shows it).
//! [`RcScript`] is a small text of console commands, as rc.conf would be, from QEMU's fw_cfg file or
//! from `rc="..."` on the command line. `start.rs` runs it before the first prompt.
//!
//! Decision: a word nobody knows is kept and shown, not refused. The command line also carries words
//! for loaders and tests, and a kernel that does not boot over a word is worth less than a warning;
//! but a *known* name with a value that means nothing is reported by [`Environment::complaints`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What to do after a panic has printed its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PanicAction {
    /// Start the machine again (`panic=reboot`, the default: the CARP peer serves meanwhile).
    #[default]
    Reboot,
    /// Stop all CPUs and ask at the debugger's prompt (`panic=halt`).
    Halt,
    /// Switch the machine off (`panic=poweroff`).
    PowerOff,
}

impl PanicAction {
    /// What the last `panic=` of a kernel command line says. Allocates nothing: a kernel that has failed asks.
    #[must_use]
    pub fn of(command_line: &str) -> Self {
        let value = |word| {
            unquoted_ends(word)
                .strip_prefix("panic=")
                .map(unquoted_ends)
        };
        let last = boot_words(command_line).filter_map(value).last();
        last.and_then(Self::named).unwrap_or_default()
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "reboot" => Some(Self::Reboot),
            "halt" => Some(Self::Halt),
            "poweroff" => Some(Self::PowerOff),
            _ => None,
        }
    }
}

/// Host name when the command line gives none.
pub const DEFAULT_HOSTNAME: &str = "anax";
/// Longest host name taken (RFC 1035 2.3.4: a label).
const MAX_HOSTNAME_BYTES: usize = 63;

/// The kernel environment: names in the order in which they were first given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    entries: Vec<(String, String)>,
}

impl Environment {
    /// Takes a kernel command line apart. A word without `=` is a flag: a name with an empty value.
    /// Quotes, double or single, keep blanks in a word; a name given twice has its last value.
    #[must_use]
    pub fn parse(command_line: &str) -> Self {
        let mut environment = Self::default();
        for word in boot_words(command_line).map(unquoted) {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            if !name.is_empty() {
                environment.set(name, value);
            }
        }
        environment
    }

    /// The value of `name`; a flag's value is empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether `name` was given, with or without a value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Gives `name` a value.
    pub fn set(&mut self, name: &str, value: &str) {
        let value = String::from(value);
        match self.entries.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.entries.push((String::from(name), value)),
        }
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The host name; the default if none was given or it is not one.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.get("hostname")
            .filter(|name| is_hostname(name))
            .unwrap_or(DEFAULT_HOSTNAME)
    }

    /// Whether the boot messages stay off the console (they are in `dmesg` all the same).
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.has("quiet")
    }

    /// Known names whose value means nothing, one sentence each.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if let Some(name) = self.get("hostname")
            && !is_hostname(name)
        {
            complaints.push(format!(
                "hostname={name}: not a host name (letters, digits, `-`, `.`; at most \
                 {MAX_HOSTNAME_BYTES}); using {DEFAULT_HOSTNAME}"
            ));
        }
        if let Some(action) = self.get("panic")
            && PanicAction::named(action).is_none()
        {
            complaints.push(format!(
                "panic={action}: not reboot, halt or poweroff; using reboot"
            ));
        }
        complaints
    }
}

fn is_hostname(name: &str) -> bool {
    (1..=MAX_HOSTNAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

/// Splits at blanks outside quotes. An unclosed quote reaches to the end.
fn boot_words(command_line: &str) -> impl Iterator<Item = &str> {
    let mut quote = None;
    let words = command_line.split(move |c: char| {
        match quote {
            Some(open) if c == open => quote = None,
            None if is_quote(c) => quote = Some(c),
            _ => {}
        }
        quote.is_none() && c.is_whitespace()
    });
    words.filter(|word| !word.is_empty())
}

fn is_quote(c: char) -> bool {
    c == '"' || c == '\''
}

fn unquoted_ends(word: &str) -> &str {
    word.trim_matches(is_quote)
}

/// A word without its quotes; what they hold is left alone (an `rc="..."` may use the other kind inside).
fn unquoted(word: &str) -> String {
    let mut quote = None;
    let mut text = String::new();
    for c in word.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if is_quote(c) => quote = Some(c),
            _ => text.push(c),
        }
    }
    text
}

/// One command of an rc text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcLine {
    /// Line of the file, or place among the commands of `rc="..."`, from 1.
    pub number: usize,
    /// The command, or the bytes' defect: a line that is not text is reported like any bad line.
    pub command: Result<String, NotText>,
}

/// A line of the rc text is not UTF-8, or has control characters in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotText;

impl core::fmt::Display for NotText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not a line of text; save the file as plain UTF-8")
    }
}

/// Console commands to be run at boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcScript {
    lines: Vec<RcLine>,
}

impl RcScript {
    /// Commands from a file: one per line; blank lines and lines that begin with `#` are skipped.
    #[must_use]
    pub fn from_file(text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let lines = text
            .split(|&b| b == b'\n')
            .enumerate()
            .filter_map(|(index, line)| {
                let line = line.trim_ascii();
                let command = match core::str::from_utf8(line) {
                    Ok(text) if !text.chars().any(|c| c.is_control() && c != '\t') => {
                        if text.is_empty() || text.starts_with('#') {
                            return None;
                        }
                        Ok(String::from(text))
                    }
                    _ => Err(NotText),
                };
                Some(RcLine {
                    number: index + 1,
                    command,
                })
            });
        Self {
            lines: lines.collect(),
        }
    }

    /// Commands from the value of `rc=` on the kernel command line, separated by `;` outside quotes.
    #[must_use]
    pub fn from_command_line(value: &str) -> Self {
        let mut commands = alloc::vec![String::new()];
        let mut quote = None;
        for c in value.chars() {
            match quote {
                None if c == ';' => {
                    commands.push(String::new());
                    continue;
                }
                None if c == '"' || c == '\'' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
            if let Some(command) = commands.last_mut() {
                command.push(c);
            }
        }
        let lines = commands.iter().enumerate().filter_map(|(index, command)| {
            let command = command.trim();
            let line = || RcLine {
                number: index + 1,
                command: Ok(String::from(command)),
            };
            (!command.is_empty()).then(line)
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// The commands, in order.
    #[must_use]
    pub fn lines(&self) -> &[RcLine] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn command_line_becomes_names_and_values() {
        let line = "hostname=a  quiet rc=\"ifconfig carp0 create; ifconfig carp0 pass 'x y'\" \
                    panic=halt odd=1=2 =nameless hostname=b";
        let environment = Environment::parse(line);
        assert_eq!(environment.hostname(), "b");
        assert!(environment.is_quiet());
        assert_eq!(PanicAction::of(line), PanicAction::Halt);
        assert_eq!(environment.get("odd"), Some("1=2"));
        assert_eq!(
            environment.get("rc"),
            Some("ifconfig carp0 create; ifconfig carp0 pass 'x y'")
        );
        assert_eq!(environment.iter().count(), 5);
        assert!(environment.complaints().is_empty());
    }

    #[test]
    fn the_last_word_about_panics_counts_wherever_its_quotes_are() {
        for line in [
            "panic=halt panic=poweroff",
            "panic='poweroff' rc=\"echo; panic=halt \"",
            "\"panic=poweroff\" dont-panic=halt",
        ] {
            assert_eq!(PanicAction::of(line), PanicAction::PowerOff, "{line}");
        }
    }

    #[test]
    fn nothing_given_means_defaults() {
        let environment = Environment::parse("");
        assert_eq!(environment.hostname(), "anax");
        assert_eq!(PanicAction::of(""), PanicAction::Reboot);
        assert!(!environment.is_quiet());
    }

    #[test]
    fn a_known_name_with_a_senseless_value_is_complained_of_and_defaulted() {
        let environment = Environment::parse("panic=explode hostname=\"a b\"");
        assert_eq!(environment.hostname(), "anax");
        assert_eq!(PanicAction::of("panic=explode"), PanicAction::Reboot);
        let complaints = environment.complaints();
        assert_eq!(complaints.len(), 2);
        assert!(complaints[1].contains("panic=explode"), "{complaints:?}");
    }

    #[test]
    fn an_unclosed_quote_reaches_to_the_end() {
        assert_eq!(Environment::parse("rc=\"a; b c").get("rc"), Some("a; b c"));
    }

    #[test]
    fn rc_file_keeps_line_numbers_over_comments_blanks_and_dos_ends() {
        let script = RcScript::from_file(b"\xef\xbb\xbf# set-up\r\n\r\n  ps \r\n#x\necho a # b");
        let lines: Vec<_> = script
            .lines()
            .iter()
            .map(|l| (l.number, l.command.clone().unwrap()))
            .collect();
        assert_eq!(
            lines,
            [(3, "ps".to_string()), (5, "echo a # b".to_string())]
        );
    }

    #[test]
    fn a_line_that_is_no_text_is_reported_and_the_rest_kept() {
        let script = RcScript::from_file(b"ps\n\xff\xfe\nstat\x00\necho\tx\n");
        let found: Vec<_> = script
            .lines()
            .iter()
            .map(|l| (l.number, l.command.is_ok()))
            .collect();
        assert_eq!(found, [(1, true), (2, false), (3, false), (4, true)]);
    }

    #[test]
    fn rc_on_the_command_line_is_split_at_semicolons_outside_quotes() {
        let script = RcScript::from_command_line("ps;; echo 'a;b' ;stat; ");
        let lines: Vec<_> = script
            .lines()
            .iter()
            .map(|l| (l.number, l.command.clone().unwrap()))
            .collect();
        assert_eq!(
            lines,
            [
                (1, "ps".to_string()),
                (3, "echo 'a;b'".to_string()),
                (4, "stat".to_string())
            ]
        );
    }
}
