//! `carp`: the demonstration, or its figures.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::bench::report;
use crate::carp::Node;
use crate::carp::outcome::{rows, table};
use crate::carp::screen::Screen;
use crate::carp::stage::{Cast, Stage};
use crate::host;
use crate::node::NodeKind;

/// Two nodes and a client on a virtual LAN: watch an address fail over.
#[derive(clap::Args)]
pub struct Arguments {
    /// What the two nodes run on, the preferred one first: vm or vkernel
    #[arg(long, default_value = "vm,vm", value_parser = node_kinds, value_name = "KIND,KIND")]
    nodes: NodeKinds,
    /// Sub-second timers (advbase 0)
    #[arg(long)]
    fast: bool,
    /// Print the figures as JSON, one object a line; the events go to standard error
    #[arg(long)]
    json: bool,
    /// Write everything that passes the LAN to this file (pcapng; one interface per port)
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Leave both consoles attached at the end
    #[arg(long)]
    keep: bool,
    /// Do all steps this often and print the figures with their limits
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// CPUs of each node
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
}

/// What each node runs on. A type of its own: clap takes an array for several values.
#[derive(Clone, Copy, Debug)]
struct NodeKinds([NodeKind; 2]);

fn node_kinds(text: &str) -> Result<NodeKinds, String> {
    let (first, second) = text
        .split_once(',')
        .ok_or("two kinds with a comma between them, such as vm,vkernel")?;
    Ok(NodeKinds([first.parse()?, second.parse()?]))
}

/// Does it. Status 0 only if every step ended with one answering master.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    host::catch_interrupt()?;
    let cast = Cast {
        nodes: arguments.nodes.0,
        cpus: arguments.cpus,
        fast: arguments.fast,
        pcap: arguments.pcap.clone(),
    };
    let mut demonstration = Stage::set_up(&cast, Screen::new(arguments.json))?;
    let opening = format!(
        "{} fails over between a and b; the client pings it every millisecond",
        demonstration.scenario.virtual_address
    );
    demonstration.screen.line(&opening);
    let mut runs = Vec::new();
    for number in 1..=arguments.runs {
        if arguments.runs > 1 {
            demonstration
                .screen
                .line(&format!("run {number} of {}", arguments.runs));
            demonstration.reset()?;
        }
        runs.push(demonstration.run()?);
    }
    demonstration.screen.clear();

    let scenario = demonstration.scenario.clone();
    if arguments.json || arguments.runs > 1 {
        report::print(&rows(&scenario, &runs), arguments.json)?;
    } else {
        println!();
        print!("{}", table(&runs[0]));
    }
    let problems = runs
        .iter()
        .flatten()
        .filter(|outcome| outcome.problem.is_some())
        .count();
    if let Some(path) = &arguments.pcap {
        eprintln!("anax: packets in {}", path.display());
    }
    if arguments.keep {
        keep(&mut demonstration)?;
    }
    if problems > 0 {
        eprintln!("anax: {problems} steps did not end with one answering master");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Both consoles, until `quit`: `a ifconfig carp0` types a command at node a.
fn keep(demonstration: &mut Stage) -> Result<()> {
    println!(
        "\nBoth nodes run on. `a COMMAND` or `b COMMAND` types at a node, `a kill`, `a start`; `quit` ends."
    );
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        print!("> ");
        std::io::stdout().flush()?;
        let line = loop {
            host::check_interrupt()?;
            match lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if line == "quit" {
            return Ok(());
        }
        let (name, command) = line.split_once(' ').unwrap_or((line, "ifconfig carp0"));
        let Some(node) = demonstration
            .nodes
            .iter_mut()
            .find(|node| node.name() == name)
        else {
            println!("there is `a COMMAND`, `b COMMAND`, `quit`");
            continue;
        };
        let answer = match command {
            "kill" => {
                node.kill();
                Ok(String::new())
            }
            "start" => node
                .start()
                .and_then(|()| node.wait_until_ready())
                .map(|()| String::new()),
            _ => node.command(command),
        };
        match answer {
            Ok(text) => println!("{}", text.trim_end()),
            Err(error) => println!("{error:#}"),
        }
    }
}
