//! `carp`: what concerns every vhid of the node.
//!
//! Decision: demotion is set by name, so we do not take OpenBSD's `ifconfig -g carp carpdemote N`, which adds to
//! one number that nobody owns (`docs/decisions/carp-demotion.md`).

use alloc::string::String;

use super::ifconfig::parse_reason;
use crate::commands::arguments::{ArgumentError, Arguments, unknown};

/// What `carp` was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `carp`: the reasons in force, and each interface's state.
    Show,
    /// `carp demote REASON WEIGHT`: why this node should rather not be master; 0 takes it back.
    Demote(String, u8),
}

/// Reads the words of a `carp` line.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse(mut words: Arguments<'_>) -> Result<Request, ArgumentError> {
    let request = match words.take() {
        None => Request::Show,
        Some("demote") => {
            let (reason, weight) = parse_reason(&mut words)?;
            Request::Demote(reason, weight)
        }
        Some(word) => return Err(unknown(word, "demote, or nothing to see what is set")),
    };
    words.end()?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::arguments::words_of;
    use alloc::string::ToString;

    #[test]
    fn lines() {
        let parse = |line| parse(Arguments::new(&words_of(line)));
        assert_eq!(parse("carp"), Ok(Request::Show));
        assert_eq!(
            parse("carp demote 'bulk update' 100"),
            Ok(Request::Demote("bulk update".into(), 100))
        );
        for (line, needle) in [
            ("carp promote x", "`promote`"),
            ("carp demote", "name of a reason"),
            ("carp demote boot", "weight"),
            ("carp demote boot 256", "from 0 to 255"),
            ("carp demote boot 1 2", "`2`"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(needle), "{line}: {message}");
        }
    }
}
