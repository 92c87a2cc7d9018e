//! Reading a command's words: [`Arguments`] hands them out one by one, [`ArgumentError`] says which
//! one is wrong and what would be right.
//!
//! Every command parses its words by a pure function into a request of its own type and acts on
//! that, so that the syntax is tested without a machine.
//!
//! Decision: no crate for this. The well-kept parsers (clap, pico-args) speak getopt; half of our
//! commands speak BSD's keyword-value language (`vhid 1 pass x up`), which is a loop over words.

use alloc::string::String;
use core::fmt;
use core::net::Ipv4Addr;
use core::ops::RangeInclusive;
use core::time::Duration;

/// What is wrong with a command's words. Each names the word and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentError {
    /// A word that means nothing here.
    Unknown {
        /// The word.
        word: String,
        /// What could stand in its place.
        expected: &'static str,
    },
    /// The line ends where a word must follow.
    Missing {
        /// The word it must follow, or the command.
        after: String,
        /// What must follow.
        expected: &'static str,
    },
    /// A word that is not a number, or not one of those allowed.
    BadNumber {
        /// What the number is.
        name: &'static str,
        /// The word.
        word: String,
        /// Smallest value allowed.
        low: u64,
        /// Largest value allowed.
        high: u64,
    },
    /// A word that is no IPv4 address (or address and prefix).
    BadAddress {
        /// The word.
        word: String,
        /// What it should look like.
        expected: &'static str,
    },
    /// A word that is no time in seconds.
    BadSeconds {
        /// The word.
        word: String,
    },
    /// A word that is right by itself and wrong beside another.
    Conflict {
        /// The word.
        word: String,
        /// Why, and what to do.
        reason: &'static str,
    },
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word, expected } => {
                write!(f, "`{word}` means nothing here; expected {expected}")
            }
            Self::Missing { after, expected } => {
                write!(f, "nothing follows `{after}`; expected {expected}")
            }
            Self::BadNumber {
                name,
                word,
                low,
                high,
            } => {
                write!(
                    f,
                    "`{word}` is no {name}; it must be a number from {low} to {high}"
                )
            }
            Self::BadAddress { word, expected } => {
                write!(f, "`{word}` is no address; expected {expected}")
            }
            Self::BadSeconds { word } => {
                write!(
                    f,
                    "`{word}` is no time in seconds; expected one like 1 or 0.25"
                )
            }
            Self::Conflict { word, reason } => write!(f, "`{word}`: {reason}"),
        }
    }
}

/// The words of a command that are not read yet.
#[derive(Clone, Debug)]
pub struct Arguments<'a> {
    last: &'a str,
    rest: &'a [String],
}

impl<'a> Arguments<'a> {
    /// The words behind the command's name. `words` begins with the name.
    #[must_use]
    pub fn new(words: &'a [String]) -> Self {
        match words {
            [name, rest @ ..] => Self { last: name, rest },
            [] => Self {
                last: "",
                rest: &[],
            },
        }
    }

    /// The next word, left in place.
    #[must_use]
    pub fn peek(&self) -> Option<&'a str> {
        self.rest.first().map(String::as_str)
    }

    /// The next word, if there is one.
    pub fn take(&mut self) -> Option<&'a str> {
        let (word, rest) = self.rest.split_first()?;
        self.last = word;
        self.rest = rest;
        Some(word)
    }

    /// Takes the next word if it is `wanted`.
    pub fn take_if(&mut self, wanted: &str) -> bool {
        self.peek() == Some(wanted) && self.take().is_some()
    }

    /// All words left.
    pub fn take_rest(&mut self) -> &'a [String] {
        core::mem::take(&mut self.rest)
    }

    /// The next word.
    ///
    /// # Errors
    /// [`ArgumentError::Missing`] if there is none.
    pub fn word(&mut self, expected: &'static str) -> Result<&'a str, ArgumentError> {
        let after = self.last;
        self.take().ok_or_else(|| ArgumentError::Missing {
            after: after.into(),
            expected,
        })
    }

    /// A number in decimal, or hexadecimal after `0x`.
    ///
    /// # Errors
    /// If there is no word, or it is not a number within `range`.
    pub fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<u64, ArgumentError> {
        let word = self.word(name)?;
        parse_number(word)
            .filter(|n| range.contains(n))
            .ok_or_else(|| ArgumentError::BadNumber {
                name,
                word: word.into(),
                low: *range.start(),
                high: *range.end(),
            })
    }

    /// A number that fits a byte.
    ///
    /// # Errors
    /// As [`Arguments::number`].
    pub fn byte(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u8>,
    ) -> Result<u8, ArgumentError> {
        let number = self.number(name, u64::from(*range.start())..=u64::from(*range.end()))?;
        // The range is one of bytes, so the number is a byte.
        Ok(number as u8)
    }

    /// An IPv4 address.
    ///
    /// # Errors
    /// If there is no word, or it is no address.
    pub fn address(&mut self) -> Result<Ipv4Addr, ArgumentError> {
        const EXPECTED: &str = "an IPv4 address such as 192.0.2.10";
        let word = self.word(EXPECTED)?;
        parse_address(word).ok_or(ArgumentError::BadAddress {
            word: word.into(),
            expected: EXPECTED,
        })
    }

    /// A time in seconds, with up to nine decimals.
    ///
    /// # Errors
    /// If there is no word, or it is no such time.
    pub fn seconds(&mut self) -> Result<Duration, ArgumentError> {
        let word = self.word("a time in seconds")?;
        parse_seconds(word).ok_or_else(|| ArgumentError::BadSeconds { word: word.into() })
    }

    /// As [`Arguments::seconds`], up to so many.
    ///
    /// # Errors
    /// As [`Arguments::number`].
    pub fn seconds_up_to(&mut self, most: u32) -> Result<Duration, ArgumentError> {
        let word = self.word("a time in seconds")?;
        parse_seconds(word)
            .filter(|duration| *duration <= Duration::from_secs(most.into()))
            .ok_or_else(|| ArgumentError::BadNumber {
                name: "time in seconds",
                word: word.into(),
                low: 0,
                high: most.into(),
            })
    }

    /// Checks that no word is left.
    ///
    /// # Errors
    /// [`ArgumentError::Unknown`] with the first word too many.
    pub fn end(&mut self) -> Result<(), ArgumentError> {
        match self.take() {
            None => Ok(()),
            Some(word) => Err(unknown(word, "the end of the line")),
        }
    }
}

/// An [`ArgumentError::Unknown`].
#[must_use]
pub fn unknown(word: &str, expected: &'static str) -> ArgumentError {
    ArgumentError::Unknown {
        word: word.into(),
        expected,
    }
}

/// Decimal, or hexadecimal after `0x`. No signs.
#[must_use]
pub fn parse_number(word: &str) -> Option<u64> {
    let (digits, radix) = match word.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    let unsigned = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if unsigned {
        u64::from_str_radix(digits, radix).ok()
    } else {
        None
    }
}

/// A dotted-quad IPv4 address.
#[must_use]
pub fn parse_address(word: &str) -> Option<Ipv4Addr> {
    word.parse().ok()
}

/// `a.b.c.d/n`: address and prefix length.
#[must_use]
pub fn parse_prefix(word: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, length) = word.split_once('/')?;
    let length = parse_number(length).filter(|n| *n <= 32)?;
    Some((parse_address(address)?, length as u8))
}

/// A netmask, dotted or as `0xffffff00`, as a prefix length. `None` unless its ones are contiguous.
#[must_use]
pub fn parse_netmask(word: &str) -> Option<u8> {
    let mask = match parse_address(word) {
        Some(mask) => u32::from(mask),
        None if word.starts_with("0x") => u32::try_from(parse_number(word)?).ok()?,
        None => return None,
    };
    (mask.leading_ones() + mask.trailing_zeros() >= 32).then(|| mask.leading_ones() as u8)
}

/// Seconds as `1`, `0.25`, `.5`; up to nine decimals, at most 10^9 seconds.
#[must_use]
pub fn parse_seconds(word: &str) -> Option<Duration> {
    let (whole, decimals) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || word.len() < 2 && whole.is_empty() {
        return None;
    }
    if whole.len() > 9 || decimals.len() > 9 {
        return None;
    }
    let seconds = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let nanoseconds: u32 = if decimals.is_empty() {
        0
    } else {
        decimals.parse().ok()?
    };
    let scale = 10_u32.pow(9 - decimals.len() as u32);
    Some(Duration::new(seconds, nanoseconds * scale))
}

/// The words of a line, for tests of parsers.
#[cfg(test)]
pub(crate) fn words_of(line: &str) -> super::words::Words {
    super::words::split(line).unwrap().remove(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn numbers() {
        for (word, expected) in [
            ("0", Some(0)),
            ("255", Some(255)),
            ("0xff", Some(255)),
            ("0x", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("ff", None),
            ("1e3", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(parse_number(word), expected, "{word}");
        }
    }

    #[test]
    fn seconds() {
        let ms = Duration::from_millis;
        for (word, expected) in [
            ("1", Some(ms(1000))),
            ("0.01", Some(ms(10))),
            (".5", Some(ms(500))),
            ("2.", Some(ms(2000))),
            ("0.000000001", Some(Duration::from_nanos(1))),
            (".", None),
            ("", None),
            ("-1", None),
            ("1.2.3", None),
            ("0.0000000001", None),
            ("9999999999", None),
            ("1s", None),
        ] {
            assert_eq!(parse_seconds(word), expected, "{word}");
        }
    }

    #[test]
    fn addresses_prefixes_and_masks() {
        assert_eq!(
            parse_prefix("192.0.2.10/24"),
            Some((Ipv4Addr::new(192, 0, 2, 10), 24))
        );
        for bad in [
            "192.0.2.10",
            "192.0.2.10/33",
            "192.0.2/24",
            "192.0.2.10/",
            "300.0.0.1/8",
        ] {
            assert_eq!(parse_prefix(bad), None, "{bad}");
        }
        for (mask, expected) in [
            ("255.255.255.0", Some(24)),
            ("0xffffff00", Some(24)),
            ("0.0.0.0", Some(0)),
            ("255.255.255.255", Some(32)),
            ("255.0.255.0", None),
            ("24", None),
            ("0x1ffffffff", None),
        ] {
            assert_eq!(parse_netmask(mask), expected, "{mask}");
        }
    }

    #[test]
    fn errors_name_the_word_and_the_remedy() {
        let words = words_of("ifconfig carp0 vhid 256");
        let mut arguments = Arguments::new(&words);
        assert_eq!(arguments.take(), Some("carp0"));
        assert!(arguments.take_if("vhid"));
        let error = arguments.byte("vhid", 1..=255).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`256` is no vhid; it must be a number from 1 to 255"
        );
        let error = arguments.address().unwrap_err();
        assert_eq!(
            error.to_string(),
            "nothing follows `256`; expected an IPv4 address such as 192.0.2.10"
        );
        let words = words_of("ps x");
        let error = Arguments::new(&words).end().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`x` means nothing here; expected the end of the line"
        );
    }
}
