//! `lan`: the virtual LAN alone, for nodes of your own, with its faults at your fingertips.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host;
use crate::lan::{Lan, Link};

const HELP: &str = "\
  stats                 counters of every port
  cut PORT              the cable is out      join PORT    it is in again, without faults
  loss PORT PERCENT     lose frames           delay PORT MILLISECONDS
  part PORT NUMBER      put the port into another part of a divided LAN (0 = the usual one)
  quit";

/// Run the virtual LAN alone: a switch with a socket per port, commands on standard input.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where the sockets go: DIRECTORY/PORT.sock (a short path: sockets allow 107 bytes)
    directory: PathBuf,
    /// The ports' names
    #[arg(required = true)]
    ports: Vec<String>,
    /// Write everything that passes to this file (pcapng)
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

/// Does it until `quit`, the end of input, or Ctrl-C.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    host::catch_interrupt()?;
    std::fs::create_dir_all(&arguments.directory)
        .with_context(|| format!("cannot create {}", arguments.directory.display()))?;
    let lan = Lan::start(&arguments.directory, arguments.pcap.as_deref())?;
    for (name, number) in arguments.ports.iter().zip(1..) {
        lan.add_port(name)?;
        println!("{}", start_lines(name, number, &lan.socket(name)));
    }
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        // Without a terminal the end of input is no wish to stop: run until a signal.
        if !std::io::stdin().is_terminal() {
            loop {
                thread::park();
            }
        }
    });
    println!("{HELP}");
    loop {
        host::check_interrupt()?;
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) if line.trim() == "quit" => return Ok(ExitCode::SUCCESS),
            Ok(line) => match obey(&lan, &line) {
                Ok(answer) => print!("{answer}"),
                Err(error) => println!("{error:#}"),
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// What starts a node at this port, a VM or a vkernel. VMs have a number each: two nodes with one MAC address
/// would take each other's frames. A vkernel makes an address of its own.
fn start_lines(name: &str, number: usize, socket: &Path) -> String {
    let socket = socket.display();
    format!(
        "./run.sh boot --net {socket} --net-number {number} --append hostname={name}    # or:\n\
         ./run.sh vkernel -I {socket} -e hostname={name}"
    )
}

/// Carries out one line.
fn obey(lan: &Lan, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let change = |name: &str, change: &dyn Fn(&mut Link)| -> Result<String> {
        let port = lan.find(name)?;
        let mut link = lan.link(port)?;
        change(&mut link);
        lan.set_link(port, link)?;
        Ok(String::new())
    };
    match words[..] {
        [] => Ok(String::new()),
        ["stats"] => {
            let ports = lan.counters()?;
            Ok(ports
                .iter()
                .map(|(name, counters)| format!("{name}: {counters}\n"))
                .collect())
        }
        ["cut", port] => change(port, &|link| link.cut = true),
        ["join", port] => change(port, &|link| *link = Link::default()),
        ["loss", port, percent] => {
            let percent: f64 = percent.parse().context("loss is a percentage")?;
            if !(0.0..=100.0).contains(&percent) {
                bail!("loss is from 0 to 100");
            }
            change(port, &|link| link.loss_ppm = (percent * 10_000.0) as u32)
        }
        ["delay", port, delay] => {
            let delay = delay
                .parse()
                .map(Duration::from_millis)
                .context("delay is in ms")?;
            change(port, &|link| link.delay = delay)
        }
        ["part", port, number] => {
            let part = number.parse().context("a part is a number from 0 to 255")?;
            change(port, &|link| link.part = part)
        }
        _ => bail!("not understood; there is:\n{HELP}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_gets_a_node_with_a_name_and_a_mac_address_of_its_own() {
        let lines = start_lines("b", 2, Path::new("/run/lan/b.sock"));
        assert_eq!(
            lines,
            "./run.sh boot --net /run/lan/b.sock --net-number 2 --append hostname=b    # or:\n\
             ./run.sh vkernel -I /run/lan/b.sock -e hostname=b"
        );
    }

    #[test]
    fn lines_change_links_and_bad_lines_say_what_there_is() {
        let directory = host::socket_directory().unwrap();
        let lan = Lan::start(directory.path(), None).unwrap();
        let port = lan.add_port("a").unwrap();
        obey(&lan, "loss a 2.5").unwrap();
        obey(&lan, "delay a 7").unwrap();
        assert_eq!(lan.link(port).unwrap().loss_ppm, 25_000);
        assert_eq!(lan.link(port).unwrap().delay, Duration::from_millis(7));
        obey(&lan, "join a").unwrap();
        assert_eq!(lan.link(port).unwrap(), Link::default());
        assert!(obey(&lan, "stats").unwrap().starts_with("a: received 0"));
        for bad in ["cut z", "loss a 101", "delay a soon", "part a 900", "dance"] {
            assert!(obey(&lan, bad).is_err(), "{bad}");
        }
    }
}
