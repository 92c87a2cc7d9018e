//! `ping`, `udpecho`, `arp`, `netstat` and `route`, in BSD's words.
//!
//! Decision: `route` takes `ADDRESS/LENGTH` and `default`, and no `-net`/`-host` guessing: the prefix
//! length says which it is.
//!
//! Source: DragonFly ping(8), arp(8), netstat(1), route(8).

use alloc::string::String;
use core::net::Ipv4Addr;
use core::time::Duration;

use crate::commands::arguments::{ArgumentError, Arguments, parse_address, parse_prefix, unknown};

/// Bytes of payload that `ping` sends unless told.
pub const DEFAULT_PING_BYTES: u16 = 56;
/// Largest payload that fits an unfragmented packet on Ethernet: 1500 - 20 (IP) - 8 (ICMP).
pub const MAX_PING_BYTES: u16 = 1472;
/// The shortest pause between two pings; fewer would only measure the console.
pub const MIN_PING_INTERVAL: Duration = Duration::from_millis(1);

/// `ping [-c COUNT] [-i SECONDS] [-s BYTES] [-W SECONDS] [-q] ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Whom to ask.
    pub address: Ipv4Addr,
    /// How often; `None` until Ctrl-C.
    pub count: Option<u64>,
    /// Pause from one request to the next.
    pub interval: Duration,
    /// Bytes of payload.
    pub payload_bytes: u16,
    /// How long an answer may take.
    pub patience: Duration,
    /// Only the summary is printed.
    pub quiet: bool,
}

/// Reads the words of a `ping` line.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_ping(mut words: Arguments<'_>) -> Result<Ping, ArgumentError> {
    const EXPECTED: &str = "an address, -c COUNT, -i SECONDS, -s BYTES, -W SECONDS or -q";
    let mut ping = Ping {
        address: Ipv4Addr::UNSPECIFIED,
        count: None,
        interval: Duration::from_secs(1),
        payload_bytes: DEFAULT_PING_BYTES,
        patience: Duration::from_secs(1),
        quiet: false,
    };
    loop {
        match words.peek() {
            Some("-c") => {
                words.take();
                ping.count = Some(words.number("count", 1..=u64::from(u32::MAX))?);
            }
            Some("-i") => {
                words.take();
                ping.interval = words.seconds()?;
                if ping.interval < MIN_PING_INTERVAL {
                    let reason = "too short an interval; the shortest is 0.001";
                    return Err(ArgumentError::Conflict {
                        word: "-i".into(),
                        reason,
                    });
                }
            }
            Some("-s") => {
                words.take();
                ping.payload_bytes = words.number("size", 0..=u64::from(MAX_PING_BYTES))? as u16;
            }
            Some("-W") => {
                words.take();
                ping.patience = words.seconds()?;
            }
            Some("-q") => {
                words.take();
                ping.quiet = true;
            }
            Some(word) if word.starts_with('-') => return Err(unknown(word, EXPECTED)),
            _ => break,
        }
    }
    ping.address = words.address()?;
    words.end()?;
    Ok(ping)
}

/// `arp [-a]`, `arp ADDRESS`, `arp -d ADDRESS|-a`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arp {
    /// The whole table.
    ShowAll,
    /// One entry.
    Show(Ipv4Addr),
    /// Forget one entry.
    Delete(Ipv4Addr),
    /// Forget all.
    Flush,
}

/// Reads the words of an `arp` line.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_arp(mut words: Arguments<'_>) -> Result<Arp, ArgumentError> {
    let request = match words.peek() {
        None => Arp::ShowAll,
        Some("-a") => {
            words.take();
            if words.take_if("-d") {
                Arp::Flush
            } else {
                Arp::ShowAll
            }
        }
        Some("-d") => {
            words.take();
            if words.take_if("-a") {
                Arp::Flush
            } else {
                Arp::Delete(words.address()?)
            }
        }
        Some(word) if word.starts_with('-') => {
            return Err(unknown(word, "-a, -d ADDRESS, -d -a or an address"));
        }
        Some(_) => Arp::Show(words.address()?),
    };
    words.end()?;
    Ok(request)
}

/// `netstat -s [-p PROTOCOL]`, `netstat -i`, `netstat -r`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netstat {
    /// Counters of every protocol, or of one.
    Statistics(Option<String>),
    /// Counters of every interface.
    Interfaces,
    /// The routes.
    Routes,
}

/// Reads the words of a `netstat` line. `-n` is taken and means nothing: we have no names.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_netstat(mut words: Arguments<'_>) -> Result<Netstat, ArgumentError> {
    const EXPECTED: &str = "-s [-p PROTOCOL], -i or -r";
    let mut request = None;
    let mut protocol = None;
    let mut last = "netstat";
    while let Some(word) = words.take() {
        let found = match word {
            "-n" => continue,
            "-p" => {
                protocol = Some(String::from(words.word("a protocol, such as carp")?));
                continue;
            }
            "-s" => Netstat::Statistics(None),
            "-i" => Netstat::Interfaces,
            "-r" | "-rn" | "-nr" => Netstat::Routes,
            word => return Err(unknown(word, EXPECTED)),
        };
        if request.is_some() {
            let reason = "only one of -s, -i and -r at a time";
            return Err(ArgumentError::Conflict {
                word: word.into(),
                reason,
            });
        }
        last = word;
        request = Some(found);
    }
    match (request, protocol) {
        (Some(Netstat::Statistics(_)), protocol) => Ok(Netstat::Statistics(protocol)),
        (None, Some(protocol)) => Ok(Netstat::Statistics(Some(protocol))),
        (Some(_), Some(_)) => {
            let reason = "-p goes with -s alone";
            Err(ArgumentError::Conflict {
                word: last.into(),
                reason,
            })
        }
        (Some(request), None) => Ok(request),
        (None, None) => Err(ArgumentError::Missing {
            after: last.into(),
            expected: EXPECTED,
        }),
    }
}

/// `route [show]`, `route add DESTINATION GATEWAY`, `route delete DESTINATION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The routes.
    Show,
    /// Send what goes to this prefix by way of this gateway.
    Add(Ipv4Addr, u8, Ipv4Addr),
    /// Forget the route to this prefix.
    Delete(Ipv4Addr, u8),
}

/// Reads the words of a `route` line. `-n`, `-net` and `-host` are taken and mean nothing.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_route(mut words: Arguments<'_>) -> Result<Route, ArgumentError> {
    words.take_if("-n");
    let request = match words.take() {
        None | Some("show") => Route::Show,
        Some("add") => {
            let (address, length) = parse_destination(&mut words)?;
            Route::Add(address, length, words.address()?)
        }
        Some("delete" | "del") => {
            let (address, length) = parse_destination(&mut words)?;
            Route::Delete(address, length)
        }
        Some(word) => return Err(unknown(word, "show, add or delete")),
    };
    words.end()?;
    Ok(request)
}

fn parse_destination(words: &mut Arguments<'_>) -> Result<(Ipv4Addr, u8), ArgumentError> {
    const EXPECTED: &str = "default, a network such as 192.0.2.0/24, or a host's address";
    let _ = words.take_if("-net") || words.take_if("-host");
    let word = words.word(EXPECTED)?;
    let (address, length) = match word {
        "default" => (Ipv4Addr::UNSPECIFIED, 0),
        word => parse_prefix(word)
            .or_else(|| Some((parse_address(word)?, 32)))
            .ok_or(ArgumentError::BadAddress {
                word: word.into(),
                expected: EXPECTED,
            })?,
    };
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    if u32::from(address) & !mask != 0 {
        let reason = "has bits set behind its prefix; clear them, or use /32 for one host";
        return Err(ArgumentError::Conflict {
            word: word.into(),
            reason,
        });
    }
    Ok((address, length))
}

/// Where the echo service listens unless told (RFC 862).
pub const DEFAULT_ECHO_PORT: u16 = 7;

/// Reads the words of a `udpecho` line: the port to listen at.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_udpecho(mut words: Arguments<'_>) -> Result<u16, ArgumentError> {
    let port = match words.peek() {
        None => DEFAULT_ECHO_PORT,
        // The range is one of ports, so the number is one.
        Some(_) => words.number("port", 1..=u64::from(u16::MAX))? as u16,
    };
    words.end()?;
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::arguments::words_of;
    use alloc::string::ToString;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// Checks that a line is refused with a message that holds both texts.
    fn refused<T: core::fmt::Debug>(
        parse: impl Fn(Arguments<'_>) -> Result<T, ArgumentError>,
        line: &str,
        word: &str,
        remedy: &str,
    ) {
        let message = parse(Arguments::new(&words_of(line)))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(word) && message.contains(remedy),
            "{line}: {message}"
        );
    }

    #[test]
    fn ping_lines() {
        let ping = |line| parse_ping(Arguments::new(&words_of(line)));
        let plain = ping("ping 192.0.2.1").unwrap();
        assert_eq!(
            (plain.address, plain.count, plain.payload_bytes),
            (HOST, None, 56)
        );
        let full = ping("ping -c 3 -i 0.01 -s 1472 -W 2 -q 192.0.2.1").unwrap();
        assert_eq!(
            full,
            Ping {
                address: HOST,
                count: Some(3),
                interval: Duration::from_millis(10),
                payload_bytes: 1472,
                patience: Duration::from_secs(2),
                quiet: true,
            }
        );
        refused(parse_ping, "ping", "`ping`", "IPv4 address");
        refused(
            parse_ping,
            "ping example.org",
            "`example.org`",
            "IPv4 address",
        );
        refused(parse_ping, "ping -c 0 192.0.2.1", "`0`", "from 1");
        refused(parse_ping, "ping -c 192.0.2.1", "`192.0.2.1`", "from 1");
        refused(parse_ping, "ping -s 1473 192.0.2.1", "`1473`", "1472");
        refused(parse_ping, "ping -i 0.0001 192.0.2.1", "-i", "0.001");
        refused(parse_ping, "ping -x 192.0.2.1", "`-x`", "-c COUNT");
        refused(parse_ping, "ping 192.0.2.1 3", "`3`", "end of the line");
    }

    #[test]
    fn udpecho_lines() {
        let udpecho = |line| parse_udpecho(Arguments::new(&words_of(line)));
        assert_eq!(udpecho("udpecho"), Ok(7));
        assert_eq!(udpecho("udpecho 5000"), Ok(5000));
        refused(parse_udpecho, "udpecho 0", "`0`", "from 1");
        refused(parse_udpecho, "udpecho echo", "`echo`", "from 1");
        refused(parse_udpecho, "udpecho 65536", "`65536`", "to 65535");
        refused(parse_udpecho, "udpecho 7 8", "`8`", "end of the line");
    }

    #[test]
    fn arp_lines() {
        let arp = |line| parse_arp(Arguments::new(&words_of(line)));
        assert_eq!(arp("arp"), Ok(Arp::ShowAll));
        assert_eq!(arp("arp -a"), Ok(Arp::ShowAll));
        assert_eq!(arp("arp 192.0.2.1"), Ok(Arp::Show(HOST)));
        assert_eq!(arp("arp -d 192.0.2.1"), Ok(Arp::Delete(HOST)));
        assert_eq!(arp("arp -d -a"), Ok(Arp::Flush));
        refused(parse_arp, "arp -d", "`-d`", "IPv4 address");
        refused(parse_arp, "arp -s x", "`-s`", "-d ADDRESS");
        refused(parse_arp, "arp -a x", "`x`", "end of the line");
    }

    #[test]
    fn netstat_lines() {
        let netstat = |line| parse_netstat(Arguments::new(&words_of(line)));
        assert_eq!(netstat("netstat -s"), Ok(Netstat::Statistics(None)));
        assert_eq!(
            netstat("netstat -s -p carp"),
            Ok(Netstat::Statistics(Some("carp".into())))
        );
        assert_eq!(
            netstat("netstat -p carp"),
            Ok(Netstat::Statistics(Some("carp".into())))
        );
        assert_eq!(netstat("netstat -i"), Ok(Netstat::Interfaces));
        assert_eq!(netstat("netstat -rn"), Ok(Netstat::Routes));
        assert_eq!(netstat("netstat -r -n"), Ok(Netstat::Routes));
        refused(parse_netstat, "netstat", "`netstat`", "-s");
        refused(parse_netstat, "netstat -s -i", "`-i`", "one of");
        refused(parse_netstat, "netstat -i -p x", "`-i`", "-s alone");
        refused(parse_netstat, "netstat -x", "`-x`", "-r");
    }

    #[test]
    fn route_lines() {
        let route = |line| parse_route(Arguments::new(&words_of(line)));
        let network = Ipv4Addr::new(198, 51, 100, 0);
        let any = Ipv4Addr::UNSPECIFIED;
        assert_eq!(route("route"), Ok(Route::Show));
        assert_eq!(route("route -n show"), Ok(Route::Show));
        assert_eq!(
            route("route add default 192.0.2.1"),
            Ok(Route::Add(any, 0, HOST))
        );
        assert_eq!(
            route("route add -net 198.51.100.0/24 192.0.2.1"),
            Ok(Route::Add(network, 24, HOST))
        );
        assert_eq!(route("route delete 192.0.2.1"), Ok(Route::Delete(HOST, 32)));
        refused(parse_route, "route add", "`add`", "default");
        refused(
            parse_route,
            "route add default",
            "`default`",
            "IPv4 address",
        );
        refused(
            parse_route,
            "route add 192.0.2.1/24 192.0.2.1",
            "`192.0.2.1/24`",
            "prefix",
        );
        refused(parse_route, "route delete x", "`x`", "network");
        refused(parse_route, "route flush", "`flush`", "show, add");
    }
}
