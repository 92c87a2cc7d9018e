//! `bench`: prints the figures of one bench, or of all.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::bench::report::{self, Row};
use crate::bench::{boot, lan, sim, vkernel};
use crate::host;

/// Boots measured in each case.
const BOOTS: u32 = 10;
/// Starts and failovers of a vkernel.
const STARTS: u32 = 20;

/// The benches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// QEMU's start to the prompt
    Boot,
    /// The virtual LAN beside a bare socket
    Lan,
    /// The kernel as a process: start, idling, failover, UDP echo
    Vkernel,
    /// The simulator: virtual time made by one core
    Sim,
    /// The executor beside tokio and glommio, in the hosted build
    Executor,
}

/// Measure: each figure stands beside a peer measured in the same run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Which; all if none is named
    bench: Option<Bench>,
    /// Print JSON, one object a row
    #[arg(long)]
    json: bool,
    /// How often each thing is measured; each bench has its own number otherwise
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
}

/// Does it. Status 0 only if every figure keeps to its limit.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    host::catch_interrupt()?;
    let mut rows = Vec::new();
    if arguments.bench.is_none_or(|bench| bench == Bench::Boot) {
        rows.extend(boot::run(arguments.runs.unwrap_or(BOOTS), |what| {
            eprintln!("bench boot: {what}")
        })?);
    }
    if arguments.bench.is_none_or(|bench| bench == Bench::Lan) {
        rows.extend(lan::run(arguments.runs.unwrap_or(BOOTS))?);
    }
    if arguments.bench.is_none_or(|bench| bench == Bench::Vkernel) {
        rows.extend(vkernel::run(arguments.runs.unwrap_or(STARTS), |what| {
            eprintln!("bench vkernel: {what}")
        })?);
    }
    if arguments.bench.is_none_or(|bench| bench == Bench::Sim) {
        rows.extend(sim::run(arguments.runs.unwrap_or(BOOTS))?);
    }
    if arguments.bench.is_none_or(|bench| bench == Bench::Executor) {
        rows.extend(executor(arguments.runs)?);
    }
    report::print(&rows, arguments.json)?;
    let good = rows.iter().all(|row| row.ok);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The executor's bench is a package of its own, so that nobody else builds its peers; it runs as
/// the kernel does, with the kernel's profile, and prints JSON rows.
fn executor(rounds: Option<u32>) -> Result<Vec<Row>> {
    eprintln!("bench executor: building");
    let cargo = std::env::var("ANAX_CARGO").unwrap_or("cargo".to_owned());
    let mut command = Command::new(cargo);
    command
        .current_dir(host::checkout())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    command.args([
        "run",
        "--quiet",
        "--locked",
        "--profile",
        "kernel",
        "-p",
        "bench-executor",
    ]);
    command.args(["--", "--json"]);
    if let Some(rounds) = rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    let output = command
        .output()
        .context("cannot run cargo; start this by ./run.sh")?;
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let rows = lines
        .map(|line| serde_json::from_str(line).context("the executor's bench printed a bad row"))
        .collect::<Result<Vec<Row>>>()?;
    // Its exit status tells of limits too, which the rows tell better.
    if rows.is_empty() {
        bail!("the executor's bench failed (see above)");
    }
    Ok(rows)
}
