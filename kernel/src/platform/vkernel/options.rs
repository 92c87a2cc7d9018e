//! The command line, in the spirit of DragonFly's vkernel(7).
//!
//! Decision: `-e` takes the very words of the kernel's command line on hardware, one each time, so that what is written
//! for a machine works here.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::path::PathBuf;

use clap::{Parser, value_parser};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

/// The least memory, and more than any host has.
const MEMORY_BYTES: core::ops::Range<usize> = 16 << 20..1 << 46;

const AFTER_HELP: &str = "\
Examples:
  vkernel                                     two CPUs, a prompt on this terminal
  vkernel -n 4 -m 1G -e hostname=daisy        four CPUs, a name
  vkernel -I lan/a.sock -e 'rc=ifconfig vke0 192.0.2.1/24'
                                              a port of the virtual LAN: ./run.sh lan lan a b
  vkernel -I tap:tap0=02:00:00:00:00:01       a tap device that you may open

On the console: ^\\ shows what every CPU does (help, cpus, trace, continue, reboot, quit).
Signals: TERM shuts down in order, and at once when it comes again; INT is ^C at the prompt; QUIT is ^\\.
Exit status: 0 powered off; 1 cannot start; 2 wrong command line; 3 a panic, or `quit` in the debugger; 143 ended by
TERM before it was shut down.";

/// Anax as a process: boots to a prompt on this terminal. `poweroff` ends it.
#[derive(Parser, Debug)]
#[command(name = "vkernel", version, after_help = AFTER_HELP)]
pub struct Options {
    /// Virtual CPUs, each a thread of the host: 1 to 64
    #[arg(short = 'n', value_name = "CPUS", default_value = "2", value_parser = value_parser!(u16).range(1..=64))]
    pub cpus: u16,
    /// Memory: a number with K, M or G; at least 16M, and 1M a CPU. The kernel gets no more
    #[arg(short = 'm', value_name = "SIZE", default_value = "256M", value_parser = memory)]
    pub memory_bytes: usize,
    /// A network interface, at most 16: the socket of a LAN's port, or a tap device; without MAC a local address made
    /// of the host's name, the pid and the number of the interface
    #[arg(short = 'I', value_name = "SOCKET|tap:NAME[=MAC]", value_parser = Plug::parse)]
    pub interfaces: Vec<Plug>,
    /// A word for the kernel: hostname=, rc=, trace=, panic=reboot|halt|poweroff, quiet
    #[arg(short = 'e', value_name = "NAME=VALUE", value_parser = environment_word)]
    pub environment: Vec<String>,
    /// Bind CPU n to core n of the host (map), or to none
    #[arg(short = 'l', value_name = "map|any", default_value = "any", value_parser = ["map", "any"])]
    pub pinning: String,
    /// Keep the pid in this file, locked while the kernel lives
    #[arg(short = 'p', value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Say on stderr what it is started with
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Console commands to run at boot, one a line
    #[arg(long, value_name = "FILE")]
    pub rc: Option<PathBuf>,
    /// Write the binary trace to this file while `trace stream` is on
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// What an interface is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// A tap device's name, or else a socket's path.
    pub name: String,
    /// It is a tap device of the host, no socket.
    pub is_tap: bool,
    /// The Ethernet address, if it was given.
    pub mac: Option<[u8; 6]>,
}

impl Plug {
    fn parse(text: &str) -> Result<Self, String> {
        let (end, mac) = text
            .rsplit_once('=')
            .map_or((text, None), |(end, mac)| (end, Some(mac)));
        let mac = mac.map(|mac| {
            parse_mac(mac).ok_or_else(|| {
                format!("`{mac}` is no card's address; write it like 02:00:00:00:00:01")
            })
        });
        let tap = end
            .strip_prefix("tap:")
            .or(is_interface(end).then_some(end));
        if tap.is_some_and(|name| !(1..16).contains(&name.len())) {
            return Err(format!("`{end}` is no interface's name (1 to 15 bytes)"));
        }
        if end.is_empty() {
            return Err("give the socket of a LAN's port, or tap:NAME".to_string());
        }
        Ok(Self {
            name: tap.unwrap_or(end).to_string(),
            is_tap: tap.is_some(),
            mac: mac.transpose()?,
        })
    }
}

/// Whether the host has a network interface of this name.
pub(super) fn is_interface(name: &str) -> bool {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None);
    any.is_ok_and(|any| name_to_index(any, name).is_ok())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|part| u8::from_str_radix(part, 16));
    let mac: [u8; 6] = bytes.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

fn memory(text: &str) -> Result<usize, String> {
    let unit = text
        .find(['k', 'K', 'm', 'M', 'g', 'G'])
        .unwrap_or(text.len());
    let shift = match &text[unit..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err("give a number with K, M or G, such as 256M".to_string()),
    };
    let bytes = text[..unit].parse::<usize>().ok();
    let bytes = bytes.and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| MEMORY_BYTES.contains(bytes))
        .ok_or_else(|| "give at least 16M and at most what the host has".to_string())
}

/// A word, quoted as the kernel's command line wants it.
fn environment_word(text: &str) -> Result<String, String> {
    let special = |c: char| c.is_whitespace() || c == '"' || c == '\'';
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() || name.contains(special) {
        return Err("give NAME=VALUE".to_string());
    }
    let quoted = |quote| value.len() >= 2 && value.starts_with(quote) && value.ends_with(quote);
    if !value.contains(special) || quoted('"') || quoted('\'') {
        return Ok(text.to_string());
    }
    match ['"', '\'']
        .into_iter()
        .find(|quote| !value.contains(*quote))
    {
        Some(quote) => Ok(format!("{name}={quote}{value}{quote}")),
        None => Err(format!("both kinds of quotes in the value of {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units_and_limits() {
        assert_eq!(memory("16M"), Ok(16 << 20));
        assert_eq!(memory("1g"), Ok(1 << 30));
        assert_eq!(memory("16384K"), Ok(16 << 20));
        assert_eq!(memory("16777216"), Ok(16 << 20));
        for wrong in [
            "",
            "M",
            "15M",
            "x",
            "16MM",
            "16T",
            "-1",
            "99999999999999999999G",
            "99999999999G",
        ] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn interfaces_are_sockets_or_taps_with_an_address_or_without() {
        let parsed = |text| {
            let plug = Plug::parse(text).unwrap();
            (plug.name, plug.is_tap, plug.mac)
        };
        let mac = Some([2, 0, 0, 0, 0, 0xaf]);
        assert_eq!(
            parsed("lan/a.sock"),
            ("lan/a.sock".to_string(), false, None)
        );
        assert_eq!(parsed("a=2:0:0:0:0:af"), ("a".to_string(), false, mac));
        assert_eq!(
            parsed("tap:t=02:00:00:00:00:af"),
            ("t".to_string(), true, mac)
        );
        // Every Linux has it.
        assert_eq!(parsed("lo"), ("lo".to_string(), true, None));
        for wrong in [
            "a=",
            "a=2:0:0:0:0",
            "a=2:0:0:0:0:0:0",
            "a=3:0:0:0:0:0",
            "a=0:0:0:0:0:0",
            "tap:",
            "tap:0123456789abcdef",
        ] {
            assert!(Plug::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_reach_the_kernel_as_they_were_meant() {
        use crate::config::Environment;
        for (text, name, value) in [
            ("hostname=a", "hostname", "a"),
            ("quiet", "quiet", ""),
            ("rc=echo a; echo 'b c'", "rc", "echo a; echo 'b c'"),
            ("rc='echo a; echo \"b\"'", "rc", "echo a; echo \"b\""),
            ("x=say \"it\"", "x", "say \"it\""),
        ] {
            let environment = Environment::parse(&environment_word(text).unwrap());
            assert_eq!(environment.get(name), Some(value), "{text}");
        }
        for wrong in ["", "=a", "a b=c", "x= \"'"] {
            assert!(environment_word(wrong).is_err(), "{wrong}");
        }
    }
}
