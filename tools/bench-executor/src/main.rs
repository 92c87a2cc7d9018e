//! `bench-executor`: the executor beside tokio, glommio and the bare hardware, in one program.
//!
//! Every subject of a row runs the same traffic on fresh, pinned threads, and they take turns: one
//! round measures each of them once, so that a host that slows down slows all. A figure is the
//! median of the rounds. Each peer is configured in its own favour, and a module says how. Built
//! with the kernel's profile, because that is how the executor runs.

mod allocations;
mod bare;
mod glommio_peer;
mod ours;
mod rows;
mod tokio_peer;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tools::bench::report;

/// Measures the executor beside its peers. Status 0 only if every figure keeps to its limit.
#[derive(Parser)]
struct Arguments {
    /// Print JSON, one object a row
    #[arg(long)]
    json: bool,
    /// How often each subject is measured
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// At most 15 short rounds: for a look, not for a claim
    #[arg(long)]
    quick: bool,
    /// Only the rows whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Only the subject of this name, without judging it: for a profiler
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    bare::raise_locked_memory();
    // Many short samples rather than a few long ones: on a shared host the time to wake a sleeping core jumps between
    // levels, and a median over few samples jumps with it.
    let (rounds, sample_ns) = if arguments.quick {
        (arguments.rounds.min(15), 2e6)
    } else {
        (arguments.rounds, 5e6)
    };
    let mut rows = Vec::new();
    for case in &rows::CASES {
        if arguments
            .only
            .as_ref()
            .is_some_and(|text| !case.row.contains(text.as_str()))
        {
            continue;
        }
        rows.extend(case.measure(rounds, sample_ns, arguments.subject.as_deref()));
    }
    report::print(&rows, arguments.json)?;
    let good = rows.iter().all(|row| row.ok);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
