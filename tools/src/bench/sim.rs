//! `bench sim`: how much virtual time a core makes: steps of CPUs, and seconds of a CARP cluster with and without a client.
//!
//! One run at a time, so one core; the simulator times itself, from the first boot to the last power-off.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::report::Row;
use crate::host;
use crate::kernel;

/// The cluster of every row.
const CLUSTER: &[&str] = &[
    "--scenario",
    "carp",
    "--seed",
    "3",
    "--nodes",
    "3",
    "--cpus",
    "2",
    "--json",
];
/// The least that one core must make.
const STEPS_LIMIT: f64 = 2e6;
const QUIET_LIMIT: f64 = 5_000.0;
const PINGED_LIMIT: f64 = 50.0;

/// Measures everything `runs` times.
///
/// # Errors
/// The simulator did not run, or a promise was broken.
pub fn run(runs: u32) -> Result<Vec<Row>> {
    let sim = kernel::build_sim()?;
    let (mut steps, mut quiet, mut pinged) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        host::check_interrupt()?;
        let measure = |words: &[&str]| -> Result<(f64, f64)> {
            let output = Command::new(&sim).args(CLUSTER).args(words).output()?;
            if !output.status.success() {
                bail!(
                    "the simulator: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            let told: Value = serde_json::from_slice(&output.stdout)?;
            let number = |name: &str| told[name].as_f64().with_context(|| format!("no {name}"));
            let seconds = number("seconds")?;
            Ok((
                number("steps")? / seconds,
                number("virtual_ns")? / 1e9 / seconds,
            ))
        };
        quiet.push(measure(&["--peaceful", "--no-client", "--length", "50000"])?.1);
        let (stepped, virtual_seconds) =
            measure(&["--peaceful", "--ping", "1", "--length", "300"])?;
        steps.push(stepped);
        pinged.push(virtual_seconds);
    }
    let row = |name: &str, unit: &str, samples: &[f64], limit| {
        Row::new("sim", name, unit, samples).at_least(limit)
    };
    Ok(vec![
        row(
            "CPU steps, 3 nodes of 2 CPUs",
            "steps/s",
            &steps,
            STEPS_LIMIT,
        ),
        row("CARP without a client", "virtual s/s", &quiet, QUIET_LIMIT),
        row(
            "CARP, pinged each millisecond",
            "virtual s/s",
            &pinged,
            PINGED_LIMIT,
        ),
    ])
}
