//! `bench`: prints the figures of one bench, or of all.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::bench::boot;
use crate::bench::report::{self, Row};
use crate::host;

/// The benches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// QEMU's start to the prompt
    Boot,
    /// The executor beside tokio and glommio, in the hosted build
    Executor,
}

/// Measure: each figure stands beside a peer measured in the same run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Which; both if none is named
    bench: Option<Bench>,
    /// Print JSON, one object a row
    #[arg(long)]
    json: bool,
    /// How often each thing is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

/// Does it. Status 0 only if every figure keeps to its limit.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    host::catch_interrupt()?;
    let mut rows = Vec::new();
    if arguments.bench.is_none_or(|bench| bench == Bench::Boot) {
        rows.extend(boot::run(arguments.runs, |what| {
            eprintln!("bench boot: {what}")
        })?);
    }
    if arguments.bench.is_none_or(|bench| bench == Bench::Executor) {
        rows.extend(executor()?);
    }
    report::print(&rows, arguments.json)?;
    let good = rows.iter().all(|row| row.ok);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The executor's bench is a program of its own crate, for it must not see anything of this one; it
/// prints JSON rows.
fn executor() -> Result<Vec<Row>> {
    eprintln!("bench executor: building");
    let cargo = std::env::var("ANAX_CARGO").unwrap_or("cargo".to_owned());
    let output = Command::new(cargo)
        .current_dir(host::checkout())
        .args([
            "bench", "--quiet", "--locked", "-p", "executor", "--bench", "executor", "--",
        ])
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo; start this by ./run.sh")?;
    if !output.status.success() {
        bail!("the executor's bench failed (see above)");
    }
    let text = String::from_utf8(output.stdout)?;
    let rows = text.lines().filter(|line| line.starts_with('{'));
    rows.map(|line| serde_json::from_str(line).context("the bench printed a bad row"))
        .collect()
}
