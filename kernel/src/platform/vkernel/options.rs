//! The command line, in the spirit of DragonFly's vkernel(7).
//!
//! Decision: `-e` takes the very words of the kernel's command line on hardware, one each time, so that what is written
//! for a machine works here.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

/// The least memory, in bytes.
const MIN_MEMORY_BYTES: usize = 16 << 20;
/// The most interfaces, as DragonFly's.
pub const MAX_INTERFACES: usize = 16;

const AFTER_HELP: &str = "\
Examples:
  vkernel                                     two CPUs, a prompt on this terminal
  vkernel -n 4 -m 1G -e hostname=daisy        four CPUs, a name
  vkernel -I lan/a.sock -e 'rc=ifconfig vke0 192.0.2.1/24'
                                              a port of the virtual LAN: ./run.sh lan lan a b
  vkernel -I tap:tap0=02:00:00:00:00:01       a tap device that you may open

On the console: ^\\ shows what every CPU does (help, cpus, trace, continue, reboot, quit).
Signals: TERM shuts down in order, and at once when it comes again; INT is ^C at the prompt; QUIT is ^\\.
Exit status: 0 powered off, 1 cannot start, 2 wrong command line, 3 a panic or `quit` in the debugger, 143 ended by
TERM before it was shut down.";

/// Anax as a process: boots to a prompt on this terminal. `poweroff` ends it.
#[derive(Parser, Debug)]
#[command(name = "vkernel", version, after_help = AFTER_HELP)]
pub struct Options {
    /// Virtual CPUs, each a thread of the host: 1 to 64
    #[arg(short = 'n', value_name = "CPUS", default_value = "2", value_parser = cpus)]
    pub cpus: usize,
    /// Memory: a number with K, M or G; at least 16M. The kernel gets no more
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
    #[arg(short = 'l', value_name = "map|any", default_value = "any")]
    pub pinning: Pinning,
    /// Keep the pid in this file, locked while the kernel lives
    #[arg(short = 'p', value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Say on stderr what is done to start
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Console commands to run at boot, one a line
    #[arg(long, value_name = "FILE")]
    pub rc: Option<PathBuf>,
    /// Write the binary trace to this file; `-e trace=on` records from the start
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// Where the CPUs' threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pinning {
    /// CPU n on core n, modulo their number.
    Map,
    /// Wherever the host likes.
    Any,
}

/// What an interface is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// The other end.
    pub end: End,
    /// The Ethernet address, if it was given.
    pub mac: Option<[u8; 6]>,
}

/// The other end of a cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A port of a virtual LAN.
    Socket(PathBuf),
    /// A tap device of the host.
    Tap(String),
}

impl Plug {
    fn parse(text: &str) -> Result<Self, String> {
        let (end, mac) = match text.rsplit_once('=') {
            Some((end, mac)) => (end, Some(parse_mac(mac)?)),
            None => (text, None),
        };
        let is_interface =
            |name: &str| !name.contains('/') && Path::new("/sys/class/net").join(name).exists();
        let end = match end.strip_prefix("tap:") {
            Some(name) => End::Tap(name.to_string()),
            None if is_interface(end) => End::Tap(end.to_string()),
            None => End::Socket(PathBuf::from(end)),
        };
        if let End::Tap(name) = &end
            && !(1..16).contains(&name.len())
        {
            return Err(format!("`{name}` is no interface's name (1 to 15 bytes)"));
        }
        Ok(Self { end, mac })
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let whole = mac.iter_mut().all(|byte| {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
        part.and_then(|part| u8::from_str_radix(part, 16).ok())
            .map(|value| *byte = value)
            .is_some()
    });
    if !whole || parts.next().is_some() {
        return Err(format!(
            "`{text}` is no Ethernet address; write it like 02:00:00:00:00:01"
        ));
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(format!(
            "{text} is no address of one card; begin it with 02"
        ));
    }
    Ok(mac)
}

fn cpus(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=64).contains(count));
    count.ok_or_else(|| "give 1 to 64 CPUs".to_string())
}

fn memory(text: &str) -> Result<usize, String> {
    let (number, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let bytes = number.parse::<usize>().ok();
    let bytes = bytes.and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if (MIN_MEMORY_BYTES..1 << 46).contains(&bytes) => Ok(bytes),
        Some(_) => Err("give at least 16M, and what the host has at most".to_string()),
        None => Err("give a number with K, M or G, such as 256M".to_string()),
    }
}

/// A word, quoted as the kernel's command line wants it.
fn environment_word(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
        return Err("give NAME=VALUE".to_string());
    }
    let quoted = |quote| value.len() >= 2 && value.starts_with(quote) && value.ends_with(quote);
    let plain = !value.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    if plain || quoted('"') || quoted('\'') {
        return Ok(text.to_string());
    }
    let quote = ['"', '\'']
        .into_iter()
        .find(|quote| !value.contains(*quote));
    let quote = quote.ok_or_else(|| format!("both kinds of quotes in the value of {name}"))?;
    Ok(format!("{name}={quote}{value}{quote}"))
}
