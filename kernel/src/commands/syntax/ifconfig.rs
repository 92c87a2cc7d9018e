//! `ifconfig` as DragonFly writes it: BSD's interface language, with CARP's words on `carpN`.
//!
//! `ifconfig carp0 create`, then `ifconfig carp0 vhid 1 pass x advbase 1 advskew 100 192.0.2.10/24
//! up`. The parent interface is found, not named, as on DragonFly (carp.md 12).
//!
//! Decision: an address needs its prefix length. BSD falls back to the address class's netmask, which
//! has been wrong for everyone since 1993 (RFC 1519) and, on a carp interface, silently picks no
//! parent.
//!
//! Source: DragonFly ifconfig(8), carp(4).

use alloc::string::String;
use alloc::vec::Vec;
use carp::service::{Change, WantedState};

use crate::commands::arguments::{
    ArgumentError, Arguments, parse_address, parse_netmask, parse_prefix, unknown,
};

const AN_ADDRESS: &str = "an address with its prefix length, such as 192.0.2.10/24";
const A_WORD: &str = "up, down, an address such as 192.0.2.10/24, -alias, vhid, pass, advbase, \
                      advskew, state, demote, create, destroy or vhaddr";
const AN_INTERFACE: &str = "an interface name, such as vtnet0 or carp0";
const A_REASON: &str = "the name of a reason, at most 32 bytes, and its weight";
/// Longest name of a reason to be demoted.
const MAX_REASON_BYTES: usize = 32;
/// Longest interface name (IFNAMSIZ less its NUL).
const MAX_NAME_BYTES: usize = 15;

/// What `ifconfig` was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `ifconfig`, `ifconfig -a`: show every interface.
    ShowAll,
    /// `ifconfig -l`: only the names.
    Names,
    /// `ifconfig IF`: show one.
    Show(String),
    /// `ifconfig carp0 vhaddr`: the virtual addresses and what stands behind them.
    VirtualAddresses(String),
    /// `ifconfig carp0 destroy`.
    Destroy(String),
    /// Everything else.
    Configure {
        /// The interface.
        name: String,
        /// Whether it is made first.
        create: bool,
        /// What to change, in the order written.
        changes: Vec<Change>,
    },
}

/// Reads the words of an `ifconfig` line.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse(mut words: Arguments<'_>) -> Result<Request, ArgumentError> {
    let name = match words.take() {
        None => return Ok(Request::ShowAll),
        Some("-a") => {
            words.end()?;
            return Ok(Request::ShowAll);
        }
        Some("-l") => {
            words.end()?;
            return Ok(Request::Names);
        }
        Some(name) if is_interface_name(name) => String::from(name),
        Some(word) => return Err(unknown(word, AN_INTERFACE)),
    };
    let create = match words.peek() {
        None => return Ok(Request::Show(name)),
        Some("destroy") => {
            words.take();
            words.end()?;
            return Ok(Request::Destroy(name));
        }
        Some("vhaddr") => {
            words.take();
            words.end()?;
            return Ok(Request::VirtualAddresses(name));
        }
        Some("create") => words.take().is_some(),
        Some(_) => false,
    };
    let changes = parse_changes(&mut words)?;
    Ok(Request::Configure {
        name,
        create,
        changes,
    })
}

fn parse_changes(words: &mut Arguments<'_>) -> Result<Vec<Change>, ArgumentError> {
    let mut changes = Vec::new();
    while let Some(word) = words.take() {
        changes.push(match word {
            "up" => Change::Up,
            "down" => Change::Down,
            "inet" | "alias" => match words.peek() {
                Some("alias") => continue,
                _ => parse_new_address(words.word(AN_ADDRESS)?, words)?,
            },
            "-alias" | "delete" => {
                let word = words.word("the address to remove")?;
                let address = word.split('/').next().and_then(parse_address);
                Change::RemoveAddress(address.ok_or_else(|| bad_address(word))?)
            }
            "vhid" => Change::Vhid(words.byte("vhid", 1..=255)?),
            "pass" => Change::Password(words.word("the password")?.into()),
            "advbase" => Change::Advbase(words.byte("advbase", 0..=255)?),
            "advskew" => Change::Advskew(words.byte("advskew", 0..=254)?),
            "state" => Change::State(match words.word("master or backup")? {
                "master" | "MASTER" => WantedState::Master,
                "backup" | "BACKUP" => WantedState::Backup,
                word => return Err(unknown(word, "master or backup")),
            }),
            "demote" => {
                let (reason, weight) = parse_reason(words)?;
                Change::Demote(reason, weight)
            }
            "create" | "destroy" | "vhaddr" => {
                let reason = "must come right after the interface's name";
                return Err(ArgumentError::Conflict {
                    word: word.into(),
                    reason,
                });
            }
            word if word.starts_with(|c: char| c.is_ascii_digit()) => {
                parse_new_address(word, words)?
            }
            word => return Err(unknown(word, A_WORD)),
        });
    }
    check_repeats(&changes)?;
    Ok(changes)
}

/// `a.b.c.d/n`, `a.b.c.d netmask M` or `a.b.c.d prefixlen N`.
fn parse_new_address(word: &str, words: &mut Arguments<'_>) -> Result<Change, ArgumentError> {
    if let Some((address, length)) = parse_prefix(word) {
        return Ok(Change::Address(address, length));
    }
    let address = parse_address(word).ok_or_else(|| bad_address(word))?;
    if words.take_if("netmask") {
        let mask = words.word("a netmask such as 255.255.255.0")?;
        let length = parse_netmask(mask)
            .ok_or_else(|| unknown(mask, "a netmask such as 255.255.255.0 or 0xffffff00"))?;
        Ok(Change::Address(address, length))
    } else if words.take_if("prefixlen") {
        Ok(Change::Address(
            address,
            words.byte("prefix length", 0..=32)?,
        ))
    } else {
        Err(bad_address(word))
    }
}

/// The same setting twice on one line is a slip of the hand: which did they mean?
fn check_repeats(changes: &[Change]) -> Result<(), ArgumentError> {
    let single = |change: &Change| match change {
        Change::Up | Change::Down => Some("up or down"),
        Change::Vhid(_) => Some("vhid"),
        Change::Password(_) => Some("pass"),
        Change::Advbase(_) => Some("advbase"),
        Change::Advskew(_) => Some("advskew"),
        Change::State(_) => Some("state"),
        Change::Address(..) | Change::RemoveAddress(_) | Change::Demote(..) => None,
    };
    for (index, change) in changes.iter().enumerate() {
        if let Some(name) = single(change)
            && changes[..index]
                .iter()
                .any(|earlier| single(earlier) == Some(name))
        {
            let reason = "given twice; write it once";
            return Err(ArgumentError::Conflict {
                word: name.into(),
                reason,
            });
        }
    }
    Ok(())
}

/// A reason to be demoted and its weight; 0 takes it back.
///
/// # Errors
/// If the name is too long or the weight no byte.
pub fn parse_reason(words: &mut Arguments<'_>) -> Result<(String, u8), ArgumentError> {
    match words.word(A_REASON)? {
        reason if (1..=MAX_REASON_BYTES).contains(&reason.len()) => {
            Ok((reason.into(), words.byte("weight", 0..=255)?))
        }
        reason => Err(unknown(reason, A_REASON)),
    }
}

fn bad_address(word: &str) -> ArgumentError {
    ArgumentError::BadAddress {
        word: word.into(),
        expected: AN_ADDRESS,
    }
}

/// Letters, then a number: `vtnet0`.
fn is_interface_name(name: &str) -> bool {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    !letters.is_empty()
        && letters.len() < name.len()
        && name.len() <= MAX_NAME_BYTES
        && letters.bytes().all(|b| b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::commands::arguments::words_of;
    use alloc::string::ToString;
    use alloc::vec;

    fn parse_line(line: &str) -> Result<Request, ArgumentError> {
        parse(Arguments::new(&words_of(line)))
    }

    fn configure(name: &str, create: bool, changes: Vec<Change>) -> Request {
        Request::Configure {
            name: name.into(),
            create,
            changes,
        }
    }

    #[test]
    fn good_lines() {
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        for (line, expected) in [
            ("ifconfig", Request::ShowAll),
            ("ifconfig -a", Request::ShowAll),
            ("ifconfig -l", Request::Names),
            ("ifconfig vtnet0", Request::Show("vtnet0".into())),
            ("ifconfig carp0 destroy", Request::Destroy("carp0".into())),
            (
                "ifconfig carp0 vhaddr",
                Request::VirtualAddresses("carp0".into()),
            ),
            ("ifconfig carp0 create", configure("carp0", true, vec![])),
            (
                "ifconfig vtnet0 up",
                configure("vtnet0", false, vec![Change::Up]),
            ),
            (
                "ifconfig vtnet0 inet 192.0.2.10 netmask 255.255.255.0 up",
                configure("vtnet0", false, vec![Change::Address(vip, 24), Change::Up]),
            ),
            (
                "ifconfig vtnet0 inet alias 192.0.2.10 prefixlen 32",
                configure("vtnet0", false, vec![Change::Address(vip, 32)]),
            ),
            (
                "ifconfig vtnet0 alias 192.0.2.10/32 -alias 192.0.2.10/24 delete 192.0.2.10",
                configure(
                    "vtnet0",
                    false,
                    vec![
                        Change::Address(vip, 32),
                        Change::RemoveAddress(vip),
                        Change::RemoveAddress(vip),
                    ],
                ),
            ),
            (
                "ifconfig carp0 vhid 1 pass 'x y' advbase 1 advskew 100 192.0.2.10/24 up",
                configure(
                    "carp0",
                    false,
                    vec![
                        Change::Vhid(1),
                        Change::Password("x y".into()),
                        Change::Advbase(1),
                        Change::Advskew(100),
                        Change::Address(vip, 24),
                        Change::Up,
                    ],
                ),
            ),
            (
                "ifconfig carp0 create vhid 255 advbase 0 advskew 254 state backup",
                configure(
                    "carp0",
                    true,
                    vec![
                        Change::Vhid(255),
                        Change::Advbase(0),
                        Change::Advskew(254),
                        Change::State(WantedState::Backup),
                    ],
                ),
            ),
            (
                "ifconfig carp0 demote 'disk slow' 20 demote boot 0",
                configure(
                    "carp0",
                    false,
                    vec![
                        Change::Demote("disk slow".into(), 20),
                        Change::Demote("boot".into(), 0),
                    ],
                ),
            ),
            ("ifconfig carp0 pass up", {
                configure("carp0", false, vec![Change::Password("up".into())])
            }),
        ] {
            assert_eq!(parse_line(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn bad_lines_name_the_word_and_the_remedy() {
        for (line, needles) in [
            ("ifconfig VTNET0 up", ["`VTNET0`", "interface name"]),
            ("ifconfig carp up", ["`carp`", "interface name"]),
            (
                "ifconfig averyveryverylongname0",
                ["`averyvery", "interface name"],
            ),
            ("ifconfig carp0 frob", ["`frob`", "advskew"]),
            ("ifconfig carp0 vhid", ["`vhid`", "nothing follows"]),
            ("ifconfig carp0 vhid 0", ["`0`", "from 1 to 255"]),
            ("ifconfig carp0 vhid 256", ["`256`", "from 1 to 255"]),
            ("ifconfig carp0 vhid one", ["`one`", "from 1 to 255"]),
            ("ifconfig carp0 advskew 255", ["`255`", "from 0 to 254"]),
            ("ifconfig carp0 advbase 256", ["`256`", "from 0 to 255"]),
            ("ifconfig carp0 pass", ["`pass`", "the password"]),
            ("ifconfig carp0 state init", ["`init`", "master or backup"]),
            ("ifconfig carp0 demote", ["`demote`", "name of a reason"]),
            ("ifconfig carp0 demote '' 1", ["``", "name of a reason"]),
            ("ifconfig carp0 demote disk", ["weight", "nothing follows"]),
            ("ifconfig carp0 demote disk 256", ["`256`", "from 0 to 255"]),
            ("ifconfig carp0 up create", ["`create`", "right after"]),
            ("ifconfig carp0 destroy now", ["`now`", "end of the line"]),
            ("ifconfig carp0 vhid 1 vhid 2", ["`vhid`", "twice"]),
            ("ifconfig carp0 up down", ["`up or down`", "twice"]),
            (
                "ifconfig vtnet0 192.0.2.10",
                ["`192.0.2.10`", "prefix length"],
            ),
            (
                "ifconfig vtnet0 192.0.2.10/33",
                ["`192.0.2.10/33`", "192.0.2.10/24"],
            ),
            (
                "ifconfig vtnet0 192.0.2.999/24",
                ["`192.0.2.999/24`", "192.0.2.10/24"],
            ),
            (
                "ifconfig vtnet0 192.0.2.1 netmask 255.0.255.0",
                ["`255.0.255.0`", "netmask"],
            ),
            (
                "ifconfig vtnet0 192.0.2.1 prefixlen 40",
                ["`40`", "from 0 to 32"],
            ),
            ("ifconfig vtnet0 -alias", ["`-alias`", "the address"]),
            ("ifconfig vtnet0 -alias vip", ["`vip`", "no address"]),
            ("ifconfig -a vtnet0", ["`vtnet0`", "end of the line"]),
        ] {
            let message = parse_line(line).unwrap_err().to_string();
            for needle in needles {
                assert!(message.contains(needle), "{line}: {message}");
            }
        }
    }
}
