//! `bench`: prints the figures of one bench, or of all.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::error::ErrorKind;

use crate::bench::report;
use crate::bench::{boot, lan, node, sim, vkernel};
use crate::host;
use crate::node::NodeKind;

/// Boots measured in each case.
const BOOTS: u32 = 10;
/// Starts and failovers of a vkernel.
const STARTS: u32 = 20;
/// Runs of the kernel's own bench in a VM of few CPUs.
const RUNS_IN_A_VM: u32 = 5;

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
    /// The executor beside its peers and the bare hardware, in the hosted build
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
    /// For `executor`: inside a VM, in cycles and interrupts, with up to 64 CPUs, instead of beside its peers
    #[arg(long)]
    qemu: bool,
    /// For `executor`: --quick, --curves, --only TEXT, --subject NAME, --svg FILE
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTIONS"
    )]
    options: Vec<String>,
}

/// Does it. Status 0 only if every figure keeps to its limit.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    if arguments.bench != Some(Bench::Executor)
        && let Some(option) = arguments.options.first()
    {
        let message = format!("only `bench executor` has an option {option}\n");
        clap::Error::raw(ErrorKind::UnknownArgument, message).exit();
    }
    if arguments.bench != Some(Bench::Executor) && arguments.qemu {
        let message = "only `bench executor` has an option --qemu\n";
        clap::Error::raw(ErrorKind::ArgumentConflict, message).exit();
    }
    if arguments.qemu
        && let Some(option) = arguments.options.first()
    {
        let message = format!("`bench executor --qemu` has no option {option}\n");
        clap::Error::raw(ErrorKind::ArgumentConflict, message).exit();
    }
    host::catch_interrupt()?;
    if arguments.qemu {
        let runs = arguments.runs.unwrap_or(RUNS_IN_A_VM);
        let rows = node::run(NodeKind::VM, runs, |what| {
            eprintln!("bench executor: {what}")
        })?;
        report::print(&rows, arguments.json)?;
        let good = rows.iter().all(|row| row.ok);
        return Ok(ExitCode::from(u8::from(!good)));
    }
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
    report::print(&rows, arguments.json)?;
    let mut good = rows.iter().all(|row| row.ok);
    if arguments.bench.is_none_or(|bench| bench == Bench::Executor) {
        good &= executor(&arguments)?;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The executor's bench is a package of its own, so that nobody else builds its peers; it runs as
/// the kernel does, with the kernel's profile, and prints its rows itself. True if all are good.
fn executor(arguments: &Arguments) -> Result<bool> {
    eprintln!("bench executor: building");
    let cargo = std::env::var("ANAX_CARGO").unwrap_or("cargo".to_owned());
    let mut command = Command::new(cargo);
    command.current_dir(host::checkout()).stdin(Stdio::null());
    command.args([
        "run",
        "--quiet",
        "--locked",
        "--profile",
        "kernel",
        "-p",
        "bench-executor",
        "--",
    ]);
    if arguments.json {
        command.arg("--json");
    }
    if let Some(rounds) = arguments.runs {
        command.args(["--rounds", &rounds.to_string()]);
    }
    let status = command.args(&arguments.options).status();
    Ok(status
        .context("cannot run cargo; start this by ./run.sh")?
        .success())
}
